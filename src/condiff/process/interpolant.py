"""The two-sided process x_t = alpha(t) * data + beta(t) * source + gamma(t) * noise: bridges between two data sets.

Source: Albergo, Boffi and Vanden-Eijnden 2023 (stochastic interpolants), with time reversed: their x_1 is our data,
their x_0 our source, their velocity minus ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import Num, Scalar, known, mix, scale
from condiff.process.scalar import cos, ratio, sin, sqrt


class Bridge(Protocol):
    """Coefficients (alpha, beta, gamma) of data, source and noise, and their rates."""

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma) at t; (1, 0, 0) at t = 0 and (0, 1, 0) at t = 1."""
        ...

    def rates(self, t: Num) -> tuple[Num, Num, Num]:
        """Return their time derivatives."""
        ...


@final
@dataclass(frozen=True)
class Straight:
    """alpha = 1 - t, beta = t, gamma = strength * sqrt(2 t (1 - t)).

    Args:
        strength: Size of the latent noise, >= 0; 0 is deterministic, 1 / sqrt(2) a unit Brownian bridge.
    """

    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.strength < 0.0:
            raise ValueError(f"Straight needs strength >= 0, got {self.strength}")

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma)."""
        return 1.0 - t, t * 1.0, self.strength * sqrt(2.0 * t * (1.0 - t))

    def rates(self, t: Num) -> tuple[Num, Num, Num]:
        """Return their time derivatives; gamma's is infinite at both ends unless strength is 0."""
        if self.strength == 0.0:
            return t * 0.0 - 1.0, t * 0.0 + 1.0, t * 0.0
        return t * 0.0 - 1.0, t * 0.0 + 1.0, self.strength * ratio(1.0 - 2.0 * t, sqrt(2.0 * t * (1.0 - t)))


@final
@dataclass(frozen=True)
class Trigonometric:
    """alpha = cos(pi t / 2), beta = sin(pi t / 2), gamma = strength * sqrt(2 t (1 - t))."""

    strength: float = 0.0

    def __call__(self, t: Num) -> tuple[Num, Num, Num]:
        """Return (alpha, beta, gamma)."""
        half = math.pi / 2.0
        return sin((1.0 - t) * half), sin(t * half), Straight(self.strength)(t)[2]

    def rates(self, t: Num) -> tuple[Num, Num, Num]:
        """Return their time derivatives."""
        half = math.pi / 2.0
        return -half * sin(t * half), half * cos(t * half), Straight(self.strength).rates(t)[2]


@final
@dataclass(frozen=True)
class Interpolant:
    """x_t = alpha * data + beta * source + gamma * noise, three hidden variables.

    Args:
        bridge: The coefficients.
    """

    bridge: Bridge

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def coefficients(self, t: Tensor) -> Row:
        """Return the state's row {"data", "source", "noise"} at t."""
        alpha, beta, gamma = _at(t, self.bridge)
        return {"data": alpha, "source": beta, "noise": gamma}

    def rates(self, t: Tensor) -> Row:
        """Return the velocity's row, the time derivatives of the coefficients."""
        d_alpha, d_beta, d_gamma = _at(t, self.bridge.rates)
        return {"data": d_alpha, "source": d_beta, "noise": d_gamma}

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Mix data with its source and fresh noise.

        Args:
            data: Data end, shape (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: Source of the latent noise.
            **known: "source" (B, *S), which is required, and optionally "noise".

        Raises:
            TypeError: If the source is missing or another latent is given.
        """
        if "source" not in known or known.keys() - {"source", "noise"}:
            raise TypeError(f"Interpolant.draw needs source=(B, *S), and optionally noise; got {sorted(known)}")
        noise = known["noise"] if "noise" in known else rng.normal(data.shape).to(data)
        row = self.coefficients(t)
        x = mix(1.0, mix(row["data"], data, row["source"], known["source"]), row["noise"], noise)
        return Draw(x, t, {"data": data, "source": known["source"], "noise": noise})

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Return the source, the state at t = 1.

        Raises:
            TypeError: If no source is given.
            ValueError: If its shape is not `shape`.
        """
        if source is None:
            raise TypeError("Interpolant starts from a source: pass source=(B, *S)")
        if tuple(source.shape) != tuple(shape):
            raise ValueError(f"source has shape {tuple(source.shape)}, expected {tuple(shape)}")
        return source

    def infer(self, x: Tensor, t: Tensor, data: Tensor, noise: Tensor) -> Moments:
        """Read the three means off the state and two heads: source = (x - alpha * data - gamma * noise) / beta.

        Where beta = 0 the state does not determine the source; the row with beta = 0 never uses it, so 0 is returned.
        """
        row = self.coefficients(t)
        rest = mix(1.0, mix(1.0, x, _minus(row["data"]), data), _minus(row["noise"]), noise)
        beta = row["source"]
        if isinstance(beta, Tensor):
            inverse: Scalar = torch.where(beta > 0, 1.0 / beta.clamp_min(1e-30), 0.0)
        else:
            inverse = 1.0 / beta if beta > 0.0 else 0.0
        return Moments({"data": data, "source": scale(inverse, rest), "noise": noise})

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at s: x_s = alpha * data + beta * source + gamma * (sqrt(1 - tau) noise + sqrt(tau) fresh).

        tau = eta^2 * (1 - (beta_s gamma_t / (beta_t gamma_s))^2); eta = 1 is the posterior of a Brownian bridge when
        gamma is one.

        Raises:
            ValueError: If eta is not in [0, 1], or eta > 0 with s > t.

        Source: the DDIM jump with three latents; Liu et al. 2023 (I2SB), eq. 11, for eta = 1.
        """
        end = self.coefficients(s)
        if eta == 0.0:
            return est.combine(end)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        if not torch.compiler.is_compiling() and _any(known(s) > known(t)):
            raise ValueError("a stochastic step needs s <= t; use eta = 0 to run time upwards")
        start = self.coefficients(t)
        numbers = [
            torch.as_tensor(row[name], dtype=torch.float64) for row in (start, end) for name in ("source", "noise")
        ]
        beta_t, gamma_t, beta_s, gamma_s = numbers
        carried = beta_s * gamma_t / (beta_t * gamma_s).clamp_min(1e-30)
        tau = eta**2 * (1.0 - carried * carried).clamp(0.0, 1.0)
        mean = est.combine({**end, "noise": end["noise"] * torch.sqrt(1.0 - tau)})
        return mix(1.0, mean, end["noise"] * torch.sqrt(tau), rng.normal(x.shape).to(x))

    def velocity(self, x: Tensor, t: Tensor, est: Moments) -> Tensor:
        """Return dx/dt, shape (B, *S): the part "velocity" if the estimate has one, else the rates' combination."""
        if "velocity" in est.parts:
            return est.parts["velocity"]
        return est.combine({name: rate for name, rate in self.rates(t).items() if not _is_zero(rate)})

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Return x: the clock reaches the data exactly."""
        return x


@final
class TwoHeads(nn.Module):
    """A network with two heads read as a bridge denoiser: its output is (data, noise) stacked on axis 1.

    Args:
        net: Module called as net(x, t, cond); returns (B, 2 C, *grid) for x (B, C, *grid).
        process: The interpolant that made x.
    """

    def __init__(self, net: nn.Module, process: Interpolant) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate data, source and noise behind x (B, C, *grid) at time t."""
        data, noise = self.net(x, t, cond).to(x.dtype).chunk(2, dim=1)
        return self.process.infer(x, t, data, noise)


def _at(t: Tensor, function: Callable[..., tuple[Scalar, Scalar, Scalar]]) -> tuple[Scalar, Scalar, Scalar]:
    return function(known(t))


def _any(flag: Tensor | bool) -> bool:
    return bool(flag.any()) if isinstance(flag, Tensor) else flag


def _minus(value: Scalar) -> Scalar:
    return -value


def _is_zero(value: Scalar) -> bool:
    return not isinstance(value, Tensor) and value == 0.0
