"""Drivers: the loops that run a solver over a grid. They bind the condition once, so no solver ever sees one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser, bind
from condiff.core.estimate import E
from condiff.core.process import Process
from condiff.core.rng import Rng
from condiff.core.shapes import shared
from condiff.core.solver import Plan, Solver, State


def instants(grid: Tensor, device: torch.device | str | None = None) -> list[Tensor]:
    """Split a grid into times: a 1-D grid into shared times known to the host, else one tensor a node.

    Args:
        grid: Times (N + 1,) shared by all rows, or (N + 1, B, ...) with a time a row, frame or token.
        device: Where the times are put.

    Raises:
        ValueError: If the grid has fewer than 1 node, or a time is outside [0, 1] or not finite.
    """
    if grid.ndim == 0 or len(grid) < 1:
        raise ValueError("a grid needs at least one node")
    values = grid.tolist() if grid.ndim == 1 else None
    inside = all(0.0 <= t <= 1.0 for t in values) if values else bool(((grid >= 0) & (grid <= 1)).all())
    if not inside:
        raise ValueError(f"times must lie in [0, 1], got {grid.min():g} to {grid.max():g}")
    return shared(values, device) if values else list(grid.to(device=device, dtype=torch.float64).unbind())


def trajectory(
    process: Process[E],
    denoiser: Denoiser[E],
    solver: Solver[Process[E], E],
    x: Tensor,
    grid: Tensor,
    *,
    cond: Condition | None = None,
    rng: Rng,
) -> Iterator[State]:
    """Yield the solver's state at every node of a grid, the first included.

    Args:
        process: The process of the states.
        denoiser: Estimates what made a state; guidance is already around it.
        solver: Moves the state over each interval of the grid.
        x: State at the first node, shape (B, *S).
        grid: Times (N + 1,), or (N + 1, B, ...) when rows stand at different levels; up or down.
        cond: Condition of all rows.
        rng: Source of the steps' noise.
    """
    # Gradients are off only while this runs, never for the caller between two states; the decorator would do the same
    # at the price of a second generator and a new context a step.
    with torch.no_grad():
        times = instants(grid, x.device)
        process, denoise = process.given(cond), bind(denoiser, cond)
        state = solver.init(x, times[0])
        # Where all rows share their times, a solver may compute the numbers of its steps beforehand.
        planned = getattr(solver, "plan", None) if grid.ndim == 1 else None
        plan: Plan[E] | None = planned(process, grid.tolist()) if planned else None

    states = plan.run(denoise, state, times, rng) if plan else _steps(process, denoise, solver, state, times, rng)
    yield state
    for _ in times[1:]:
        if torch.is_grad_enabled():
            torch.set_grad_enabled(False)  # a context of its own each step would cost twice as much
            try:
                state = next(states)
            finally:
                torch.set_grad_enabled(True)
        else:
            state = next(states)
        yield state


def _steps(
    process: Process[E],
    denoise: Callable[[Tensor, Tensor], E],
    solver: Solver[Process[E], E],
    state: State,
    times: Sequence[Tensor],
    rng: Rng,
) -> Iterator[State]:
    for t, s in pairwise(times):
        state = solver.step(process, denoise, state, t, s, rng)
        yield state


@torch.no_grad()
def sample(
    process: Process[E],
    denoiser: Denoiser[E],
    solver: Solver[Process[E], E],
    shape: Sequence[int],
    grid: Tensor,
    *,
    cond: Condition | None = None,
    rng: Rng,
    source: Tensor | None = None,
) -> Tensor:
    """Draw samples: start at t = 1, run the grid, finish at the data.

    Args:
        process: The process to reverse.
        denoiser: Estimates what made a state; guidance is already around it.
        solver: Moves the state over each interval of the grid.
        shape: Shape (B, *S) of the samples.
        grid: Decreasing times from 1 to 0, as for `trajectory`.
        cond: Condition of all rows.
        rng: Source of the start and of the steps' noise.
        source: Start of a two-sided process.

    Returns: Samples (B, *S) in the process's space.
    """
    bound = process.given(cond)
    x = bound.start(shape, rng=rng, source=source)
    for state in trajectory(process, denoiser, solver, x, grid, cond=cond, rng=rng):
        x = state.x
    return bound.finish(x, lambda x, t: denoiser(x, t, cond))


def rollout(
    generate: Callable[[Condition | None, int], Tensor],
    num_blocks: int | Iterable[int],
    remember: Callable[[Condition | None, Tensor], Condition | None],
    cond: Condition | None = None,
) -> Iterator[Tensor]:
    """Generate block after block, each conditioned on what was remembered of the earlier ones.

    Args:
        generate: Called as generate(cond, k), returns the clean block k (B, *S).
        num_blocks: How many blocks, or the block numbers themselves (an endless iterator for a stream).
        remember: Called as remember(cond, block), returns the condition of the next block: keys and values of clean
            context, the last frames, ...
        cond: Condition of the first block.
    """
    for k in range(num_blocks) if isinstance(num_blocks, int) else num_blocks:
        block = generate(cond, k)
        yield block
        cond = remember(cond, block)
