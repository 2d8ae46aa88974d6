"""A planned loop is the stepped loop: same states, same memory, same noise, same errors; and it is really taken."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from laws.cases import (
    DTYPE,
    FLOW,
    ORDERS,
    SCHEDULES,
    STOCHASTIC,
    TARGETS,
    Linear,
    denoiser,
    gaussian,
    guidance_stacks,
    labels,
    rng,
)  # fmt: skip

from condiff.core import trajectory
from condiff.core.drivers import instants
from condiff.process import (
    EDM,
    Brownian,
    Flow,
    FlowClock,
    Gaussian,
    Interpolant,
    Preconditioned,
    ProcessTime,
    Ratio,
    Score,
    Straight,
    Student,
    V,
)
from condiff.solvers import Adams, Euler, Jump, Multistep, UniPC
from condiff.solvers.linear import _table

SOLVERS = {name: solver for name, (solver, _) in ORDERS.items() if hasattr(solver, "plan")}
SOLVERS |= {name: solver for name, solver in STOCHASTIC.items() if hasattr(solver, "plan")}
SOLVERS |= {"EulerRatio": Euler(Ratio()), "Adams3Flow": Adams(3, FlowClock(0.5)), "Adams2Ratio": Adams(2, Ratio())}


def planned(process, net, solver, grid, x, source, cond=None):
    return list(trajectory(process, net, solver, x, grid, cond=cond, rng=source))


def stepped(process, net, solver, grid, x, source, cond=None, state=None):
    """The loop by hand: `step` over shared times, without any plan."""
    times = instants(grid)
    states = [state or solver.init(x, times[0])]
    with torch.no_grad():
        for t, s in pairwise(times):
            states.append(solver.step(process, lambda x, t: net(x, t, cond), states[-1], t, s, source))
    return states


def outcome(run, *args):
    try:
        return run(*args)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        return str(error)


def assert_same(got, expected, tolerance=1e-12):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.x, b.x, atol=tolerance, rtol=tolerance)
        assert set(a.memory) == set(b.memory)
        for name in b.memory:
            torch.testing.assert_close(a.memory[name], b.memory[name], atol=tolerance, rtol=tolerance, equal_nan=True)


def test_every_solver_of_one_linear_call_has_a_plan():
    assert {type(solver).__name__ for solver in SOLVERS.values()} == {"Jump", "Euler", "Multistep", "UniPC", "Adams"}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_planned_state_is_the_stepped_one(solver, schedule):
    """Whole clock, a stretch, and upwards; where a formula refuses an end, both refuse it in the same words."""
    process, x = Gaussian(schedule), rng(4, 5).normal((2, 2))
    ramp = torch.linspace(1.0, 0.0, 7, dtype=DTYPE) ** 1.3
    for target in (V(), EDM(0.5)):
        net = denoiser(process, target)
        for grid in (ramp, 0.1 + 0.8 * ramp, 0.1 + 0.8 * ramp.flip(0)):
            got, expected = (outcome(run, process, net, solver, grid, x, rng(7, 8)) for run in (planned, stepped))
            if isinstance(expected, str):
                assert got == expected
            else:
                # Rates near 1e3 at the ends of VP and VE amplify rounding.
                assert_same(got, expected, 1e-12 if float(grid.max()) < 1.0 else 1e-9)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(
    "solver", [Jump(), Jump(1.0), Euler(), Multistep(2), UniPC(), Adams(3)], ids=lambda s: str(s)[:14]
)
def test_a_singular_target_is_refused_alike(solver, target):
    """Both name the target and the time, at the same step, and only where a mean is really needed."""
    net, x = denoiser(FLOW, target), rng(4, 5).normal((2, 2))
    outcomes = []
    for grid in (torch.linspace(1.0, 0.0, 5, dtype=DTYPE), torch.linspace(0.0, 1.0, 5, dtype=DTYPE)):
        got, expected = (outcome(run, FLOW, net, solver, grid, x, rng(7, 8)) for run in (planned, stepped))
        if isinstance(expected, str):
            assert got == expected
        else:
            assert_same(got, expected)
        outcomes.append(expected)
    if type(target).__name__ in ("Noise", "Score"):
        assert f"{type(target).__name__}()" in outcomes[0]
        assert "t = 1" in outcomes[0]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("stack", guidance_stacks(FLOW))
def test_under_every_guidance(stack, solver):
    """Outputs of one target are combined before they are read, tilted and rescaled estimates by their means."""
    net, cond, x = guidance_stacks(FLOW)[stack], labels(0, 1), rng(4, 5).normal((2, 2))
    grid = torch.linspace(0.9, 0.1, 5, dtype=DTYPE)
    got, expected = (run(FLOW, net, solver, grid, x, rng(7, 8), cond) for run in (planned, stepped))
    assert_same(got, expected, 1e-11)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_exact_denoisers_and_other_readers(solver):
    grid, x = torch.linspace(0.9, 0.1, 5, dtype=DTYPE), rng(4, 5).normal((2, 2))
    near = Gaussian(Flow(0.01))  # a denoiser of another process, and one that changes its target on the way

    class Changing:
        early, late = denoiser(FLOW, V()), denoiser(FLOW, EDM(0.7))

        def __call__(self, x, t, cond):
            return (self.early if float(t) > 0.5 else self.late)(x, t, cond)

    class Elsewhere:
        inner = denoiser(FLOW)

        def __call__(self, x, t, cond):
            return self.inner(1.01 * x, 0.9 * t, cond)

    for net in (gaussian(FLOW, 2), denoiser(near), Changing(), Elsewhere()):
        got, expected = (run(FLOW, net, solver, grid, x, rng(7, 8)) for run in (planned, stepped))
        assert_same(got, expected)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_planned_state_goes_on_by_steps(solver):
    """From the middle of a run, alone and beside a row that joins fresh; and a row may leave."""
    net, x = denoiser(FLOW), rng(4, 5).normal((2, 2))
    grid = torch.linspace(0.95, 0.2, 7, dtype=DTYPE)
    whole = planned(FLOW, net, solver, grid, x, rng(7, 8))
    for at in (1, 2, 4):
        source = rng(7, 8)
        half = planned(FLOW, net, solver, grid[: at + 1], x, source)[-1]
        rest = stepped(FLOW, net, solver, grid[at:], x, source, state=half)[-1]
        torch.testing.assert_close(rest.x, whole[-1].x, atol=1e-12, rtol=1e-12)
        # Rows with their own times: the second row leaves, a new one joins at the start of the grid.
        late, both = rng(9).normal((1, 2)), rng(7, 12)
        both.counters[0] = at  # one draw a step, where there are any
        state = whole[at].rows(torch.tensor([0])).cat(solver.init(late, grid[:1]))
        for k in range(at, 6):
            index = torch.tensor([k, k - at])
            with torch.no_grad():
                state = solver.step(FLOW, lambda x, t: net(x, t, None), state, grid[index], grid[index + 1], both)
        torch.testing.assert_close(state.x[0], whole[-1].x[0], atol=1e-12, rtol=1e-12)
        alone = planned(FLOW, net, solver, grid, late, rng(12))[6 - at]
        torch.testing.assert_close(state.x[1:], alone.x, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("solver", [Euler(), Adams(2, ProcessTime()), Adams(3, ProcessTime())], ids=str)
def test_a_bridge_is_planned_by_its_parts(solver):
    bridge = Interpolant(Straight(Brownian(0.5)))

    def net(x, t, cond):
        return bridge.infer(x, t, {"data": torch.sin(x), "noise": torch.cos(x)})

    for grid in (torch.linspace(0.9, 0.1, 5, dtype=DTYPE), torch.linspace(1.0, 0.5, 4, dtype=DTYPE)):
        x = rng(4, 5).normal((2, 2))
        got, expected = (run(bridge, net, solver, grid, x, rng(7, 8)) for run in (planned, stepped))
        torch.testing.assert_close(got[-1].x, expected[-1].x, atol=1e-12, rtol=1e-12)


def test_what_a_jump_refuses_is_refused_in_a_plan():
    x, up = rng(4, 5).normal((2, 2)), torch.linspace(0.2, 0.8, 4, dtype=DTYPE)
    with pytest.raises(ValueError, match="s <= t"):
        planned(FLOW, denoiser(FLOW), Jump(0.5), up, x, rng(7, 8))
    heavy = Gaussian(Flow(), Student(4.0))
    with pytest.raises(TypeError, match="not additive"):
        planned(heavy, denoiser(heavy), Jump(0.5), up.flip(0), x, rng(7, 8))
    with pytest.raises(TypeError, match="Score needs Normal"):
        Preconditioned(Linear(), heavy, Score())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_plan_is_taken(solver, monkeypatch):
    """After the steps that a solver keeps to itself, `step` is not called again, and numbers are made once a grid."""
    calls, cls = [], type(solver)
    step = cls.step

    def counted(self, *args):
        calls.append(args[3:5])
        return step(self, *args)

    monkeypatch.setattr(cls, "step", counted)
    grid = torch.linspace(0.9, 0.1, 9, dtype=DTYPE) + 0.01 * torch.rand(1, dtype=DTYPE)
    before = _table.cache_info().misses
    for _ in range(2):
        planned(FLOW, denoiser(FLOW), solver, grid, rng(4, 5).normal((2, 2)), rng(7, 8))
    assert len(calls) == 2 * getattr(solver, "lead", 0)
    assert _table.cache_info().misses == before + 1


def test_a_schedule_that_can_change_is_read_anew():
    @dataclass
    class Learned:
        power: float

        def __call__(self, t):
            return 1.0 - t**self.power, t**self.power

        def rates(self, t):
            rate = self.power * t ** (self.power - 1.0)
            return -rate, rate

        def time(self, logsnr):
            raise NotImplementedError

    schedule = Learned(1.0)
    process = Gaussian(schedule)
    net, x, grid = denoiser(process), rng(4, 5).normal((2, 2)), torch.linspace(0.9, 0.1, 5, dtype=DTYPE)
    for solver in (Jump(), Multistep(2)):
        schedule.power = 1.0
        first = planned(process, net, solver, grid, x, rng(7, 8))[-1].x
        schedule.power = 2.0
        second = planned(process, net, solver, grid, x, rng(7, 8))[-1].x
        assert not torch.allclose(first, second)
        assert_same(
            planned(process, net, solver, grid, x, rng(7, 8)), stepped(process, net, solver, grid, x, rng(7, 8))
        )
