"""Flow maps: one network call jumps from time t to any time s of the probability flow.

A jump of a Gaussian process is x_s = alpha_s * data + sigma_s * noise. With the posterior means at (x, t) in it, it is
the first-order step of DDIM. There is a pair (data, noise) for which it lands exactly on the flow, and that pair
depends on s too: a flow map estimates it. So nothing but the arrival time is new. What the network regresses is a
target's row as ever, and each published form is one of them:

| form | process | target | the jump, written out |
| --- | --- | --- | --- |
| average velocity (MeanFlow) | `Flow` | `Velocity` | x_s = x - (t - s) out |
| consistency trajectory (CTM) | `LogLinear` | `EDM` | x_s = (s / t) x + (1 - s / t) (c_skip x + c_out out), in sigma |
| consistency | any | any | one of these, asked for s = 0 only |

At s = t the pair must be the posterior means themselves, and the jump is the identity whatever the network says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition, Kind, Vector
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, instant, known, mix
from condiff.nn.embed import frequencies, sinusoids
from condiff.process.gaussian import Gaussian
from condiff.process.scalar import log, sqrt

SPAN = "span"
"""Name of the condition through which a network is told how far it jumps."""


@final
@dataclass(frozen=True)
class Jumps:
    """An estimate that still waits for the time of arrival.

    Args:
        to: Called as to(s), s of the time's shape; returns the moments whose jump from t to s lands on the flow.
        aux: Extra network outputs.
    """

    to: Callable[[Tensor], Moments]
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    def lerp(self, other: Jumps, weight: Tensor | float) -> Jumps:
        """Return the jumps of the moments (1 - weight) * self + weight * other, for every arrival."""
        return Jumps(lambda s: self.to(s).lerp(other.to(s), weight), other.aux)

    def halves(self, x: Tensor) -> tuple[Jumps, Jumps]:
        """Split an estimate of two stacked copies of x (B, *S) into one for each copy."""
        made: list[tuple[Tensor, tuple[Moments, Moments]]] = []

        def at(s: Tensor) -> tuple[Moments, Moments]:
            # Both halves are asked for the same arrival, and one call answers both.
            for asked, pair in made:
                if asked is s:
                    return pair
            made.append((s, self.to(s if s.ndim == 0 else torch.cat([s, s])).halves(x)))
            return made[-1][1]

        return Jumps(lambda s: at(s)[0], self.aux), Jumps(lambda s: at(s)[1], self.aux)


@final
@dataclass(frozen=True)
class Mapped:
    """A Gaussian process whose way back is a flow map: a step jumps to its end, however far that is.

    Args:
        process: The process that corrupts the data. Where its clock never reaches zero noise, t = 0 counts as the data,
            as consistency models have it: a grid of n jumps needs n + 1 nodes.
    """

    process: Gaussian

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt data (B, *S) to times t, as the process does."""
        return self.process.draw(data, t, rng=rng, **known)

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw the state at t = 1, as the process does."""
        return self.process.start(shape, rng=rng, source=source)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Jumps, *, eta: float, rng: Rng) -> Tensor:
        """Jump to s; with eta > 0 jump further down, to a time r, and come back up to s with fresh noise.

        kappa_r = sqrt(1 - eta^2) (kappa_s - kappa_0) + kappa_0, kappa = sigma / alpha, kappa_0 its value at t = 0

        Args:
            x: State at time t, shape (B, *S).
            t, s: Times in [0, 1], () or (B,).
            est: A flow map's estimate at (x, t).
            eta: 0 is deterministic; 1 jumps to the data and puts new noise on them (multistep consistency sampling).
            rng: Source of the fresh noise, read only if eta > 0.

        Returns: State at time s, shape (B, *S); x itself in rows where s = t.

        Raises:
            TypeError: If eta > 0 and the noise law is not additive.
            ValueError: If eta is not in [0, 1], or eta > 0 with s > t.

        Source: Kim et al. 2024 (CTM), algorithm 3, gamma = eta, for any (alpha, sigma); Song et al. 2023, algorithm 1.
        """
        process = self.process
        if eta == 0.0:
            return process.reverse(x, t, s, est.to(s), eta=0.0, rng=rng)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        if not process.noise.additive:
            raise TypeError(f"{process.noise} is not additive, so a part of it cannot be redrawn; use eta = 0")
        if not torch.compiler.is_compiling() and bool(torch.as_tensor(known(s) > known(t)).any()):
            raise ValueError("a stochastic step needs s <= t; use eta = 0 to run time upwards")
        noise = process.noise.draw(x.shape, rng).to(x)
        waits = known(s) == known(t)
        if waits is True:
            return x
        lower = self._below(s, eta)
        landed = process.reverse(x, t, lower, est.to(lower), eta=0.0, rng=rng)
        (alpha_r, sigma_r), (alpha_s, sigma_s) = process.coefficients(lower), process.coefficients(s)
        keep = alpha_s / alpha_r
        fresh = _root(sigma_s * sigma_s - keep * keep * sigma_r * sigma_r)
        moved = mix(keep, landed, fresh, noise)
        return torch.where(expand(waits, x), x, moved) if isinstance(waits, Tensor) else moved

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Jumps]) -> Tensor:
        """Return x: the last jump has landed on the data."""
        return x

    def _below(self, s: Tensor, eta: float) -> Tensor:
        kappa = _kappa(self.process, s)
        least = _kappa(self.process, instant(0.0))
        part = math.sqrt(1.0 - eta * eta)
        if isinstance(kappa, Tensor):
            lower = part * (kappa - least) + least
            # sigma = 0 has no logarithm to invert, and t = 1 with alpha = 0 is left by nobody.
            time = torch.as_tensor(self.process.schedule.time(-2.0 * torch.log(lower)))
            return torch.where(lower > least, torch.minimum(time, s.to(time)), torch.zeros_like(time))
        value = part * (kappa - float(least)) + float(least) if part > 0.0 else float(least)
        if value <= float(least):
            return instant(0.0, s.device)
        return instant(min(float(self.process.schedule.time(-2.0 * log(value))), float(known(s))), s.device)


def _kappa(process: Gaussian, t: Tensor) -> Scalar:
    alpha, sigma = process.coefficients(t)
    if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
        return sigma / alpha
    return sigma / alpha if alpha > 0.0 else math.inf


def _root(square: Scalar) -> Scalar:
    return sqrt(square.clamp_min(0.0) if isinstance(square, Tensor) else max(square, 0.0))


@final
class FlowMap(nn.Module):
    """A denoiser that is also told where the jump ends, read as a flow map.

    Its network reads a condition `span`: cos(f (t - s)) and sin(f (t - s)) for FlowMap.COUNT frequencies f. That is a
    second time embedding which every network with vector conditions has; add `FlowMap.reads()` to its schema.

    Args:
        inner: A denoiser whose network reads `span`, such as Preconditioned around an MLP, U-Net or DiT.
        low, high: Lowest and highest angular frequency of the span. Training a flow map differentiates the network in
            time, which multiplies its output by the frequencies: keep these low, and those of the network's own time
            embedding too.

    Raises:
        ValueError: If not 0 < low <= high.

    Source: Geng et al. 2025 (MeanFlow) for the pair (t, t - s); frequencies are ours.
    """

    COUNT = 32

    def __init__(self, inner: nn.Module, *, low: float = 0.05, high: float = 5.0) -> None:
        super().__init__()
        if not 0.0 < low <= high:
            raise ValueError(f"frequencies need 0 < low <= high, got {low} and {high}")
        self.inner, self.low, self.high = inner, low, high

    @classmethod
    def reads(cls) -> dict[str, Kind]:
        """Return what a flow map's network reads beside the user's conditions."""
        return {SPAN: Vector(2 * cls.COUNT)}

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Jumps:
        """Estimate the jumps from x (B, *S) at time t, () or (B,); the network runs when an arrival is named.

        Raises:
            ValueError: If frames or tokens have times of their own.
        """
        if t.ndim > 1:
            raise ValueError(f"a flow map takes one time a sample, () or (B,), got times of shape {tuple(t.shape)}")

        def to(s: Tensor) -> Moments:
            wide = torch.promote_types(x.dtype, torch.float32)
            rates = frequencies(self.COUNT, self.low, self.high).to(x.device, wide)
            span = sinusoids((t - s).to(x.device, wide), rates)
            features = {SPAN: span.expand(x.shape[0], -1)}
            told = Condition.of(**features) if cond is None else cond.adding(**features)
            moments: Moments = self.inner(x, t, told)
            return moments

        return Jumps(to)


@final
class Diagonal(nn.Module):
    """The diagonal s = t of a flow map: an ordinary denoiser, for any solver, likelihood or guidance.

    Args:
        map: A flow map.
    """

    def __init__(self, map: Denoiser[Jumps]) -> None:
        super().__init__()
        self.map = map

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate what made x (B, *S) at time t."""
        return self.map(x, t, cond).to(t)
