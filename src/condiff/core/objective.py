"""The objective protocol: per-row losses, with an injectable draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E_contra
from condiff.core.process import Draw
from condiff.core.rng import Rng


@final
@dataclass(frozen=True, slots=True)
class Loss:
    """Rows (B,) that likelihoods and zero-shot classification reuse, and batch-level scalars by name."""

    rows: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)

    def total(self) -> Tensor:
        """Return the scalar to minimise: the mean of rows plus the sum of terms."""
        total = self.rows.mean()
        for term in self.terms.values():
            total = total + term
        return total


class Objective(Protocol[E_contra]):
    """A training loss. `draw` can be injected: paired noise for classification, exact tests."""

    def __call__(
        self,
        denoiser: Denoiser[E_contra],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss of clean data (B, *S) under its condition."""
        ...
