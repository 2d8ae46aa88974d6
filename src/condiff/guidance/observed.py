"""Energies of what was observed of a sample: how well a clean estimate agrees with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments

OBSERVED, FLAGS, LEVEL = "observed", "flags", "level"
"""What an estimate's aux calls observed values (B, *S), 1 where there is one, and each row's quantile level (B, 1)."""


def pinball(truth: Tensor, forecast: Tensor, level: Tensor | float) -> Tensor:
    """Compute the quantile loss max(level * e, (level - 1) * e), e = truth - forecast; at 1/2 half the absolute error.

    Args:
        truth, forecast: Of any shapes that broadcast.
        level: Quantile level in (0, 1), a number or a tensor that broadcasts with them.

    Returns: A tensor of the common shape, not negative.

    Source: Koenker and Bassett 1978.
    """
    error = truth - forecast
    return torch.maximum(level * error, (level - 1.0) * error)


@final
@dataclass(frozen=True)
class SquaredError:
    """log-density -sum of flags (observed - data)^2, with data the clean estimate: TSDiff-MS.

    There is no 1/2 in it, so a scale of 1 is Gaussian noise of variance 1/2. Rows without an observation are 0.

    Source: Kollovieh et al. 2023 (TSDiff), as its official code has it.
    """

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return (B,)."""
        if OBSERVED not in est.aux:
            return x.new_zeros(len(x))
        return -(est.aux[FLAGS] * (est.aux[OBSERVED] - est.parts["data"]).square()).flatten(1).sum(1)


@final
@dataclass(frozen=True)
class Pinball:
    """log-density -sum of flags max(k r, (k - 1) r), r = observed - data, k the level of the row: TSDiff-Q.

    An asymmetric Laplace likelihood: draws of different levels spread over the quantiles. A row without a level is
    drawn to the median. Its gradient in the data is bounded by 1, so no scale makes it diverge.

    Source: Kollovieh et al. 2023 (TSDiff), quantile self-guidance.
    """

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return (B,)."""
        if OBSERVED not in est.aux:
            return x.new_zeros(len(x))
        level: Tensor | float = 0.5
        if LEVEL in est.aux:
            level = est.aux[LEVEL].to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return -(est.aux[FLAGS] * pinball(est.aux[OBSERVED], est.parts["data"], level)).flatten(1).sum(1)
