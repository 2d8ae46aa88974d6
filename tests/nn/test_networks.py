"""Laws that hold for every network: shapes, times, batches, nulls, types, and no reading of the device."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given as vary
from hypothesis import settings
from hypothesis import strategies as st
from nn.nets import DIT, KINDS, SCHEMA, TIMED, UNET, given, make, normal, scrambled
from torch.utils._python_dispatch import TorchDispatchMode

from condiff.core import Condition
from condiff.core.condition import ClassLabel
from condiff.nn import MLP, DiT, Frames, Grid, Tokens, UNet

T = torch.tensor([0.1, 0.5, 0.9])


@settings(deadline=None, max_examples=12)
@vary(ndim=st.integers(1, 3), sizes=st.lists(st.integers(1, 7), min_size=3, max_size=3), patch=st.integers(1, 3))
def test_any_grid_of_any_dimension_comes_back_in_its_own_shape(ndim, sizes, patch):
    x = normal(2, 3, *sizes[:ndim])
    for net in (UNet(Grid(3, ndim), UNET), DiT(Grid(3, ndim), DIT, patch=patch)):
        out = scrambled(net)(x, T[:2])
        assert out.shape == x.shape
        assert out.isfinite().all()
        assert out.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_heads_give_more_channels_and_the_first_weights_give_zero(kind):
    nets = {
        "mlp": lambda: MLP(5, 16, 2, out_features=10),
        "unet": lambda: UNet(Grid(2, 2), UNET, out_channels=4),
        "unet frames": lambda: UNet(Frames(2), UNET, out_channels=4),
        "dit": lambda: DiT(Grid(2, 2), DIT, patch=2, out_channels=4),
        "dit tokens": lambda: DiT(Tokens(2), DIT, out_channels=4),
        "dit frames": lambda: DiT(Frames(2), DIT, patch=3, out_channels=4),
        "dit causal": lambda: DiT(Tokens(2), DIT, block=2, out_channels=4),
    }
    x = make(kind)[1]
    out = nets[kind]()(x, T)
    axis = {"dit tokens": 2, "dit causal": 2, "unet frames": 2, "dit frames": 2}.get(kind, 1)
    assert out.shape == (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    assert out.count_nonzero() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_equal_times_in_every_shape_agree_and_other_times_do_not(kind):
    net, x = make(kind)
    shared = net(x, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(net(x, torch.full((3,), 0.3)), shared, atol=1e-5, rtol=1e-5)
    if kind in TIMED:
        torch.testing.assert_close(net(x, torch.full((3, TIMED[kind]), 0.3)), shared, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(net(x, torch.tensor([0.3, 0.3, 0.31]))[2], shared[2], atol=1e-4)


@pytest.mark.parametrize("kind", TIMED)
def test_a_time_of_one_frame_is_its_own(kind):
    net, x = make(kind)
    t = torch.rand(3, TIMED[kind], generator=torch.Generator().manual_seed(3))
    other = t.clone()
    other[1, 2] += 0.3
    change = (net(x, other) - net(x, t)).abs().flatten(2).amax(-1)
    assert change[1, 2] == change.max() > 1e-3
    assert change[[0, 2]].max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_times_of_other_shapes_are_refused(kind):
    net, x = make(kind)
    with pytest.raises(ValueError, match="takes times of shape"):
        net(x, torch.rand(3, x.shape[1] + 1))
    with pytest.raises(ValueError, match="takes times of shape"):
        net(x, torch.rand(2))
    with pytest.raises(ValueError, match="expected"):
        net(x.repeat_interleave(2, 1).repeat_interleave(2, 2) if x.ndim > 2 else x[:, :-1], T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_equals_the_row_in_its_batch(kind):
    net, x = make(kind, SCHEMA)
    full = given(kind, x)
    cond = Condition(full.values, {k: torch.tensor([True, i % 2 == 0, False]) for i, k in enumerate(full.present)})
    whole = net(x, T, cond)
    for row in range(3):
        one = torch.tensor([row])
        torch.testing.assert_close(net(x[one], T[one], cond.rows(one)), whole[one], atol=1e-5, rtol=1e-5)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order], T[order], cond.rows(order)), whole[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_missing_and_none_are_the_same_null_and_each_present_name_counts(kind):
    net, x = make(kind, SCHEMA)
    cond = given(kind, x)
    null = net(x, T, None)
    torch.testing.assert_close(net(x, T, cond.null()), null, atol=1e-5, rtol=1e-5)
    for name in cond.values:
        alone = Condition({name: cond.values[name]}, {name: cond.present[name]})
        others = cond.null(*(k for k in cond.values if k != name))
        out = net(x, T, alone)
        torch.testing.assert_close(net(x, T, others), out, atol=1e-5, rtol=1e-5)
        assert (out - null).abs().flatten(1).amax(1).min() > 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_not_even_nan_in_an_absent_value_reaches_output_or_gradient(kind):
    net, x = make(kind, SCHEMA)
    cond = given(kind, x)
    there = torch.tensor([True, False, True])
    clean = Condition(cond.values, dict.fromkeys(cond.values, there))
    dirty = dict(cond.values)
    for name, value in dirty.items():
        filler = torch.nan if value.is_floating_point() else 10**9
        dirty[name] = torch.where(there.reshape(-1, *(1,) * (value.ndim - 1)), value, filler)
    out = net(x, T, Condition(dirty, clean.present))
    torch.testing.assert_close(out, net(x, T, clean), atol=0.0, rtol=0.0)
    out.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
def test_conditions_that_do_not_fit_are_refused_by_name(kind):
    net, x = make(kind, SCHEMA)
    with pytest.raises(ValueError, match="unknown condition 'lable'; did you mean 'label'"):
        net(x, T, Condition.of(lable=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="the condition has 2 rows, x has 3"):
        net(x, T, Condition.of(label=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"integer tensor \(B,\), got torch.float32"):
        net(x, T, Condition.of(label=torch.zeros(3)))
    with pytest.raises(ValueError, match="takes no conditions"):
        make(kind)[0](x, T, Condition.of(label=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"context\.0\.k"):
        net(x, T, Condition.of(**{"context.0.k": torch.zeros(3, 1, 16)}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_state_is_kept_and_the_answer_nearly_so(kind, dtype):
    net, x = make(kind, SCHEMA)
    cond = given(kind, x)
    plain = net(x, T, cond)
    cast = net.to(dtype)
    assert cast(x, T, cond).dtype == torch.float32
    out = cast(x.to(dtype), T.double(), cond)
    assert out.dtype == dtype
    # bf16 keeps 8 bits, and a few dozen roundings add up; a rounded time frequency would be off by its whole size.
    bound = 1e-5 if dtype == torch.float64 else 0.05
    assert (out.float() - plain).norm() / plain.norm() < bound


@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_a_round_trip_and_constants_are_not_among_them(kind):
    net, x = make(kind, SCHEMA)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other, _ = make(kind, SCHEMA)
    scrambled(other, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x, T, given(kind, x)), net(x, T, given(kind, x)), atol=0.0, rtol=0.0)
    assert not [name for name in net.state_dict() if "frequencies" in name]


class Syncs(TorchDispatchMode):
    """Collect operations that read a value back to the host."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(part in str(func) for part in ("local_scalar_dense", "nonzero", "aten.equal")):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_reads_nothing_back_from_the_device(kind):
    net, x = make(kind, SCHEMA)
    with Syncs() as syncs:
        net(x, T, given(kind, x))
    assert not syncs.seen


@pytest.mark.parametrize("kind", ["mlp", "unet", "dit causal"])
def test_the_whole_forward_is_one_graph(kind):
    net, x = make(kind, SCHEMA)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, T, given(kind, x)), net(x, T, given(kind, x)), atol=1e-6, rtol=1e-6)


def test_channels_last_weights_and_states_give_the_same():
    net, x = make("unet", SCHEMA)
    plain = net(x, T, given("unet", x))
    cond = given("unet", x)
    other = net.to(memory_format=torch.channels_last)
    for state in (x, x.contiguous(memory_format=torch.channels_last)):
        out = other(state, T, cond)
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
        out.sum().backward()


@pytest.mark.parametrize("kind", ["unet", "dit", "mlp"])
def test_a_fresh_network_learns_its_class(kind):
    # Twelve numbers that depend on the class alone: what does not hear the class stays at a loss of about 1.
    schema = {"label": ClassLabel(3)}
    torch.manual_seed(0)
    net, shape = {
        "unet": (UNet(Grid(1, 1), UNET, schema=schema), (1, 4)),
        "dit": (DiT(Grid(1, 1), DIT, schema=schema), (1, 4)),
        "mlp": (MLP(4, 16, 2, schema=schema), (4,)),
    }[kind]
    goal = normal(3, *shape, seed=5)
    cond = Condition.of(label=torch.arange(3))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = normal(1, *shape, seed=6).expand_as(goal)  # equal rows: only the class tells them apart
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(x, torch.tensor(0.5), cond) - goal).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
