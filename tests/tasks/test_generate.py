"""What users ask for becomes conditions, solvers and samples; nonsense is refused in one sentence."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from condiff import recipes
from condiff.codecs import Identity, Standardize
from condiff.core import ClassLabel, Condition, Embeddings, Picture, RowRng, System, TokenIds, Vector
from condiff.core.drivers import sample as run
from condiff.guidance import CFG, Autoguidance, GivenTokens
from condiff.nn import EmbeddingSpace
from condiff.objectives import Denoising
from condiff.oracles import GaussianData
from condiff.process import (
    VP,
    Embedded,
    Flow,
    FlowTime,
    Gaussian,
    Interpolant,
    LogLinear,
    Preconditioned,
    Rounding,
    Straight,
    Times,
    Uniform,
    Velocity,
)  # fmt: skip
from condiff.solvers import Jump
from condiff.tasks import SOLVERS, batches, condition_of, sample, solver_named
from condiff.tasks.generate import evaluating, suits

PROCESS = Gaussian(Flow())


class Pull(nn.Module):
    def forward(self, x, t, cond):
        if cond is None:
            return x
        return x + (cond.values["label"] * cond.present["label"]).to(x.dtype).reshape(-1, 1)


def system(schema=None, data=None, scale=1.0):
    schema = {"label": ClassLabel(3, ("cat", "dog", "owl"))} if schema is None else schema
    return System(
        PROCESS, Preconditioned(Pull(), PROCESS, Velocity()), Denoising(PROCESS, Velocity()), Jump(1.0),
        Standardize((1.0,), (2.0,)), Times(Uniform(), Flow()), (2,), schema, num_steps=3, guidance_scale=scale,
        data=data or {},
    )  # fmt: skip


def test_classes_by_name_number_and_turn():
    for given, expected in (
        (None, [1, 2, 0, 1]), ({"label": "dog"}, [1] * 4), ({"label": ["owl", 0]}, [0, 2, 0, 2]),
        ({"label": "2"}, [2] * 4),
    ):  # fmt: skip
        cond = condition_of(system(), given, range(1, 5))
        assert cond.values["label"].tolist() == expected
        assert cond.present["label"].all()
    assert not condition_of(system(), {}, range(2)).present["label"].any()


def test_vectors_speak_in_the_units_of_the_file():
    facts = {"meta": {"conditions": {"size": {"mean": [10.0, 0.0], "std": [2.0, 1.0]}}}}
    made = system({"size": Vector(2)}, facts)
    assert condition_of(made, {"size": [12.0, 3.0]}, range(2)).values["size"].tolist() == [[1.0, 3.0]] * 2
    both = condition_of(made, {"size": [[12.0, 3.0], [10.0, 0.0]]}, range(3)).values["size"]
    assert both.tolist() == [[1.0, 3.0], [0.0, 0.0], [1.0, 3.0]]
    one = system({"size": Vector(1)})
    assert condition_of(one, {"size": 0.5}, range(2)).values["size"].tolist() == [[0.5], [0.5]]
    assert condition_of(one, {"size": [0.5, 1.5]}, range(3)).values["size"].tolist() == [[0.5], [1.5], [0.5]]


def test_tokens_stay_integers_and_one_value_is_one_value():
    made = system({"text": TokenIds(3, 9), "set": Embeddings(2, 2)})
    cond = condition_of(made, {"text": [1, 2, 3], "set": [[1.0, 2.0], [3.0, 4.0]]}, range(2))
    assert cond.values["text"].tolist() == [[1, 2, 3]] * 2
    assert cond.values["text"].dtype == torch.int64
    assert cond.values["set"].shape == (2, 2, 2)
    turns = condition_of(made, {"text": [[1, 2, 3], [4, 5, 6]]}, range(3))
    assert turns.values["text"].tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    assert not turns.present["set"].any()


@pytest.mark.parametrize(
    ("schema", "given", "message"),
    [
        (None, {"labl": "cat"}, "no condition named 'labl'; did you mean 'label'"),
        (None, {"zzzz": 1}, r"no condition named 'zzzz'\. This system has label"),
        (None, {"label": "catt"}, "did you mean 'cat'"),
        (None, {"label": "qqqq"}, r"no class 'qqqq'\. Classes are cat, dog, owl"),
        (None, {"label": 3}, "classes 0 to 2, got 3"),
        (None, {"label": -1}, "classes 0 to 2, got -1"),
        (None, {"label": True}, "no class True"),
        (None, {"label": []}, "empty list"),
        ({"size": Vector(2)}, {"size": [1.0, 2.0, 3.0]}, "has 2 numbers"),
        ({"size": Vector(2)}, {"size": 1.0}, r"needs a value of shape \(2,\)"),
        ({"size": Vector(1)}, {"size": float("nan")}, "finite"),
        ({"size": Vector(1)}, {"size": []}, "needs a value"),
        ({"text": TokenIds(3, 9)}, {"text": 4}, "needs a value of shape"),
        ({"picture": Picture(2)}, {"picture": 1.0}, "needs a value of shape"),
        ({}, {"label": 1}, "takes no condition"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(schema, given, message):
    with pytest.raises(ValueError, match=message):
        condition_of(system(schema), given, range(2))


TOKENS = {"first-hitting", "ordered", "token-euler"}


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in TOKENS])
def test_every_solver_name_samples(name):
    first = sample(system(), num_samples=2, solver=name, num_steps=2)
    assert first.shape == (2, 2)
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, sample(system(), num_samples=2, solver=solver_named(name), num_steps=2))


def test_solvers_of_another_process_are_refused_with_those_that_suit():
    for name in TOKENS:
        with pytest.raises(ValueError, match=f"solver {name} does not suit .* Gaussian; these do: adams2,"):
            sample(system(), num_samples=1, solver=name)
    text = recipes.text(length=4, width=32, depth=1)
    assert [name for name in SOLVERS if suits(solver_named(name), text.process)] == [
        "ddim", "ddpm", "first-hitting", "ordered", "token-euler",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Absorbing; these do: ddim, ddpm, first-hitting"):
        sample(text, num_samples=1, solver="heun")
    bridge = Interpolant(Straight())
    assert suits(solver_named("heun"), bridge)
    assert not suits(solver_named("unipc"), bridge)


def test_an_unknown_solver_names_its_neighbour():
    with pytest.raises(ValueError, match="no solver named 'hein'; did you mean 'heun'"):
        solver_named("hein")


def test_a_sample_is_the_loop_the_guidance_and_the_codec():
    made = system(scale=2.5)
    grid = made.grid(3)
    cond = Condition.of(label=torch.tensor([0, 1, 2, 0]))
    x = run(PROCESS, CFG(made.denoiser, 2.5), Jump(1.0), (4, 2), grid, cond=cond, rng=RowRng(7, range(4)))
    torch.testing.assert_close(sample(made, num_samples=4, seed=7), 2.0 * x + 1.0)
    torch.testing.assert_close(sample(made, num_samples=4, seed=7, cond=cond, guidance_scale=2.5), 2.0 * x + 1.0)


def test_permuted_rows_with_their_conditions_are_permuted_samples():
    made, order = system(), [2, 0, 3, 1]
    labels = torch.tensor([0, 1, 2, 1])
    whole = sample(made, num_samples=4, seed=7, cond=Condition.of(label=labels), guidance_scale=2.0)
    cond = Condition.of(label=labels[order])
    x = run(PROCESS, CFG(made.denoiser, 2.0), Jump(1.0), (4, 2), made.grid(3), cond=cond, rng=RowRng(7, order))
    torch.testing.assert_close(made.codec.decode(x), whole[order])


def test_calls_are_counted_and_no_condition_means_no_guidance():
    counts = [calls for _, calls in batches(system(), num_samples=5, batch_size=2, num_steps=4, guidance_scale=3.0)]
    assert counts == [4, 4, 4]
    free = sample(system(), num_samples=3, cond={}, guidance_scale=3.0)
    torch.testing.assert_close(free, sample(system(), num_samples=3, cond={}, guidance_scale=1.0))


class Vectors(nn.Module):
    """A net on the vectors of five tokens that counts its own calls."""

    def __init__(self):
        super().__init__()
        self.space = EmbeddingSpace(5, 3)
        self.calls = 0

    def forward(self, x, t, cond):
        self.calls += 1
        return 0.5 * x


@pytest.mark.parametrize(("schedule", "known"), [(Flow(), False), (Flow(), True), (LogLinear(0.1, 10.0), False)])
def test_tokens_read_off_vectors_are_no_call_of_the_network(schedule, known):
    """Without noise left at t = 0 the vectors are named as they are; with some, that is the last of the calls."""
    net = Vectors().eval()  # one in training would be copied, and the copy called
    process = Embedded(Gaussian(schedule), 3, 5)
    denoiser = Rounding(net, process).eval()
    if known:
        denoiser = GivenTokens(denoiser, process, net.space, torch.tensor([[0, 5, 5, 1]] * 2))
    made = System(
        process, denoiser, Denoising(PROCESS, Velocity()), Jump(), Identity(), Times(Uniform(), schedule), (4,)
    )  # fmt: skip
    counts = [calls for _, calls in batches(made, num_samples=2, num_steps=6)]
    assert counts == [net.calls] == [6]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_samples": 0}, "num_samples"), ({"num_samples": True}, "num_samples"), ({"batch_size": 0}, "batch_size"),
        ({"first": -1}, "first"), ({"guidance_scale": float("nan")}, "finite"), ({"num_steps": 0}, "num_steps"),
        ({"cond": Condition.of(label=torch.tensor([1]))}, "1 rows for 16"),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sample(system(), **kwargs)


def test_guidance_without_a_condition_to_guide_by_is_refused():
    with pytest.raises(ValueError, match="takes no condition"):
        sample(system({}), guidance_scale=2.0)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(2, 2), nn.Dropout(0.5)

    def forward(self, x, t, cond):
        return self.dropout(self.linear(x))


def noisy():
    torch.manual_seed(0)
    return replace(system(), denoiser=Preconditioned(Noisy(), PROCESS, Velocity()))


def test_sampling_never_drops_out_and_never_switches_a_module():
    made = noisy()
    calm = sample(replace(made, denoiser=copy.deepcopy(made.denoiser).eval()), num_samples=3)
    seen = []
    made.denoiser.net.register_forward_hook(lambda module, *_: seen.append(module.training))
    for part in (made.denoiser, made.denoiser.net, made.denoiser.net.dropout):
        made.denoiser.eval()
        part.train()
        assert torch.equal(sample(made, num_samples=3), calm)
        assert part.training
    assert seen
    assert not any(seen)


def test_weights_are_shared_with_what_is_sampled():
    made = noisy()
    before = sample(made, num_samples=2)
    copied = evaluating(made.denoiser)
    assert copied.net.linear.weight is made.denoiser.net.linear.weight
    with torch.no_grad():
        made.denoiser.net.linear.weight.add_(1.0)
    assert not torch.equal(sample(made, num_samples=2), before)


def test_modules_inside_guidance_are_in_evaluation_too():
    made = noisy()
    inner = made.denoiser
    guided = Autoguidance(inner, copy.deepcopy(inner), 2.0)
    calm = Autoguidance(copy.deepcopy(inner).eval(), copy.deepcopy(inner).eval(), 2.0)
    assert torch.equal(
        sample(replace(made, denoiser=guided), num_samples=2), sample(replace(made, denoiser=calm), num_samples=2)
    )
    assert inner.net.dropout.training
    assert evaluating(calm) is calm


def test_sixteen_threads_sample_a_module_in_training_as_one_does():
    made = noisy()
    serial = [sample(made, num_samples=2, seed=seed) for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        threaded = list(pool.map(lambda seed: sample(made, num_samples=2, seed=seed), range(16)))
    assert all(torch.equal(a, b) for a, b in zip(serial, threaded, strict=True))
    assert all(module.training for module in made.denoiser.modules())


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize("schedule", [Flow(), LogLinear.edm(), VP()], ids=["flow", "edm", "vp"])
def test_named_solvers_are_sane_on_every_schedule(name, schedule):
    """In the time of a log-linear schedule these end hundreds of spreads away at this number of steps."""
    process = Gaussian(schedule)
    oracle = GaussianData.of(process, torch.tensor([1.0, -1.0]), torch.tensor([[0.5, 0.1], [0.1, 0.2]]))
    made = replace(system({}), process=process, denoiser=oracle, grid=Times(FlowTime(0.5), schedule), codec=Identity())
    drawn = sample(made, num_samples=400, num_steps=16, solver=name, seed=2)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -1.0]), atol=0.15, rtol=0.0)
    torch.testing.assert_close(drawn.var(0), torch.tensor([0.5, 0.2]), atol=0.12, rtol=0.0)
