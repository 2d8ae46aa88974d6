"""Shaping of token estimates before a value is drawn: temperature, and cutting the tail by rank or by mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical


@final
@dataclass(frozen=True)
class Temperature:
    """p^(1 / temperature), normalised: below 1 prefers likely tokens.

    Args:
        denoiser: A token denoiser.
        temperature: > 0; 1 changes nothing.
    """

    denoiser: Denoiser[Categorical]
    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the sharpened estimate."""
        return self.denoiser(x, t, cond).map(lambda logits: logits / self.temperature)


@final
@dataclass(frozen=True)
class TopK:
    """Only the k most likely tokens of each position; tokens as likely as the k-th stay too.

    Args:
        denoiser: A token denoiser.
        k: >= 1.

    Source: Fan et al. 2018.
    """

    denoiser: Denoiser[Categorical]
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"TopK needs k >= 1, got {self.k}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the cut estimate."""
        return self.denoiser(x, t, cond).map(self._cut)

    def _cut(self, logits: Tensor) -> Tensor:
        if self.k >= logits.shape[-1]:
            return logits
        edge = logits.topk(self.k, -1).values[..., -1:]
        return logits.masked_fill(logits < edge, -torch.inf)


@final
@dataclass(frozen=True)
class TopP:
    """The smallest set of likeliest tokens whose mass reaches p, at each position ("nucleus").

    Args:
        denoiser: A token denoiser.
        p: In (0, 1]; 1 changes nothing.

    Source: Holtzman et al. 2020.
    """

    denoiser: Denoiser[Categorical]
    p: float

    def __post_init__(self) -> None:
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"TopP needs p in (0, 1], got {self.p}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the cut estimate."""
        return self.denoiser(x, t, cond).map(self._cut)

    def _cut(self, logits: Tensor) -> Tensor:
        if self.p == 1.0:
            return logits
        ordered, place = logits.sort(-1, descending=True)
        mass = ordered.softmax(-1)
        # A token stays if the mass before it has not reached p yet, so the likeliest always stays.
        drop = mass.cumsum(-1) - mass >= self.p
        return logits.masked_fill(torch.zeros_like(drop).scatter(-1, place, drop), -torch.inf)
