"""Jump: the exact first-order step that every process offers (DDIM, DDPM, ancestral tokens, bridges)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from condiff.core.estimate import E
from condiff.core.process import Process
from condiff.core.rng import Rng
from condiff.core.solver import State
from condiff.process.gaussian import Gaussian
from condiff.solvers.linear import Numbers, Plan, Weights, table


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

    @property
    def depth(self) -> int:
        """There is no history."""
        return 0

    def numbers(self, process: Gaussian, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Numbers:
        """Return the numbers of many jumps at once."""
        row = process.jump(t, s, eta=self.eta)
        return Numbers(t, Weights(row["x"], {"data": row["data"], "noise": row["noise"]}, (1.0,), row["fresh"]))

    def plan(self, process: Process[E], times: Sequence[float]) -> Plan | None:
        """Compute the numbers of every step between times that all rows share; None if jumps are not linear."""
        if not isinstance(process, Gaussian):
            return None
        numbers = table(self, process, times)
        return Plan(self, process, numbers, process.noise if self.eta > 0.0 else None)
