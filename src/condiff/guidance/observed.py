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
        gap = est.aux[OBSERVED] - est.parts["data"]
        level: Tensor | float = 0.5
        if LEVEL in est.aux:
            level = est.aux[LEVEL].to(gap.dtype).reshape(-1, *[1] * (gap.ndim - 1))
        return -(est.aux[FLAGS] * torch.maximum(level * gap, (level - 1.0) * gap)).flatten(1).sum(1)
