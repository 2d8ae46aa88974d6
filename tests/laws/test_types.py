"""Type and device of the state are kept, no global random state is touched, and modules reload bit-equal."""

from __future__ import annotations

import pytest
import torch
from laws.cases import (
    FLOW,
    INSTANCES,
    NOISES,
    ORDERS,
    SCHEDULES,
    SCHEMA,
    STOCHASTIC,
    Linear,
    gaussian,
    guidance_stacks,
    heads,
    labels,
    mixture,
)  # fmt: skip
from safetensors.torch import load, save
from torch import nn

from condiff import nn as nets
from condiff import objectives, oracles, process
from condiff.core import Condition, Moments, RowRng, SharedRng, instant, sample, trajectory
from condiff.process import Absorbing, Flow, Gaussian, Interpolant, Preconditioned, Straight, V
from condiff.solvers import Implicit, Jump

SOLVERS = {**{name: solver for name, (solver, _) in ORDERS.items()}, **STOCHASTIC, "Implicit": Implicit(2)}


class Echo(nn.Module):
    """A net that answers in its own type, whatever it is asked in."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x, t, cond):
        return torch.tanh(x).to(self.dtype)


@pytest.mark.parametrize("answer", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_keep_the_type_of_the_state(solver, dtype, answer):
    net = Preconditioned(Echo(answer), FLOW, V(), sigma_data=0.5)
    grid = torch.linspace(0.9, 0.2, 4, dtype=torch.float64)
    for nodes in (grid, grid[:, None].expand(4, 2)):
        for state in trajectory(FLOW, net, solver, torch.ones(2, 3, dtype=dtype), nodes, rng=RowRng(0, range(2))):
            assert state.x.dtype == dtype
            leaves = {name: leaf.dtype for name, leaf in state.memory.items()}
            assert all(kind == (torch.float64 if name.startswith("time") else dtype) for name, kind in leaves.items())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_stay_on_the_device(solver):
    """`meta` is a device without numbers: a tensor made elsewhere, or a value read back, is an error there."""
    net = Preconditioned(Echo(torch.float32), FLOW, V(), sigma_data=0.5)
    x, grid = torch.ones(2, 3, device="meta"), torch.linspace(0.9, 0.2, 4, dtype=torch.float64)
    for state in trajectory(FLOW, net, solver, x, grid, rng=RowRng(0, range(2), device="meta")):
        assert state.x.device.type == "meta"
        assert all(leaf.device.type == "meta" for leaf in state.memory.values())


def test_importance_follows_its_times_to_their_device():
    law = process.Importance((1.0, 3.0))
    u = torch.empty(3, device="meta", dtype=torch.float64)
    assert law.quantile(u, Flow()).device.type == law.weight(u).device.type == "meta"


def everything_that_draws():
    rows = RowRng(0, range(3))
    x, t, cond = torch.zeros(3, 2), torch.full((3,), 0.5), labels(0, 1, 1)
    for law in NOISES.values():
        Gaussian(Flow(), law).draw(x, t, rng=rows)
        Gaussian(Flow(), law).start((3, 2), rng=rows)
    tokens = Absorbing(3)
    draw = tokens.draw(torch.zeros(3, 4, dtype=torch.int64), t, rng=rows)
    table = oracles.TokenTable(tokens, torch.tensor([[0, 1, 2, 0]]), torch.tensor([1.0]))
    tokens.reverse(draw.x, t, t * 0.5, table(draw.x, t, None), eta=0.5, rng=rows)
    Interpolant(Straight(process.Brownian()), process.Normal()).draw(x, t, rng=rows)
    objectives.Unpaired(objectives.Denoising(FLOW, V()), ("label",))(
        lambda x, t, c: Moments({"data": x, "noise": x}), x, cond, rng=rows
    )
    cond.drop({"label": 0.5}, rng=rows)
    gaussian(FLOW).sample(3, rng=rows)
    mixture(FLOW).sample(3, rng=rows)
    SharedRng(0).gamma(0.5, (3,))
    for target in (process.V(), process.Data()):
        net = Preconditioned(Linear(), FLOW, target)
        objectives.Dropping(objectives.Denoising(FLOW, target), {"label": 0.5})(net, x.double(), cond, rng=rows)
    objectives.MaskedTokens(tokens)(table, draw.latents["data"], None, rng=rows)
    for stack in guidance_stacks(FLOW).values():
        for solver in SOLVERS.values():
            source = RowRng(0, range(3), dtype=torch.float64)
            list(trajectory(FLOW, stack, solver, x.double(), torch.tensor([0.9, 0.5, 0.2]), cond=cond, rng=source))


def test_no_global_random_state_is_touched():
    before = torch.get_rng_state()
    everything_that_draws()
    assert torch.equal(before, torch.get_rng_state())


def test_the_global_seed_does_not_matter():
    drawn = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Preconditioned(Linear(), FLOW, V())
            source = RowRng(3, range(2), dtype=torch.float64)
            drawn.append(sample(FLOW, net, Jump(1.0), (2, 2), torch.linspace(1, 0, 4), rng=source))
    assert torch.equal(*drawn)


def net_of(name, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {
            "Preconditioned": lambda: Preconditioned(Linear(seed=seed), FLOW, V(), sigma_data=0.5),
            "Heads": lambda: heads(seed=seed),
            "MLP": lambda: nets.MLP(6, 16, 1, schema=SCHEMA),
            "UNet": lambda: nets.UNet(
                nets.Grid(1, 2), nets.UNetSize((8, 16), embed_width=16, head_width=8), schema=SCHEMA
            ),
            "DiT": lambda: nets.DiT(nets.Grid(1, 2), nets.DiTSize(16, 1, head_width=8), patch=2, schema=SCHEMA),
        }[name]()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("name", ["Preconditioned", "Heads", "MLP", "UNet", "DiT"])
def test_state_dict_round_trip(name):
    """Everything a module needs is in its tensors: a differently seeded twin becomes it, through bytes on disk."""
    wide = name in ("Preconditioned", "Heads")
    shape = (2, 2) if wide else (2, 6) if name == "MLP" else (2, 1, 8, 8)
    x = RowRng(0, range(2), dtype=torch.float64 if wide else torch.float32).normal(shape)
    cond = Condition.of(label=torch.tensor([0, 1]), size=torch.tensor([[0.1, 0.2], [0.3, -1.0]]))
    t = torch.tensor([0.3, 0.7])

    def answer(module):
        out = module(x, t, cond)
        return out if isinstance(out, torch.Tensor) else torch.cat([out.parts["data"], out.parts["noise"]])

    one, other = net_of(name, 0), net_of(name, 1)
    with torch.no_grad():
        assert not torch.equal(answer(one), answer(other))
        other.load_state_dict(load(save(one.state_dict())), strict=True)
        assert torch.equal(answer(one), answer(other))


def test_unmasked_reloads():
    net = INSTANCES["Unmasked"]
    twin = process.Unmasked(IdEmbedding(), Absorbing(3))
    one = process.Unmasked(IdEmbedding(), Absorbing(3))
    with torch.random.fork_rng(devices=[]):
        nn.init.normal_(one.net.table.weight)
    twin.load_state_dict(load(save(one.state_dict())))
    x = torch.tensor([[0, 3, 2, 3]])
    logits = twin(x, instant(0.5), None).logits
    assert torch.equal(logits, one(x, instant(0.5), None).logits)
    # Visible tokens are certain, and the mask's row is a distribution over the vocabulary without the mask.
    assert logits.shape == (1, 4, 3)
    assert logits[0, 0].tolist() == [0.0, -torch.inf, -torch.inf]
    torch.testing.assert_close(logits[0, 1].exp().sum(), torch.tensor(1.0))
    assert isinstance(net, process.Unmasked)


class IdEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x, t, cond):
        return self.table(x)


def test_processes_keep_the_type_of_their_data():
    for schedule in SCHEDULES.values():
        for dtype in (torch.float32, torch.float64):
            draw = Gaussian(schedule).draw(torch.zeros(2, 3, dtype=dtype), torch.full((2,), 0.5), rng=RowRng(0, (0, 1)))
            assert draw.x.dtype == draw.latents["noise"].dtype == dtype
