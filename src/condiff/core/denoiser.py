"""The denoiser protocol: a pure map from a state and its time to an estimate of what made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import E, E_co


class Denoiser(Protocol[E_co]):
    """A preconditioned network, an oracle, or guidance around either. Pure: no memory between calls (law 4)."""

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> E_co:
        """Estimate what made x (B, *S) at time t (a prefix of its shape)."""
        ...


def bind(denoiser: Denoiser[E], cond: Condition | None) -> Callable[[Tensor, Tensor], E]:
    """Return the denoiser of one condition, for a loop that calls it many times.

    A denoiser may offer `bind(cond)` of its own, which does once what depends on the condition alone: guidance doubles
    its batch of conditions there. The condition must not change while the result is in use.
    """
    own = getattr(denoiser, "bind", None)
    bound: Callable[[Tensor, Tensor], E] = own(cond) if own is not None else lambda x, t: denoiser(x, t, cond)
    return bound
