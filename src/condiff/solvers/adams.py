"""Adams-Bashforth on the probability flow: second and third order for one call a step, in any clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.process import Flowing
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, known, mix
from condiff.core.solver import State
from condiff.process.clock import Clock, FlowClock
from condiff.solvers.history import blank, choose, divide, missing, stamp
from condiff.solvers.rungekutta import arrival, midpoint


@final
@dataclass(frozen=True)
class Adams:
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

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"Adams has orders 2 and 3, got {self.order}; Euler is order 1")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x with no history."""
        memory: dict[str, Tensor] = {}
        for back in range(1, self.order):
            memory |= {f"slope{back}": torch.zeros_like(x), f"time{back}": blank(x, t)}
        return State(x, memory)

    def step(
        self,
        process: Flowing,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with one call, or two where a row has no history."""
        x, memory = state.x, state.memory
        start, end = self.clock.frame(process, t), arrival(self.clock, process, t, s)
        est = denoise(x, t)
        slope = est.combine(start.row)
        new_memory = {"slope1": slope, "time1": stamp(t, x)}
        if self.order == 3:
            new_memory |= {"slope2": memory["slope1"], "time2": memory["time1"]}
        fresh = missing(known(memory["time1"]))
        if fresh is True:
            return State(midpoint(self.clock, process, denoise, x, est, t, s), new_memory)
        h = end.tau - start.tau
        h1 = start.tau - self._tau(process, memory["time1"], fresh)
        first = divide(h * h, 2.0 * h1)  # of the difference k_0 - k_1
        second: Scalar = 0.0  # of the difference k_1 - k_2
        if self.order == 3:
            short = missing(known(memory["time2"]))
            h2 = start.tau - h1 - self._tau(process, memory["time2"], short)
            curve = choose(short, 0.0, divide(h * h * h / 3.0 + h1 * h * h / 2.0, h1 + h2))
            first, second = first + divide(curve, h1), -divide(curve, h2)
        size = end.size
        new = mix(end.size / start.size, x, size * (h + first), slope)
        new = mix(1.0, new, size * (second - first), memory["slope1"])
        if self.order == 3:
            new = mix(1.0, new, -size * second, memory["slope2"])
        # Tracing cannot branch on a value: a compiled step with per-row history makes the second call every time.
        if isinstance(fresh, Tensor) and (torch.compiler.is_compiling() or bool(fresh.any())):
            begun = midpoint(self.clock, process, denoise, x, est, t, s)
            new = torch.where(expand(fresh, x), begun, new)
        return State(new, new_memory)

    def _tau(self, process: Flowing, t: Tensor, absent: Tensor | bool) -> Scalar:
        if absent is True:
            return 0.0
        if isinstance(absent, Tensor):
            return self.clock.frame(process, torch.where(absent, 0.5, t)).tau
        return self.clock.frame(process, t).tau
