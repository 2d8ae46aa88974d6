"""Implicit steps: the exact inverse of a deterministic jump, by fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import mix
from condiff.core.solver import State
from condiff.process.clock import FlowClock
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True)
class Implicit:
    """Finds the x_s from which the DDIM step s -> t leads back to x_t; run with s > t it inverts DDIM exactly.

    In flow coordinates y = x / m the DDIM step is y_t = y_s + (tau_t - tau_s) k(y_s, s), so x_s is the fixed point of
    y_s <- y_t + (tau_s - tau_t) k(y_s, s). Explicit inversion is its first iterate.

    Args:
        num_iterations: Calls a step, >= 1. Each multiplies the error by the step times the slope's Lipschitz constant.
        scale: Scale of the flow coordinates; it does not change the fixed point.

    Source: Pan et al. 2023 (AIDI) and Meiri et al. 2023, for any (alpha, sigma).
    """

    num_iterations: int = 5
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_iterations < 1:
            raise ValueError(f"Implicit needs num_iterations >= 1, got {self.num_iterations}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with `num_iterations` calls, all at time s."""
        clock = FlowClock(self.scale)
        start, end = clock.frame(process, t), clock.frame(process, s)
        step = end.size * (end.tau - start.tau)
        x = mix(end.size / start.size, state.x, 0.0, state.x)
        base = x
        for _ in range(self.num_iterations):
            x = mix(1.0, base, step, denoise(x, s).combine(end.row))
        return State(x)
