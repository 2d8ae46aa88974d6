"""Coefficients of two-sided processes: how data, source and latent noise are mixed, and their rates.

A bridge is (alpha, beta, gamma) as functions of t, with (1, 0, 0) at the data and (0, 1, 0) at the source. The latent
part gamma has a law of its own. gamma' is infinite at both ends for the usual choices, but gamma * gamma' never is: it
is what the formulas are written in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.shapes import Num
from condiff.process.scalar import cos, logsnr, ratio, sigmoid, sin, sqrt


class Latent(Protocol):
    """How much latent noise there is: gamma(t), 0 at both ends."""

    def __call__(self, t: Num) -> Num:
        """Return gamma."""
        ...

    def product(self, t: Num) -> Num:
        """Return gamma * gamma', finite at both ends."""
        ...


@final
@dataclass(frozen=True)
class Still:
    """No latent noise: the path between two points is a curve, and there is no score to take noisy steps with."""

    def __call__(self, t: Num) -> Num:
        """Return 0."""
        return t * 0.0

    def product(self, t: Num) -> Num:
        """Return 0."""
        return t * 0.0


@final
@dataclass(frozen=True)
class Brownian:
    """gamma = sqrt(variance t (1 - t)), gamma gamma' = variance (1 - 2 t) / 2: a Brownian bridge.

    Args:
        variance: > 0; 1 is the papers' default, 2 their favourite.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, table of gamma.
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, self.variance)

    def __call__(self, t: Num) -> Num:
        """Return gamma."""
        return sqrt(self.variance * t * (1.0 - t))

    def product(self, t: Num) -> Num:
        """Return gamma * gamma'."""
        return self.variance * (0.5 - t)


@final
@dataclass(frozen=True)
class Parabola:
    """gamma = strength t (1 - t): smooth at both ends.

    Args:
        strength: > 0.

    Source: `bsquared` of the authors' code.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, self.strength)

    def __call__(self, t: Num) -> Num:
        """Return gamma."""
        return self.strength * t * (1.0 - t)

    def product(self, t: Num) -> Num:
        """Return gamma * gamma'."""
        return self.strength**2 * t * (1.0 - t) * (1.0 - 2.0 * t)


@final
@dataclass(frozen=True)
class SineSquared:
    """gamma = strength sin^2(pi t).

    Args:
        strength: > 0.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, table of gamma.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, self.strength)

    def __call__(self, t: Num) -> Num:
        """Return gamma."""
        s = sin(math.pi * t)
        return self.strength * s * s

    def product(self, t: Num) -> Num:
        """Return gamma * gamma'."""
        s = sin(math.pi * t)
        return self.strength**2 * math.pi * s * s * sin(2.0 * math.pi * t)


@final
@dataclass(frozen=True)
class Sigmoids:
    """gamma = g(t) - g(0), g(t) = sigmoid(f (t - 1/2) + 1) - sigmoid(f (t - 1/2) - 1): flat near both ends.

    Args:
        sharpness: f > 0.

    Source: `sigmoid` of the authors' code, f = 10.
    """

    sharpness: float = 10.0

    def __post_init__(self) -> None:
        _positive(self, self.sharpness)

    def __call__(self, t: Num) -> Num:
        """Return gamma."""
        return self._hump(t) - self._hump(t * 0.0)

    def product(self, t: Num) -> Num:
        """Return gamma * gamma'."""
        f = self.sharpness
        up, down = sigmoid(f * (t - 0.5) + 1.0), sigmoid(f * (t - 0.5) - 1.0)
        return self(t) * f * (up * (1.0 - up) - down * (1.0 - down))

    def _hump(self, t: Num) -> Num:
        f = self.sharpness
        return sigmoid(f * (t - 0.5) + 1.0) - sigmoid(f * (t - 0.5) - 1.0)


class Bridge(Protocol):
    """Coefficients (alpha, beta, gamma) of data, source and noise, and their rates."""

    @property
    def gamma(self) -> Latent:
        """Law of the latent part."""
        ...

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma) at t; (1, 0, 0) at t = 0 and (0, 1, 0) at t = 1."""
        ...

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, beta); that of gamma is `gamma.product(t) / gamma(t)`."""
        ...


@final
@dataclass(frozen=True)
class Straight:
    """alpha = 1 - t, beta = t.

    With `Brownian(2 eps)`, an entropic coupling of the two ends (`Coupled` with `Sinkhorn(4 eps)`) and the constant
    diffusion eps it is the Schroedinger bridge between them.

    Args:
        gamma: Law of the latent part.
    """

    gamma: Latent = field(default_factory=Still)

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma)."""
        return 1.0 - t, t * 1.0, self.gamma(t)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return (-1, 1)."""
        return t * 0.0 - 1.0, t * 0.0 + 1.0


@final
@dataclass(frozen=True)
class Trigonometric:
    """alpha = r cos(pi t / 2), beta = r sin(pi t / 2), r = sqrt(1 - gamma^2): alpha^2 + beta^2 + gamma^2 = 1.

    Args:
        gamma: Law of the latent part, below 1 everywhere.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 4.
    """

    gamma: Latent = field(default_factory=Still)

    def __post_init__(self) -> None:
        if not self.gamma(0.5) < 1.0:
            raise ValueError(f"Trigonometric needs gamma < 1, but {self.gamma} is {self.gamma(0.5):g} at t = 0.5")

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma)."""
        half, gamma = math.pi / 2.0, self.gamma(t)
        rest = sqrt(1.0 - gamma * gamma)
        return rest * sin((1.0 - t) * half), rest * sin(t * half), gamma

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, beta)."""
        half, gamma = math.pi / 2.0, self.gamma(t)
        rest = sqrt(1.0 - gamma * gamma)
        loss = self.gamma.product(t) / rest
        ahead, behind = sin(t * half), sin((1.0 - t) * half)
        return -half * rest * ahead - loss * behind, half * rest * cos(t * half) - loss * ahead


@final
@dataclass(frozen=True)
class EncodingDecoding:
    """alpha = cos^2(pi t) up to t = 1/2 and 0 after, beta the other way round: half-way the state is pure noise.

    Args:
        gamma: Law of the latent part; it must not be `Still`, or nothing of the data passes the middle.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 4.
    """

    gamma: Latent = field(default_factory=SineSquared)

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma)."""
        c = cos(math.pi * t)
        alpha, beta = _sides(t, c * c)
        return alpha, beta, self.gamma(t)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, beta)."""
        return _sides(t, -math.pi * sin(2.0 * math.pi * t))


@final
@dataclass(frozen=True)
class Mirror:
    """alpha = 1, beta = 0: from data to data, x_t = data + gamma noise. The noise head alone gives the velocity.

    Its state at both ends is data, so a walk starts from a data point, given as the source, and ends at another.

    Args:
        gamma: Law of the latent part.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 3.5. Their code's ODE has the sign of the velocity wrong.
    """

    gamma: Latent = field(default_factory=Brownian)

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (1, 0, gamma)."""
        return t * 0.0 + 1.0, t * 0.0, self.gamma(t)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return (0, 0)."""
        return t * 0.0, t * 0.0


@final
@dataclass(frozen=True)
class Merged:
    """The one-sided schedule of a bridge whose source is standard normal: alpha, sigma = sqrt(beta^2 + gamma^2).

    Two independent normal parts are one normal part of the joint variance; sigma sigma' = beta beta' + gamma gamma'.
    For any other source of unit variance it is still data against everything else.

    Args:
        bridge: The coefficients.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 3.2 (one-sided interpolants).
    """

    bridge: Bridge

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma)."""
        alpha, beta, gamma = self.bridge(t)
        return alpha, sqrt(beta * beta + gamma * gamma)

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return their time derivatives; sigma's may be infinite where sigma = 0."""
        _, beta, gamma = self.bridge(t)
        d_alpha, d_beta = self.bridge.rates(t)
        return d_alpha, ratio(beta * d_beta + self.bridge.gamma.product(t), sqrt(beta * beta + gamma * gamma))

    def time(self, logsnr: Num) -> Num:
        """Return the t at which log(alpha^2 / sigma^2) has this value, by bisection; the ratio must fall with t."""
        if isinstance(logsnr, Tensor):
            flat = logsnr.to(torch.float64).flatten().tolist()
            return torch.tensor([self._time(v) for v in flat], dtype=torch.float64).reshape(logsnr.shape)
        return self._time(logsnr)

    def _time(self, wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            alpha, sigma = self(middle)
            low, high = (middle, high) if logsnr(alpha, sigma) > wanted else (low, middle)
        return 0.5 * (low + high)


def _sides(t: Num, value: Num) -> tuple[Num, Num]:
    if isinstance(t, Tensor) and isinstance(value, Tensor):
        return torch.where(t <= 0.5, value, 0.0), torch.where(t > 0.5, value, 0.0)
    return (value, t * 0.0) if t <= 0.5 else (t * 0.0, value)


def _positive(law: object, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{type(law).__name__} needs a positive number, got {value}; Still() has no latent noise")
