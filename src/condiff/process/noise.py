"""Noise laws: what the noise latent of x_t = alpha * data + sigma * noise is drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.rng import Rng
from condiff.core.shapes import expand


@final
@dataclass(frozen=True)
class Normal:
    """Independent standard normal noise."""

    @property
    def additive(self) -> bool:
        """Sums of scaled normals are normal."""
        return True

    @property
    def standard(self) -> bool:
        """It is what the others are compared with."""
        return True

    def draw(self, shape: Sequence[int], rng: Rng) -> Tensor:
        """Draw noise of shape (B, *S)."""
        return rng.normal(shape)

    def covary(self, x: Tensor) -> Tensor:
        """Apply the covariance, the identity."""
        return x

    def log_kernel(self, square: Tensor, num_features: int) -> Tensor:
        """Return -square / 2, the log-density up to a constant, given the squared length of noise."""
        return -0.5 * square


@final
@dataclass(frozen=True)
class Student:
    """Multivariate Student-t noise: normal noise divided by sqrt(chi2_df / df), one chi2 a row.

    With it x = data + sigma * noise has PFGM++'s kernel, p(x | data) ~ (|x - data|^2 + r^2)^(-(N + D) / 2), at
    r = sigma * sqrt(D) and D = df. A noise level, a time law, a grid and a preconditioning in sigma that suit normal
    noise therefore carry over to any D as they are.

    Args:
        df: Degrees of freedom > 0 (PFGM++'s D); math.inf is the normal law, bit for bit. The variance of a feature is
            df / (df - 2); below df = 2 it is infinite.

    Source: Xu et al. 2023 (PFGM++), eq. 6 and section 3.2 (alignment). The paper draws the length from a Beta law and
    clips it in training; the ratio of a normal to a chi2 is the same law without clipping.
    """

    df: float

    def __post_init__(self) -> None:
        if not self.df > 0.0:
            raise ValueError(f"Student needs df > 0, got {self.df}")

    @property
    def additive(self) -> bool:
        """Two half-variance draws are not one draw (kurtosis differs) below infinity: stochastic steps are refused."""
        return self.standard

    @property
    def standard(self) -> bool:
        """Is it the normal law?"""
        return math.isinf(self.df)

    def draw(self, shape: Sequence[int], rng: Rng) -> Tensor:
        """Draw noise of shape (B, *S)."""
        normal = rng.normal(shape)
        if self.standard:
            return normal
        chi2 = 2.0 * rng.gamma(self.df / 2.0, tuple(shape[:1]))
        return normal * expand((self.df / chi2).sqrt(), normal).to(normal.dtype)

    def covary(self, x: Tensor) -> Tensor:
        """Apply the covariance, df / (df - 2).

        Raises:
            ValueError: If df <= 2, where the law has no covariance.
        """
        if self.standard:
            return x
        if self.df <= 2.0:
            raise ValueError(f"Student noise has no covariance at df = {self.df}; it needs df > 2")
        return x * (self.df / (self.df - 2.0))

    def log_kernel(self, square: Tensor, num_features: int) -> Tensor:
        """Return -(N + D) / 2 * log(1 + square / D), the log-density up to a constant.

        Args:
            square: Squared length of noise, any shape.
            num_features: Features N of one row.
        """
        if self.standard:
            return -0.5 * square
        return -0.5 * (num_features + self.df) * torch.log1p(square / self.df)


@final
@dataclass(frozen=True)
class Offset:
    """Normal noise plus one shared normal number a channel, scaled: N(0, I + strength^2 1 1^T) over the grid.

    Args:
        strength: Size of the shared part, >= 0; 0.1 is usual.

    Source: offset noise as used for latent diffusion fine-tuning; axis 1 of (B, C, *grid) is the channel.
    """

    strength: float = 0.1

    def __post_init__(self) -> None:
        if self.strength < 0.0:
            raise ValueError(f"Offset needs strength >= 0, got {self.strength}")

    @property
    def additive(self) -> bool:
        """It is Gaussian, so sums keep the law."""
        return True

    @property
    def standard(self) -> bool:
        """Its covariance is not the identity, unless nothing is shared."""
        return self.strength == 0.0

    def draw(self, shape: Sequence[int], rng: Rng) -> Tensor:
        """Draw noise of shape (B, C, *grid)."""
        noise = rng.normal(shape)
        shared = rng.normal(tuple(shape[:2]))
        return noise + self.strength * expand(shared, noise)

    def covary(self, x: Tensor) -> Tensor:
        """Apply the covariance I + strength^2 1 1^T over the grid of each channel."""
        if x.ndim <= 2:
            return x * (1.0 + self.strength**2)
        return x + self.strength**2 * x.sum(dim=tuple(range(2, x.ndim)), keepdim=True)
