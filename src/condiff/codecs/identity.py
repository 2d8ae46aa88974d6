"""Codecs without learned parts: identity and standardisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition


@final
@dataclass(frozen=True)
class Identity:
    """The process works on the data themselves."""

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return x."""
        return x

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return z."""
        return z


@final
@dataclass(frozen=True)
class Standardize:
    """Subtracts a mean and divides by a standard deviation, one a channel (axis 1) or one for all.

    Args:
        mean: One number, or one a channel.
        std: Positive, as many as means.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0.0:
            raise ValueError(f"Standardize needs as many std > 0 as means, got {self}")

    @classmethod
    def fit(cls, data: Tensor) -> Self:
        """Measure mean and standard deviation a channel of data (N, C, ...); a constant channel gets std 1."""
        flat = data.to(torch.float64).transpose(0, 1).flatten(1)
        std = flat.std(1, correction=0)
        return cls(tuple(flat.mean(1).tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return (x - mean) / std."""
        return (x - self._shaped(self.mean, x)) / self._shaped(self.std, x)

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return z * std + mean."""
        return z * self._shaped(self.std, z) + self._shaped(self.mean, z)

    def _shaped(self, values: tuple[float, ...], x: Tensor) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 2))


@final
@dataclass(frozen=True)
class Flatten:
    """The process works on flat vectors (B, F) of data (B, *S).

    Args:
        shape: Shape (*S) of one example.
    """

    shape: tuple[int, ...]

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return x as (B, F)."""
        return x.flatten(1)

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return z as (B, *S)."""
        return z.reshape(len(z), *self.shape)
