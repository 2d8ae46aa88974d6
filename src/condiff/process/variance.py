"""Learned variance: a network that also says how much noise an ancestral step should draw (improved DDPM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import expand
from condiff.process.gaussian import Gaussian

VARIANCE = "variance"
"""Name of the extra output: 0 is the variance of the posterior given the data, 1 that of the noising step."""


@final
class VarianceHead(nn.Module):
    """A network with a second head that becomes the extra output `variance`.

    Args:
        net: Module called as net(x, t, cond); returns (B, 2 C, *grid) for x (B, C, *grid).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the output (B, C, *grid) and {"variance": share}, the second head plus 1 / 2."""
        out, share = self.net(x, t, cond).chunk(2, dim=1)
        return out, {VARIANCE: share + 0.5}


def posterior(process: Gaussian, t: Tensor, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (c, z^2, r) of the posterior of x_s given x_t and the data, each broadcastable against x, in float64.

    x_s has mean k x_t + c data and variance z^2 = sigma_s^2 (1 - kappa_s^2 / kappa_t^2); the variance of the noising
    step from s to t is r z^2, r = sigma_t^2 / sigma_s^2. Requires 0 < s < t.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        [expand(torch.as_tensor(c, dtype=torch.float64, device=x.device), x) for c in process.coefficients(time)]
        for time in (t, s)
    )
    kept = alpha_t * sigma_s / (alpha_s * sigma_t)  # kappa_s / kappa_t, finite where alpha_t = 0
    square = sigma_s**2 * (1.0 - kept**2)
    return alpha_s * (1.0 - kept**2), square, (sigma_t / sigma_s) ** 2


@final
@dataclass(frozen=True)
class LearnedVariance:
    """A Gaussian process whose stochastic step draws with the variance that the network learned.

    log variance = log z^2 + share * log(sigma_t^2 / sigma_s^2), z^2 that of `Gaussian.reverse`, share = aux["variance"]

    Args:
        process: The process that corrupts the data; its noise law must be Normal.

    Source: Nichol and Dhariwal 2021, eq. 15, for any (alpha, sigma) and eta. A step to sigma = 0 draws nothing.
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

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at s; the mean is that of `Gaussian.reverse`, the noise has the learned variance.

        Raises:
            KeyError: If eta > 0 and the estimate has no `variance`.
        """
        if eta == 0.0:
            return self.process.reverse(x, t, s, est, eta=0.0, rng=rng)
        if VARIANCE not in est.aux:
            raise KeyError("a learned variance needs the extra output 'variance'; wrap the network in VarianceHead")
        scaled = _Scaled(rng, self._gain(x, t, s, est.aux[VARIANCE]))
        return self.process.reverse(x, t, s, est, eta=eta, rng=scaled)

    def velocity(self, x: Tensor, t: Tensor, est: Moments) -> Tensor:
        """Return dx/dt of the probability flow, which no variance enters."""
        return self.process.velocity(x, t, est)

    def rates(self, t: Tensor) -> Row:
        """Return the velocity's row."""
        return self.process.rates(t)

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Turn the state at t = 0 into data, as the process does."""
        return self.process.finish(x, denoise)

    def _gain(self, x: Tensor, t: Tensor, s: Tensor, share: Tensor) -> Tensor:
        sigma_t, sigma_s = (
            expand(torch.as_tensor(self.process.coefficients(time)[1], dtype=torch.float64, device=x.device), x)
            for time in (t, s)
        )
        ratio = torch.where(sigma_s > 0.0, sigma_t / torch.where(sigma_s > 0.0, sigma_s, 1.0), 1.0)
        return torch.exp(share * torch.log(ratio).to(share)).to(x)


@final
@dataclass(frozen=True)
class _Scaled:
    """Random numbers whose normals are multiplied by a gain."""

    inner: Rng
    gain: Tensor

    def normal(self, shape: Sequence[int]) -> Tensor:
        drawn = self.inner.normal(shape)
        return drawn * self.gain.to(drawn)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.inner.uniform(shape)

    def strata(self, shape: Sequence[int]) -> Tensor:
        return self.inner.strata(shape)

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        return self.inner.gamma(concentration, shape)

    def categorical(self, logits: Tensor) -> Tensor:
        return self.inner.categorical(logits)
