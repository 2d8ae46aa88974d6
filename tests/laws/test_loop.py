"""The sampling loop: no host synchronisation, no graph break, few tensor operations."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from laws.cases import labels
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from condiff.core import RowRng, instant, trajectory
from condiff.core.drivers import instants
from condiff.guidance import CFG
from condiff.process import VP, Flow, FlowClock, Gaussian, Preconditioned, V, Velocity
from condiff.solvers import Adams, Euler, EVODiff, Heun, Jump, Midpoint, Multistep, UniPC

SOLVERS = {
    "Jump": Jump(), "DDPM": Jump(1.0), "Euler": Euler(), "Heun": Heun(), "Midpoint": Midpoint(), "2M": Multistep(2),
    "1M": Multistep(1), "3M": Multistep(3), "UniPC": UniPC(), "Adams2": Adams(2), "Adams3": Adams(3, FlowClock(0.5)),
    "EVODiff": EVODiff(),
}  # fmt: skip


class Stored(nn.Module):
    """A network that returns what it holds: everything counted is the loop's own."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("out", torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, t, cond):
        return self.out


class Count(TorchDispatchMode):
    """Counts tensor operations and, apart, those that read the device."""

    SYNCS = ("_local_scalar_dense", "nonzero", "equal", "item")

    def __init__(self):
        super().__init__()
        self.ops, self.syncs = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[-1].split(".")[0]
        (self.syncs if name in self.SYNCS else self.ops).append(name)
        return func(*args, **(kwargs or {}))


def loop(process, target, solver, steps=10, denoiser=None):
    net = denoiser or Preconditioned(Stored((2, 3, 8, 8)), process, target)
    times = instants(torch.linspace(0.95, 0.1, steps + 1))
    x, rng = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), RowRng(0, range(2))
    state = solver.init(x, times[0])
    count = Count()
    with torch.no_grad(), count:
        for t, s in pairwise(times):
            state = solver.step(process, lambda x, t: net(x, t, None), state, t, s, rng)
    return count


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize(("schedule", "target"), [(VP(), V()), (Flow(), Velocity())], ids=["VP", "Flow"])
def test_nothing_is_read_back_from_the_device(solver, schedule, target):
    assert loop(Gaussian(schedule), target, solver).syncs == []


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_trajectory_reads_nothing_back_after_its_set_up(solver):
    process = Gaussian(Flow())
    net, x = Preconditioned(Stored((2, 3, 8, 8)), process, Velocity()), torch.ones(2, 3, 8, 8)
    states = trajectory(process, net, solver, x, torch.linspace(0.95, 0.1, 6), rng=RowRng(0, range(2)))
    next(states)  # the grid is read here, once
    count = Count()
    with count:
        assert len(list(states)) == 5
    assert count.syncs == []
    assert count.ops


def test_the_counter_sees_a_read():
    count = Count()
    with count:
        float(torch.ones(()))
    assert count.syncs == ["_local_scalar_dense"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("Jump", 2),
        ("1M", 2),
        ("Euler", 1.5),
        ("2M", 6),
        ("Adams2", 6),
        ("Adams3", 7.25),
        ("UniPC", 7),
        ("3M", 7),
        ("Heun", 5.25),
        ("Midpoint", 4.75),
        ("EVODiff", 72),
    ],
)
def test_few_operations_a_step(name, limit):
    """Tensor operations a step, as measured, in the steady state: Adams begins with a dearer midpoint step."""
    for schedule, target in ((VP(), V()), (Flow(), Velocity())):
        short, long = (len(loop(Gaussian(schedule), target, SOLVERS[name], steps).ops) for steps in (8, 12))
        assert long - short <= 4 * limit


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("Jump", 2),
        ("DDPM", 3),
        ("1M", 2),
        ("Euler", 2),
        ("2M", 4),
        ("Adams2", 4),
        ("Adams3", 5.25),
        ("UniPC", 5),
        ("3M", 5),
    ],
)
def test_few_operations_a_planned_step(name, limit):
    """Operations on states alone: two of state and output, one for each remembered value, and one to remember."""
    totals = []
    for steps in (8, 12):
        for schedule, target in ((VP(), V()), (Flow(), Velocity())):
            process, net = Gaussian(schedule), Preconditioned(Stored((2, 3, 8, 8)), Gaussian(schedule), target)
            x, count = torch.ones(2, 3, 8, 8), Count()
            grid, noise = torch.linspace(0.95, 0.1, steps + 1), RowRng(0, range(2))
            list(trajectory(process, net, SOLVERS[name], x, grid, rng=noise))  # the grid is planned here
            with count:
                list(trajectory(process, net, SOLVERS[name], x, grid, rng=noise))
            totals.append(len([op for op in count.ops if op in ("add", "add_", "mul", "mul_", "addcmul", "lerp")]))
    short, long = totals[:2], totals[2:]
    assert all(b - a <= 4 * limit for a, b in zip(short, long, strict=True)), (short, long)


def test_a_guided_loop_is_fused():
    """Two estimates of one target: a doubled state, its two halves, one lerp, and the step of a plain estimate."""
    process, x = Gaussian(VP()), torch.ones(2, 3, 8, 8)
    net, grid = CFG(Preconditioned(Stored((4, 3, 8, 8)), process, V()), 2.0), torch.linspace(0.9, 0.1, 6)
    count, states = Count(), trajectory(process, net, Jump(), x, grid, cond=labels(0, 1), rng=RowRng(0, range(2)))
    next(states), next(states)
    with count:
        next(states)
    assert sorted(count.ops) == ["add", "add_", "cat", "lerp", "slice", "slice"]


def test_guided_sampling_reads_nothing_either():
    process = Gaussian(Flow())
    net = Preconditioned(Stored((4, 3, 8, 8)), process, Velocity())
    guided, cond = CFG(net, 2.0), labels(0, 1)
    assert loop(process, Velocity(), Adams(2), denoiser=lambda x, t, _: guided(x, t, cond)).syncs == []


@pytest.mark.parametrize("form", ["host", "shared", "rows"])
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "DDPM"])
def test_a_step_is_one_graph(name, form):
    process, solver = Gaussian(Flow()), SOLVERS[name]
    net = Preconditioned(Stored((2, 3, 4, 4)), process, Velocity())
    rng = RowRng(0, range(2))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def step(state, t, s):
        return solver.step(process, lambda x, t: net(x, t, None), state, t, s, rng)

    times = [instant(v) if form == "host" else torch.tensor(v, dtype=torch.float64) for v in (0.9, 0.7, 0.5)]
    if form == "rows":
        times = [t.expand(2).contiguous() for t in times]
    with torch.no_grad():
        state = step(solver.init(x, times[0]), times[0], times[1])
        expected = step(state, times[1], times[2])
        torch._dynamo.reset()
        got = torch.compile(step, fullgraph=True, backend="eager")(state, times[1], times[2])
    torch.testing.assert_close(got.x, expected.x)


def test_host_times_stay_exact_under_grad_and_device_moves():
    t = instant(0.3)
    assert float(t) == 0.3
    assert t.dtype == torch.float64
    assert t.shape == ()
