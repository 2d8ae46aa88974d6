"""The exact denoiser of a bridge between two mixtures of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.process.interpolant import Interpolant


@final
@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians of diagonal covariance on vectors (D,).

    Args:
        weights: Component weights (K,), > 0; normalised here.
        means: Shape (K, D).
        variances: Shape (K, D), >= 0.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        if (
            self.means.ndim != 2
            or self.variances.shape != self.means.shape
            or self.weights.shape != self.means.shape[:1]
        ):
            raise ValueError(
                f"Mixture needs weights (K,), means (K, D) and variances (K, D), got {tuple(self.weights.shape)}, "
                f"{tuple(self.means.shape)} and {tuple(self.variances.shape)}"
            )
        if bool((self.weights <= 0).any()) or bool((self.variances < 0).any()):
            raise ValueError("Mixture needs weights > 0 and variances >= 0")

    @classmethod
    def of(cls, means: Tensor, variance: float, weights: Tensor | None = None) -> Self:
        """Build from means (K, D) and one variance; equal weights if none are given."""
        equal = torch.ones(len(means), dtype=means.dtype)
        return cls(equal if weights is None else weights, means, torch.full_like(means, variance))

    def sample(self, num: int, *, rng: Rng) -> Tensor:
        """Draw vectors, shape (num, D)."""
        which = rng.categorical(torch.log(self.weights).expand(num, -1))
        z = rng.normal((num, self.means.shape[1])).to(self.means)
        return self.means[which] + z * self.variances[which].sqrt()


@final
@dataclass(frozen=True)
class MixtureBridge:
    """Posterior means of a bridge whose independent ends are mixtures of Gaussians, in closed form.

    Components i of the data and j of the source make one Gaussian of x_t, of mean M = alpha m_i + beta m_j and variance
    V = alpha^2 v_i + beta^2 v_j + gamma^2; with d = (x - M) / V and responsibilities r_ij
    data = sum r (m_i + alpha v_i d), source = sum r (m_j + beta v_j d), noise = gamma sum r d, score = -sum r d,
    velocity = sum r (M' + V' / 2 d) = alpha' data + beta' source - gamma gamma' score

    Args:
        process: The interpolant.
        data: Law at t = 0.
        source: Law at t = 1.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, appendix on Gaussian mixtures.
    """

    process: Interpolant
    data: Mixture
    source: Mixture

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the posterior means given x (B, D) at t of shape () or (B,), off the ends by the process's margin."""
        t = self.process.inner(t)
        alpha, beta, gamma, d_alpha, d_beta, pull = (number[:, 0, 0] for number in self._at(t, x))
        share, pulled = self._shares(x, t)
        by_data, by_source, whole = pulled.sum(2), pulled.sum(1), pulled.sum((1, 2))
        data = share.sum(2) @ self.data.means.to(x) + alpha * (by_data * self.data.variances.to(x)).sum(1)
        source = share.sum(1) @ self.source.means.to(x) + beta * (by_source * self.source.variances.to(x)).sum(1)
        drift = d_alpha * data + d_beta * source
        told = {"data": data, "source": source, "noise": gamma * whole, "drift": drift}
        return self.process.infer(x, t, {**told, "velocity": drift + pull * whole})

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return grad log p(x_t), shape (B, D), exact at the ends too."""
        return -self._shares(x, t)[1].sum((1, 2))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) in nats, shape (B,)."""
        return torch.logsumexp(self._log_parts(x, t)[0].flatten(1), 1)

    def sample(self, num: int, t: Tensor, *, rng: Rng) -> Tensor:
        """Draw states at time t, shape (num, D)."""
        data, source = self.data.sample(num, rng=rng), self.source.sample(num, rng=rng)
        return self.process.draw(data, t, rng=rng, source=source).x

    def _at(self, t: Tensor, x: Tensor) -> list[Tensor]:
        time = t.to(torch.float64)
        bridge = self.process.bridge
        numbers = (*bridge(time), *bridge.rates(time), bridge.gamma.product(time))
        return [number.to(x).reshape(-1, 1, 1, 1) for number in numbers]

    def _shares(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        log_p, pulled = self._log_parts(x, t)
        share = torch.softmax(log_p.flatten(1), 1).reshape(log_p.shape)
        return share, share[..., None] * pulled

    def _log_parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, beta, gamma, *_ = self._at(t, x)
        m, n = self.data.means.to(x)[None, :, None], self.source.means.to(x)[None, None]
        v, w = self.data.variances.to(x)[None, :, None], self.source.variances.to(x)[None, None]
        total = alpha**2 * v + beta**2 * w + gamma**2
        off = x[:, None, None] - alpha * m - beta * n
        log_p = -0.5 * (off**2 / total + torch.log(2.0 * math.pi * total)).sum(-1)
        log_w = torch.log(self.data.weights)[:, None] + torch.log(self.source.weights)
        return log_p + torch.log_softmax(log_w.flatten().to(x), 0).reshape(log_w.shape), off / total
