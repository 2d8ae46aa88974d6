"""Jump: the exact first-order step that every process offers (DDIM, DDPM, ancestral tokens, bridges)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from condiff.core.estimate import E
from condiff.core.process import Process
from condiff.core.rng import Rng
from condiff.core.solver import State


@final
@dataclass(frozen=True)
class Jump:
    """One call, then `process.reverse`: deterministic DDIM at eta = 0, ancestral DDPM at eta = 1.

    Args:
        eta: Share of the noise that is redrawn, in [0, 1].

    Source: Song et al. 2021 (DDIM); eta is the paper's.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Process[E],
        denoise: Callable[[Tensor, Tensor], E],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with one call."""
        return State(process.reverse(state.x, t, s, denoise(state.x, t), eta=self.eta, rng=rng))
