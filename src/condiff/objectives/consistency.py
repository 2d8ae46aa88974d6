"""Consistency of a flow map along pairs of neighbouring times: consistency models and consistency trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss
from condiff.core.process import Draw, Target
from condiff.core.rng import Rng
from condiff.core.solver import Solver
from condiff.objectives.denoising import Denoising
from condiff.process.clock import FlowClock
from condiff.process.flowmap import Diagonal, Jumps, Mapped
from condiff.process.gaussian import Gaussian
from condiff.process.grid import Grid, Karras
from condiff.process.target import EDM
from condiff.process.timelaw import TimeLaw, draw_times
from condiff.solvers.rungekutta import Heun


def land(
    process: Mapped, denoiser: Denoiser[Jumps], x: Tensor, t: Tensor, s: Tensor, cond: Condition | None, rng: Rng
) -> Tensor:
    """Return the state at s that a flow map jumps to from x (B, *S) at t; the random numbers are not touched."""
    return process.reverse(x, t, s, denoiser(x, t, cond), eta=0.0, rng=rng)


def distance(a: Tensor, b: Tensor, huber: float) -> Tensor:
    """Return sqrt(|a - b|^2 + huber^2) - huber a row, or the mean square if huber is 0; shape (B,)."""
    square = (a - b).square().flatten(1)
    return square.mean(1) if huber == 0.0 else (square.sum(1) + huber * huber).sqrt() - huber


def hop(
    flow: Gaussian,
    teacher: Denoiser[Moments] | None,
    solver: Solver[Gaussian, Moments],
    draw: Draw,
    stops: Sequence[Tensor],
    cond: Condition | None,
    rng: Rng,
) -> Tensor:
    """Return the states of a draw at the last of some times, by a teacher's steps, or on its own straight line.

    Without a teacher data and noise stay what they are: the same as an Euler step with the true data.
    """
    with torch.no_grad():
        if teacher is None:
            return flow.reverse(draw.x, draw.t, stops[-1], Moments(draw.latents), eta=0.0, rng=rng)
        state = solver.init(draw.x, draw.t)
        here = draw.t
        for there in stops:
            state = solver.step(flow, lambda x, t: teacher(x, t, cond), state, here, there, rng)
            here = there
        return state.x


@final
@dataclass(frozen=True)
class Curriculum:
    """How fine consistency training looks, and how slowly its target follows, as functions of the step k of K.

    levels(k) = ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1,
    rate(k) = exp(first ln(start) / (levels(k) - 1))

    Args:
        steps: K, training steps in all.
        first, last: Number of levels at the start and, but for one, at the end; 2 <= first <= last.
        start: Averaging rate of the target at the start, in (0, 1).

    Raises:
        ValueError: If a number is out of range.

    Source: Song et al. 2023 (consistency models), appendix C, with their N(k) and mu(k).
    """

    steps: int
    first: int = 2
    last: int = 150
    start: float = 0.9

    def __post_init__(self) -> None:
        if self.steps < 1 or not 2 <= self.first <= self.last or not 0.0 < self.start < 1.0:
            raise ValueError(f"Curriculum needs steps >= 1, 2 <= first <= last and start in (0, 1), got {self}")

    def levels(self, step: int) -> int:
        """Return N(k), the number of levels at a step in [0, K]."""
        grown = step / self.steps * ((self.last + 1) ** 2 - self.first**2) + self.first**2
        return math.ceil(math.sqrt(grown) - 1.0) + 1

    def rate(self, step: int) -> float:
        """Return mu(k), the averaging rate of the target network at a step."""
        return math.exp(self.first * math.log(self.start) / (self.levels(step) - 1))


@final
@dataclass(frozen=True)
class Consistency:
    """Two neighbouring states of one path must map to the same data; the answer at the cleaner one is held fixed.

    loss_b = distance(f(x_t, t), held f(x_s, s)), f(x, t) = the flow map's jump from t to 0

    Args:
        process: A flow map's process. Its network's target must be determined at the data (EDM, V or Velocity).
        levels: How many levels the grid has, >= 2.
        grid: Where they lie; neighbours on it make a pair.
        times: Law of t, which is moved up to the next level; None takes every pair equally often.
        teacher: A denoiser whose flow is distilled; None trains from data (the same noise at both levels).
        solver: How the teacher's flow is followed from t to s.
        target: The network that answers at s, a moving average of the trained one for example, such as
            `Progress.average`; None is the trained network itself.
        huber: c of the distance sqrt(|.|^2 + c^2) - c; 0 is the mean square.

    Raises:
        ValueError: If levels < 2 or huber < 0.

    Source: Song et al. 2023, algorithms 2 and 3, their weight 1. Without `target`, and with `huber`, it is improved
        consistency training (Song and Dhariwal 2024). Departure: the map is the jump to t = 0 of any target, which has
        the same boundary as their c_skip and c_out, and equals them where sigma(0) = 0.
    """

    process: Mapped
    levels: int = 18
    grid: Grid = field(default_factory=Karras)
    times: TimeLaw | None = None
    teacher: Denoiser[Moments] | None = None
    solver: Solver[Gaussian, Moments] = field(default_factory=lambda: Heun(FlowClock()))
    target: Denoiser[Jumps] | None = None
    huber: float = 0.0

    def __post_init__(self) -> None:
        if self.levels < 2 or self.huber < 0.0:
            raise ValueError(f"Consistency needs levels >= 2 and huber >= 0, got {self.levels} and {self.huber}")

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the distances of data (B, *S)."""
        flow = self.process.process
        levels = self.grid(flow.schedule, self.levels).to(data.device)
        if draw is None:
            at = _level(levels, self.times, flow, data, rng)
            draw = self.process.draw(data, levels[at], rng=rng)
        else:
            at = _next(levels, draw.t)
        t, s = draw.t, levels[at + 1]
        cleaner = hop(flow, self.teacher, self.solver, draw, [s], cond, rng)
        end = torch.zeros_like(t)
        with torch.no_grad():
            answer = land(self.process, self.target or denoiser, cleaner, s, end, cond, rng)
        return Loss(distance(land(self.process, denoiser, draw.x, t, end, cond, rng), answer, self.huber))


@final
@dataclass(frozen=True)
class CTM:
    """Consistency trajectories: a jump t -> s must equal a teacher's way t -> u followed by the map's own jump u -> s.

    loss_b = distance(far(G(x_t, t, s)), held far(G(solver(x_t, t -> u), u, s))) + denoising * residual^2 of `local`

    Levels t > u >= s are drawn from a grid: t of all, u at most `reach` levels below it, s of those at or below u.

    Args:
        process: A flow map's process, its target determined at the data (EDM, V or Velocity).
        levels: How many levels the grid has, >= 2.
        grid: Where they lie.
        reach: Most levels from t to u, >= 1.
        teacher: A denoiser whose flow is followed; None is the map's own diagonal, held fixed.
        solver: How it is followed, one step a level.
        target: A moving average of the trained network, such as `Progress.average`: `far` is then its jump from s to
            the data, so that errors are compared as data. None compares them at s, and `far` is the identity.
        local: Row whose squared residual trains the diagonal.
        denoising: Weight of that residual.
        huber: c of the distance; 0 is the mean square.

    Raises:
        ValueError: If a number is out of range.

    Source: Kim et al. 2024 (CTM), eq. 9 to 11. Departures: the weight of the denoising term is fixed and not balanced
        by gradients of the last layer; there is no adversarial term.
    """

    process: Mapped
    levels: int = 18
    grid: Grid = field(default_factory=Karras)
    reach: int = 17
    teacher: Denoiser[Moments] | None = None
    solver: Solver[Gaussian, Moments] = field(default_factory=lambda: Heun(FlowClock()))
    target: Denoiser[Jumps] | None = None
    local: Target = field(default_factory=EDM)
    denoising: float = 1.0
    huber: float = 0.0

    def __post_init__(self) -> None:
        if self.levels < 2 or self.reach < 1 or self.denoising < 0.0 or self.huber < 0.0:
            raise ValueError(
                "CTM needs levels >= 2, reach >= 1, denoising >= 0 and huber >= 0, got "
                f"{self.levels}, {self.reach}, {self.denoising} and {self.huber}"
            )

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the losses of data (B, *S)."""
        flow = self.process.process
        levels = self.grid(flow.schedule, self.levels).to(data.device)
        last = len(levels) - 1
        if draw is None:
            at = _level(levels, None, flow, data, rng)
            draw = self.process.draw(data, levels[at], rng=rng)
        else:
            at = _next(levels, draw.t)
        most = (last - at).clamp_max(self.reach)
        middle = at + 1 + _below(rng, most)
        end = middle + _below(rng, last - middle + 1)
        # Rows that have come to u stay there: a step of no length moves nothing.
        stops = [levels[torch.minimum(at + k, middle)] for k in range(1, int((middle - at).max()) + 1)]
        guide = Diagonal(denoiser) if self.teacher is None else self.teacher
        between = hop(flow, guide, self.solver, draw, stops, cond, rng)
        t, u, s = draw.t, levels[middle], levels[end]
        with torch.no_grad():
            answer = land(self.process, denoiser, between, u, s, cond, rng)
        made = land(self.process, denoiser, draw.x, t, s, cond, rng)
        if self.target is not None:
            zero = torch.zeros_like(s)
            made, answer = (land(self.process, self.target, x, s, zero, cond, rng) for x in (made, answer.detach()))
        rows = distance(made, answer.detach(), self.huber)
        if self.denoising > 0.0:
            plain = Denoising(flow, self.local)(Diagonal(denoiser), data, cond, rng=rng, draw=draw)
            rows = rows + self.denoising * plain.rows
        return Loss(rows)


def _level(levels: Tensor, times: TimeLaw | None, flow: Gaussian, data: Tensor, rng: Rng) -> Tensor:
    """Draw a level that is not the last, its index (B,)."""
    if times is None:
        return _below(rng, torch.full(data.shape[:1], len(levels) - 1, device=data.device))
    return _next(levels, draw_times(times, data.shape[:1], schedule=flow.schedule, rng=rng).to(levels))


def _next(levels: Tensor, t: Tensor) -> Tensor:
    """Return the index of the lowest level at or above t (B,) that is not the last."""
    return ((levels >= t.to(levels).unsqueeze(-1)).sum(-1) - 1).clamp(0, len(levels) - 2)


def _below(rng: Rng, count: Tensor) -> Tensor:
    """Draw an integer from 0 to count - 1, count (B,)."""
    return torch.minimum((rng.uniform(count.shape).to(count.device) * count).long(), count - 1)
