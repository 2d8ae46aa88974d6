"""Euler, Heun and Midpoint on the probability flow, in any clock.

With a frame (m, tau, row) at each time, y = x / m and k = sum row * means, one Euler step is
x_s = (m_s / m_t) x + m_s (tau_s - tau_t) k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.process import Flowing
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, host, instant, mix
from condiff.core.solver import State
from condiff.process.clock import Clock, Frame, ProcessTime
from condiff.process.gaussian import Gaussian
from condiff.solvers.linear import Linear, Weights


def advance(x: Tensor, est: Moments, start: Frame, end: Frame) -> Tensor:
    """Take one Euler step from frame `start` to frame `end`: exact when the means do not change."""
    step = end.size * (end.tau - start.tau)
    return est.add_to(end.size / start.size, x, start.row, step)


def halfway(t: Tensor, s: Tensor) -> Tensor:
    """Return (t + s) / 2, known to the host when both ends are."""
    a, b = host(t), host(s)
    return (t + s) / 2 if a is None or b is None else instant(0.5 * (a + b), t.device)


def noiseless(process: Flowing, s: Tensor) -> bool | Tensor:
    """Tell where the state at s is the data itself, so that a network must not be asked there."""
    sigma: Scalar
    if isinstance(process, Gaussian):
        sigma = process.coefficients(s)[1]
    else:
        value = host(s)
        sigma = s if value is None else value
    return sigma == 0.0


@final
@dataclass(frozen=True)
class Euler(Linear[Flowing]):
    """First order, one call a step. In Ratio or FlowClock it is DDIM; in process time it is DDIM on Flow only.

    Args:
        clock: The variable to step in.
    """

    clock: Clock = field(default_factory=ProcessTime)

    @property
    def depth(self) -> int:
        """There is no history."""
        return 0

    def weights(self, process: Flowing, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Weights:
        """Return the numbers of a step from t to s."""
        start, end = self.clock.frame(process, t), arrival(self.clock, process, t, s)
        return Weights(end.size / start.size, start.row, (end.size * (end.tau - start.tau),))


def arrival(clock: Clock, process: Flowing, t: Tensor, s: Tensor) -> Frame:
    """Return the frame at s for arriving there: its size and clock, without the rates, which may be infinite there."""
    if isinstance(clock, ProcessTime) or not isinstance(process, Gaussian):
        value = host(s)
        return Frame(1.0, s.to(torch.float64) if value is None else value, {})
    return clock.frame(process, s)


@final
@dataclass(frozen=True)
class Heun:
    """Second order, two calls a step (one on a step that ends at the data itself): Euler, then the mean of two slopes.

    Args:
        clock: The variable to step in; `Ratio()` on a Karras grid is EDM's sampler without churn.

    Source: Karras et al. 2022, algorithm 1.
    """

    clock: Clock = field(default_factory=ProcessTime)

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Flowing,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with two calls, or one where s is the data."""
        x = state.x
        start, end = self.clock.frame(process, t), arrival(self.clock, process, t, s)
        est = denoise(x, t)
        euler = advance(x, est, start, end)
        last = noiseless(process, s)
        if last is True:
            return State(euler)
        if isinstance(last, Tensor):  # rows that end at the data are evaluated elsewhere, and that result is not used
            later = torch.where(last, halfway(t, s), s)
            corrected = self._correct(process, denoise, x, est, euler, start, later, end)
            return State(torch.where(expand(last, x), euler, corrected))
        return State(self._correct(process, denoise, x, est, euler, start, s, end))

    def _correct(
        self,
        process: Flowing,
        denoise: Callable[[Tensor, Tensor], Moments],
        x: Tensor,
        est: Moments,
        euler: Tensor,
        start: Frame,
        s: Tensor,
        end: Frame,
    ) -> Tensor:
        step = 0.5 * end.size * (end.tau - start.tau)
        half = est.add_to(end.size / start.size, x, start.row, step)
        slope = denoise(euler, s).combine(self.clock.frame(process, s).row)
        return mix(1.0, half, step, slope)


@final
@dataclass(frozen=True)
class Midpoint:
    """Second order, two calls a step, never at the end of a step: half an Euler step, then a full one by its slope.

    Args:
        clock: The variable to step in; the midpoint is taken in t.
    """

    clock: Clock = field(default_factory=ProcessTime)

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Flowing,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with two calls."""
        return State(midpoint(self.clock, process, denoise, state.x, denoise(state.x, t), t, s))


def midpoint(
    clock: Clock,
    process: Flowing,
    denoise: Callable[[Tensor, Tensor], Moments],
    x: Tensor,
    est: Moments,
    t: Tensor,
    s: Tensor,
) -> Tensor:
    """Take a midpoint step from t to s given the estimate at t; one more call."""
    middle = halfway(t, s)
    start, centre, end = clock.frame(process, t), clock.frame(process, middle), arrival(clock, process, t, s)
    half = advance(x, est, start, centre)
    slope = denoise(half, middle).combine(centre.row)
    return mix(end.size / start.size, x, end.size * (end.tau - start.tau), slope)
