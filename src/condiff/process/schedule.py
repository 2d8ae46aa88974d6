"""Schedules: alpha(t) and sigma(t) of x_t = alpha * data + sigma * noise, with analytic rates and inverses.

Every schedule runs on the library's clock (t = 0 data, t = 1 noise) and works in float64: on Python floats when a time
is shared by the batch, on float64 tensors otherwise. The forms are those that lose no digits at either end: sigma of a
variance-preserving schedule comes from expm1, alpha of a trigonometric one from the sine of the complementary angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.shapes import Num
from condiff.process.scalar import asin, atan, clip, cos, exp, expm1, ratio, sigmoid, sin, softplus, sqrt


@final
@dataclass(frozen=True)
class VP:
    """Variance preserving with linear beta(t) = beta_min + t (beta_max - beta_min).

    alpha = exp(L), sigma = sqrt(1 - exp(2 L)), L = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2

    Args:
        beta_min, beta_max: Noise rates at the ends, 0 < beta_min < beta_max.

    Source: Song et al. 2021 (score SDE), appendix B and C. d sigma / dt is infinite at t = 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min < self.beta_max:
            raise ValueError(f"VP needs 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}")

    def _log_alpha(self, t: Num) -> Num:
        return -t * t * ((self.beta_max - self.beta_min) / 4.0) - t * (self.beta_min / 2.0)

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        log_alpha = self._log_alpha(t)
        return exp(log_alpha), sqrt(-expm1(2.0 * log_alpha))

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        alpha, sigma = self(t)
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -0.5 * beta * alpha, ratio(0.5 * beta * alpha * alpha, sigma)

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]."""
        minus_log_alpha = softplus(-logsnr) * 0.5
        root = sqrt(self.beta_min**2 + 4.0 * (self.beta_max - self.beta_min) * minus_log_alpha)
        return clip(4.0 * minus_log_alpha / (self.beta_min + root), 0.0, 1.0)


@final
@dataclass(frozen=True)
class Cosine:
    """The cosine schedule of improved DDPM in continuous time, alpha(1) = 0.

    alpha = sin((1 - t) k) / cos(theta), sigma = sqrt(sin(t k) sin((t + 2 o) k)) / cos(theta),
    k = (pi / 2) / (1 + o), theta = o k

    Args:
        offset: o > 0; 0.008 in the paper.

    Source: Nichol and Dhariwal 2021, eq. 17; the product of sines is the same sigma without cancellation.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if not self.offset > 0.0:
            raise ValueError(f"Cosine needs offset > 0, got {self.offset}")

    @property
    def _k(self) -> float:
        return math.pi / 2.0 / (1.0 + self.offset)

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        k = self._k
        norm = math.cos(self.offset * k)
        return sin((1.0 - t) * k) / norm, sqrt(sin(t * k) * sin((t + 2.0 * self.offset) * k)) / norm

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        k = self._k
        alpha, sigma = self(t)
        d_alpha = -k * cos((1.0 - t) * k) / math.cos(self.offset * k)
        return d_alpha, ratio(-alpha * d_alpha, sigma)

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]."""
        k = self._k
        return clip(1.0 - asin(math.cos(self.offset * k) * sqrt(sigmoid(logsnr))) / k, 0.0, 1.0)


@final
@dataclass(frozen=True)
class LogLinear:
    """Variance exploding, log-linear: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    This is the clock of EDM and of VE systems: uniform time is uniform log-SNR. It never reaches zero noise, so
    sampling ends with the data estimate at sigma_min.

    Args:
        sigma_min, sigma_max: Noise levels at t = 0 and t = 1, 0 < sigma_min < sigma_max.

    Source: Song et al. 2021 (VE, sigma 0.01 to 50); Karras et al. 2022 (EDM, sigma 0.002 to 80).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"LogLinear needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @classmethod
    def edm(cls) -> Self:
        """Build the EDM clock, sigma from 0.002 to 80."""
        return cls(0.002, 80.0)

    @classmethod
    def ve(cls) -> Self:
        """Build the score-SDE VE clock, sigma from 0.01 to 50."""
        return cls(0.01, 50.0)

    @property
    def _span(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        return t * 0.0 + 1.0, self.sigma_min * exp(t * self._span)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        return t * 0.0, self._span * self.sigma_min * exp(t * self._span)

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]."""
        return clip((-0.5 * logsnr - math.log(self.sigma_min)) / self._span, 0.0, 1.0)


@final
@dataclass(frozen=True)
class Flow:
    """The straight path of flow matching: alpha = 1 - t, sigma = sigma_min + (1 - sigma_min) t.

    Args:
        sigma_min: Noise left on data, 0 <= sigma_min < 1; 0 is rectified flow.

    Source: Liu et al. 2023 (rectified flow); Lipman et al. 2023, example II, with time reversed.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma_min < 1.0:
            raise ValueError(f"Flow needs 0 <= sigma_min < 1, got {self.sigma_min}")

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        return 1.0 - t, t * (1.0 - self.sigma_min) + self.sigma_min

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        return t * 0.0 - 1.0, t * 0.0 + (1.0 - self.sigma_min)

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]: kappa = exp(-logsnr / 2) = sigma / alpha solved for t."""
        # Written in 1 / (1 + kappa) so that kappa = 0 and infinity are exact.
        weight = sigmoid(-0.5 * logsnr)  # kappa / (1 + kappa)
        return clip((weight - self.sigma_min * (1.0 - weight)) / (1.0 - self.sigma_min * (1.0 - weight)), 0.0, 1.0)


@final
@dataclass(frozen=True)
class Trig:
    """The trigonometric path: alpha = sin((1 - t) pi / 2), sigma = sin(t pi / 2); uniform in noise angle.

    Source: Albergo and Vanden-Eijnden 2023 (generalised variance preserving).
    """

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        return sin((1.0 - t) * (math.pi / 2.0)), sin(t * (math.pi / 2.0))

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        half = math.pi / 2.0
        return -half * sin(t * half), half * sin((1.0 - t) * half)

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]."""
        return clip(atan(exp(-0.5 * logsnr)) * (2.0 / math.pi), 0.0, 1.0)


@final
@dataclass(frozen=True)
class Table:
    """Any discrete variance-preserving schedule, exact at its nodes: index i of n stands at t = (i + 1) / n.

    alpha = cos(phi), sigma = sin(phi); the noise angle phi is linear in t between nodes, and 0 at t = 0. The angle is
    finite at both ends, so a table with alphas_cumprod[-1] = 0 (zero terminal SNR) needs no special case.

    Args:
        alphas_cumprod: abar_i = alpha_i^2, strictly decreasing, in [0, 1), at least 2 entries.

    Source: Ho et al. 2020 for the indexing; interpolation by angle instead of log-SNR is ours.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        values = self.alphas_cumprod
        falls = all(a > b for a, b in zip((1.0, *values), values, strict=False))
        if len(values) < 2 or not falls or values[-1] < 0.0:
            raise ValueError("Table needs at least 2 values, strictly decreasing, all in [0, 1)")
        # Made now: the lock inside cached_property cannot be traced into a graph.
        _ = self._angle_tensor, self._hash

    @classmethod
    def of(cls, alphas_cumprod: Sequence[float] | Tensor) -> Self:
        """Build from a tensor or list of abar_i."""
        values = alphas_cumprod.tolist() if isinstance(alphas_cumprod, Tensor) else alphas_cumprod
        return cls(tuple(float(value) for value in values))

    @classmethod
    def linear(cls, num: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Self:
        """Build the DDPM table: beta_i linear from beta_min to beta_max. Source: Ho et al. 2020."""
        beta = torch.linspace(beta_min, beta_max, num, dtype=torch.float64)
        return cls.of(torch.cumprod(1.0 - beta, 0))

    @classmethod
    def scaled_linear(cls, num: int = 1000, beta_min: float = 0.00085, beta_max: float = 0.012) -> Self:
        """Build the latent-diffusion table: sqrt(beta_i) linear. Source: Rombach et al. 2022."""
        beta = torch.linspace(beta_min**0.5, beta_max**0.5, num, dtype=torch.float64) ** 2
        return cls.of(torch.cumprod(1.0 - beta, 0))

    @classmethod
    def square_root(cls, num: int = 2000, offset: float = 1e-4) -> Self:
        """Build the table for text: abar falls as 1 - sqrt(t + offset), so that noise grows fastest near the data.

        beta_i = min(1 - abar(i / num) / abar((i - 1) / num), 0.999): abar is 1 at t = 0, and all but 0 at t = 1.

        Source: Li et al. 2022 (Diffusion-LM).
        """
        abar = 1.0 - (torch.linspace(0.0, 1.0, num + 1, dtype=torch.float64) + offset).sqrt()
        beta = (1.0 - abar[1:] / abar[:-1]).clamp_max(0.999)
        return cls.of(torch.cumprod(1.0 - beta, 0))

    def __hash__(self) -> int:
        """Return the hash of the entries, computed once: a thousand of them take longer than a step."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.alphas_cumprod)

    @cached_property
    def _angles(self) -> tuple[float, ...]:
        return (0.0, *(math.atan2(math.sqrt(1.0 - abar), math.sqrt(abar)) for abar in self.alphas_cumprod))

    @cached_property
    def _angle_tensor(self) -> Tensor:
        return torch.tensor(self._angles, dtype=torch.float64)

    def _angle(self, t: Num) -> tuple[Num, Num]:
        num = len(self.alphas_cumprod)
        if isinstance(t, Tensor):
            angles = self._angle_tensor.to(t.device)
            # The tolerance keeps a node computed as i / n on its own segment.
            left = (t * num + 1e-9).nan_to_num(0.0).floor().clamp(0, num - 1).long()
            low, high = angles[left], angles[left + 1]
            return low + (t * num - left) * (high - low), (high - low) * num
        at = max(0, min(num - 1, math.floor(t * num + 1e-9)))
        start, end = self._angles[at], self._angles[at + 1]
        return start + (t * num - at) * (end - start), (end - start) * num

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        phi = self._angle(t)[0]
        if isinstance(phi, Tensor):
            return sin(math.pi / 2.0 - phi), sin(phi)
        return math.sin(math.pi / 2.0 - phi), math.sin(phi)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma), those of the segment to the right of a node."""
        phi, d_phi = self._angle(t)
        return -sin(phi) * d_phi, sin(math.pi / 2.0 - phi) * d_phi

    def time(self, logsnr: Num) -> Num:
        """Return the time of a log-SNR, in [0, 1]."""
        phi = atan(exp(-0.5 * logsnr))
        num = len(self.alphas_cumprod)
        if isinstance(phi, Tensor):
            angles = self._angle_tensor.to(phi.device)
            right = torch.searchsorted(angles, phi.contiguous()).clamp(1, num)
            low, high = angles[right - 1], angles[right]
            return ((right - 1 + (phi - low) / (high - low)) / num).clamp(0.0, 1.0)
        at = float(torch.searchsorted(self._angle_tensor, phi))
        right_index = int(max(1, min(num, at)))
        start, end = self._angles[right_index - 1], self._angles[right_index]
        return clip((right_index - 1 + (phi - start) / (end - start)) / num, 0.0, 1.0)
