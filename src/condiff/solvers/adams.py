"""Adams-Bashforth on the probability flow: second and third order for one call a step, in any clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from condiff.core.process import Flowing
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, known
from condiff.core.solver import State
from condiff.process.clock import Clock, FlowClock
from condiff.process.scalar import choose, divide, missing
from condiff.solvers.linear import Denoise, Linear, Weights
from condiff.solvers.rungekutta import arrival, midpoint


@final
@dataclass(frozen=True)
class Adams(Linear[Flowing]):
    """Extrapolates the slope dy/dtau through its last `order` values and integrates it.

    y_s = y_t + h k_0 + h^2 / 2 k[0, 1] + (h^3 / 3 + h_1 h^2 / 2) k[0, 1, 2], with divided differences k[...] of the
    slopes, h = tau_s - tau_t, h_1 = tau_t - tau_1. A row without history takes a midpoint step (one more call).

    Args:
        order: 2 or 3.
        clock: The variable to step in.

    Source: Adams-Bashforth with variable steps (Hairer, Norsett, Wanner, section III.5); the clock is ours.
    """

    order: int = 2
    clock: Clock = field(default_factory=FlowClock)
    lead: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"Adams has orders 2 and 3, got {self.order}; Euler is order 1")

    @property
    def depth(self) -> int:
        """Earlier slopes in use."""
        return self.order - 1

    def weights(self, process: Flowing, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Weights:
        """Return the numbers of a step from t to s of rows with history."""
        start, end = self.clock.frame(process, t), arrival(self.clock, process, t, s)
        h = end.tau - start.tau
        h1 = start.tau - self._tau(process, past[0])
        first = divide(h * h, 2.0 * h1)  # of the difference k_0 - k_1
        second: Scalar = 0.0  # of the difference k_1 - k_2
        if self.order == 3:
            h2 = start.tau - h1 - self._tau(process, past[1])
            curve = choose(missing(known(past[1])), 0.0, divide(h * h * h / 3.0 + h1 * h * h / 2.0, h1 + h2))
            first, second = first + divide(curve, h1), -divide(curve, h2)
        size = end.size
        gains = (size * (h + first), size * (second - first), -size * second)
        return Weights(size / start.size, start.row, gains[: self.order])

    def step(self, process: Flowing, denoise: Denoise, state: State, t: Tensor, s: Tensor, rng: Rng) -> State:
        """Move from t to s with one call, or two where a row has no history."""
        x, est = state.x, denoise(state.x, t)
        fresh = missing(known(state.memory["time1"]))
        if fresh is True:
            memory = self.remember(state, est.combine(self.clock.frame(process, t).row), t)
            return State(midpoint(self.clock, process, denoise, x, est, t, s), memory)
        new = self.advance(process, est, state, t, s)
        # Tracing cannot branch on a value: a compiled step with per-row history makes the second call every time.
        if fresh is False or not (torch.compiler.is_compiling() or bool(fresh.any())):
            return new
        begun = midpoint(self.clock, process, denoise, x, est, t, s)
        return State(torch.where(expand(fresh, x), begun, new.x), new.memory)

    def _tau(self, process: Flowing, t: Tensor) -> Scalar:
        absent = missing(known(t))
        if absent is True:
            return 0.0
        return self.clock.frame(process, torch.where(absent, 0.5, t) if isinstance(absent, Tensor) else t).tau
