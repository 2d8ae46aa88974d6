"""The batch law where rows, frames and tokens stand at different times, under every solver, schedule and guidance."""

from __future__ import annotations

import pytest
import torch
from laws.cases import (
    DTYPE,
    FLOW,
    ORDERS,
    SCHEDULES,
    STOCHASTIC,
    Linear,
    denoiser,
    guidance_stacks,
    labels,
    rng,
)  # fmt: skip
from torch import nn

from condiff.core import trajectory
from condiff.process import Gaussian, Preconditioned, V
from condiff.solvers import Adams, EVODiff, Implicit, Multistep, UniPC

SOLVERS = {**{name: solver for name, (solver, _) in ORDERS.items()}, **STOCHASTIC, "Implicit": Implicit(3)}


def run(process, net, solver, grid, x, source, cond=None):
    for state in trajectory(process, net, solver, x, grid, cond=cond, rng=source):
        last = state.x
    return last


def staggered(steps, rows, low=0.2, high=0.9):
    """Times (steps + 1, rows), every row with its own."""
    ramp = torch.linspace(high, low, steps + 1, dtype=DTYPE)
    return ramp[:, None] - 0.03 * torch.arange(rows, dtype=DTYPE)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rows_with_their_own_times_equal_rows_alone(solver, schedule):
    process = Gaussian(schedule)
    net, cond, x = denoiser(process), labels(0, 1, 0), rng(4, 5, 6).normal((3, 2))
    grid = staggered(5, 3)
    whole = run(process, net, solver, grid, x, rng(7, 8, 9), cond)
    for b in range(3):
        own = cond.rows(torch.tensor([b]))
        # Alone the row's times are known to the host: two code paths, one number.
        alone = run(process, net, solver, grid[:, b], x[b : b + 1], rng(7 + b), own)
        torch.testing.assert_close(alone[0], whole[b], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_one_row_may_end_at_the_data_while_others_go_on(solver):
    net, x = denoiser(FLOW), rng(4, 5).normal((2, 2))
    grid = torch.stack([torch.linspace(0.8, 0.0, 5, dtype=DTYPE), torch.linspace(0.95, 0.4, 5, dtype=DTYPE)], 1)
    if "Ratio" in repr(solver) or type(solver).__name__ == "SDE":
        grid = grid.clamp_max(0.9)
    whole = run(FLOW, net, solver, grid, x, rng(7, 8))
    assert bool(torch.isfinite(whole).all())
    for b in range(2):
        alone = run(FLOW, net, solver, grid[:, b : b + 1], x[b : b + 1], rng(7 + b))
        torch.testing.assert_close(alone[0], whole[b], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("stack", guidance_stacks(FLOW))
def test_every_guidance_under_every_solver(stack, solver):
    net, cond, x = guidance_stacks(FLOW)[stack], labels(0, 1, 1), rng(4, 5, 6).normal((3, 2))
    grid = staggered(3, 3)
    whole = run(FLOW, net, solver, grid, x, rng(7, 8, 9), cond)
    order = torch.tensor([2, 0])
    some = run(FLOW, net, solver, grid[:, order], x[order], rng(9, 7), cond.rows(order))
    torch.testing.assert_close(some, whole[order], atol=1e-11, rtol=1e-11)


class Framewise(nn.Module):
    """A net over (B, T, D) whose frames do not look at each other, with a time for every frame."""

    def __init__(self):
        super().__init__()
        self.inner = Linear()

    def forward(self, x, t, cond):
        times = t.to(x.dtype).reshape(t.shape + (1,) * (2 - t.ndim)).expand(x.shape[:2])
        return self.inner(x.flatten(0, 1), times.flatten(), None).reshape(x.shape)


@pytest.mark.parametrize("solver", [s for s, _ in ORDERS.values()], ids=ORDERS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_frames_with_their_own_times_equal_samples(solver, schedule):
    """States (B, T, D) with times (B, T) are B * T samples, history and starts included."""
    process = Gaussian(schedule)
    frames = Preconditioned(Framewise(), process, V(), sigma_data=0.6)
    plain = Preconditioned(frames.net.inner, process, V(), sigma_data=0.6)
    x, grid = rng(4, 5).normal((2, 3, 2)), staggered(4, 6)
    whole = run(process, frames, solver, grid.reshape(5, 2, 3), x, rng(7, 8))
    flat = run(process, plain, solver, grid, x.flatten(0, 1), rng(*range(6)))
    torch.testing.assert_close(whole.flatten(0, 1), flat, atol=1e-9, rtol=1e-9)


HISTORY = {
    "2M": Multistep(2), "3M": Multistep(3), "UniPC": UniPC(), "AB2": Adams(2), "AB3": Adams(3), "EVODiff": EVODiff(),
}  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("solver", HISTORY.values(), ids=HISTORY)
def test_a_fresh_row_beside_an_old_one_equals_it_alone(solver, compiled):
    """Admission makes an ordinary nan leaf of "no history": it must be safe in table look-ups and in a traced graph."""
    names = SCHEDULES if not compiled else ["Table"]
    for name in names:
        process = Gaussian(SCHEDULES[name])
        net, source = denoiser(process), rng(0, 1)

        def step(state, t, s, process=process, net=net, source=source):
            return solver.step(process, lambda x, t: net(x, t, None), state, t, s, source)

        old, new = rng(4).normal((1, 2)), rng(5).normal((1, 2))
        t, s, u = (torch.tensor([v], dtype=DTYPE) for v in (0.9, 0.7, 0.5))
        with torch.no_grad():
            aged = step(solver.init(old, t), t, s)
            alone = torch.cat([step(aged, s, u).x, step(solver.init(new, t), t, s).x])
            mixed = aged.cat(solver.init(new, t))
            if compiled:
                torch._dynamo.reset()
            call = torch.compile(step, fullgraph=True, backend="eager") if compiled else step
            together = call(mixed, torch.cat([s, t]), torch.cat([u, s])).x
        torch.testing.assert_close(together, alone, atol=1e-10, rtol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
