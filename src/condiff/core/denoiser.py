"""The denoiser protocol: a pure map from a state and its time to an estimate of what made it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import E_co


class Denoiser(Protocol[E_co]):
    """A preconditioned network, an oracle, or guidance around either. Pure: no memory between calls (law 4)."""

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> E_co:
        """Estimate what made x (B, *S) at time t (a prefix of its shape)."""
        ...
