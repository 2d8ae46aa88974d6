"""The variational bound on the likelihood: its terms, as a loss and as a measure in nats a dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.objectives.denoising import Denoising
from condiff.process.gaussian import Gaussian
from condiff.process.grid import Grid, LogSNR
from condiff.process.noise import Normal
from condiff.process.variance import VARIANCE, posterior


def step_divergence(process: Gaussian, draw: Draw, est: Moments, s: Tensor) -> Tensor:
    """Return KL(q(x_s | x_t, data) || p(x_s | x_t)) in nats, for every dimension, shape (B, *S).

    (SNR_s - SNR_t) / 2 * (data - its estimate)^2 where the model has the posterior's variance, SNR = alpha^2 / sigma^2.
    If the estimate has the extra output `variance`, the model's is that of `LearnedVariance` and the divergence is
    (log(model / z^2) + (z^2 + c^2 (data - its estimate)^2) / model - 1) / 2.

    Args:
        process: The process, with Normal noise.
        draw: State, time and latents.
        est: What the model makes of the state.
        s: Times (B,), 0 < s < t.

    Source: Ho et al. 2020, eq. 5 and 8; Kingma et al. 2021 (VDM), eq. 14; Nichol and Dhariwal 2021, eq. 15.
    """
    c, square, ratio = posterior(process, draw.t, s, draw.x)
    error = (draw.latents["data"] - est.parts["data"]).to(torch.float64).square()
    excess = torch.log(ratio) * est.aux[VARIANCE].to(torch.float64) if VARIANCE in est.aux else torch.zeros_like(error)
    # log(model / z^2) = excess, so that equal variances give exactly 0 + 1 - 1.
    return 0.5 * (excess + torch.expm1(-excess) + c**2 / square * torch.exp(-excess) * error)


@final
@dataclass(frozen=True)
class Bound:
    """An upper bound on -log p(data) in nats a dimension: prior, one step of all at random, and reconstruction.

    prior = alpha_1^2 data^2 / (2 sigma_1^2); steps = N * `step_divergence` of one of N steps;
    reconstruction = (1 + log(2 pi kappa^2)) / 2 at the last node, for a decoder N(x / alpha, kappa^2)

    Args:
        process: The process, with Normal noise.
        num_steps: Steps of the grid, >= 2.
        grid: Its nodes. One at sigma = 0 is left out: the decoder takes the place of the last step, and it needs the
            noise of the node before, which should be as small as the finest detail that the density is asked about.

    Raises:
        TypeError: If the noise is not Normal.
        ValueError: If the grid has fewer than two nodes with noise.

    Source: Ho et al. 2020, eq. 5, for continuous data: pixels that were integers must be dequantised first.
    """

    process: Gaussian
    num_steps: int = 1000
    grid: Grid = field(default_factory=lambda: LogSNR(kappa_min=0.01))

    def __post_init__(self) -> None:
        if not isinstance(self.process.noise, Normal):
            raise TypeError(f"a bound needs Normal noise, got {self.process.noise}")
        if len(self.nodes()) < 2:
            raise ValueError(f"a bound needs at least two nodes with noise, so num_steps >= 2; got {self.num_steps}")

    def nodes(self) -> Tensor:
        """Return the grid's times that have noise, decreasing, float64."""
        nodes = self.grid(self.process.schedule, self.num_steps)
        return nodes[self.process.schedule(nodes)[1] > 0.0]

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of data (B, *S), unbiased in the step; all steps are weighed alike."""
        nodes = self.nodes().to(data.device)
        draw = self.corrupt(data, rng=rng) if draw is None else draw
        at = ((nodes >= draw.t.to(nodes).unsqueeze(-1)).sum(-1) - 1).clamp(0, len(nodes) - 2)
        est = denoiser(draw.x, draw.t, cond)
        steps = self.step(draw, est, nodes[at + 1]) * (len(nodes) - 1)
        return Loss(self.prior(data) + steps + self.reconstruction())

    def corrupt(self, data: Tensor, *, rng: Rng) -> Draw:
        """Corrupt data (B, *S) to a node of the grid, each but the last equally often."""
        nodes = self.nodes().to(data.device)
        at = (rng.uniform(data.shape[:1]).to(data.device) * (len(nodes) - 1)).long().clamp_max(len(nodes) - 2)
        return self.process.draw(data, nodes[at], rng=rng)

    def step(self, draw: Draw, est: Moments, s: Tensor) -> Tensor:
        """Return the divergence of one step from the draw's time to s, nats a dimension, shape (B,)."""
        return step_divergence(self.process, draw, est, s).flatten(1).mean(1)

    def prior(self, data: Tensor) -> Tensor:
        """Return KL(q(x_1 | data) || N(0, sigma_1^2)), nats a dimension, shape (B,)."""
        alpha, sigma = self.process.schedule(1.0)
        return 0.5 * (alpha / sigma) ** 2 * data.to(torch.float64).square().flatten(1).mean(1)

    def reconstruction(self) -> float:
        """Return the mean of -log p(data | x) at the last node, nats a dimension."""
        alpha, sigma = self.process.schedule(float(self.nodes()[-1]))
        return 0.5 * (1.0 + math.log(2.0 * math.pi * (sigma / alpha) ** 2))

    def measure(self, denoiser: Denoiser[Moments], data: Tensor, cond: Condition | None, *, rng: Rng) -> Tensor:
        """Return the bound of data (B, *S) with every step measured once, nats a dimension, shape (B,)."""
        nodes = self.nodes().to(data.device)
        total = self.prior(data) + self.reconstruction()
        rows = data.shape[:1]
        with torch.no_grad():
            for t, s in pairwise(nodes):
                draw = self.process.draw(data, t.expand(rows), rng=rng)
                total = total + self.step(draw, denoiser(draw.x, draw.t, cond), s.expand(rows))
        return total


@final
@dataclass(frozen=True)
class Hybrid:
    """The simple loss for the mean, and a little of the bound for the variance alone.

    loss_b = simple + share * bound, with the mean held fixed in the bound

    Args:
        simple: Trains the mean.
        bound: Trains the extra output `variance`.
        share: Weight of the bound, > 0; the step's divergence is multiplied by the number of steps in it.

    Source: Nichol and Dhariwal 2021, eq. 16, share 0.001 on a bound of 1000 steps, which is their lambda.
    """

    simple: Denoising
    bound: Bound
    share: float = 1e-3

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the losses of data (B, *S), from one call of the network."""
        draw = self.bound.corrupt(data, rng=rng) if draw is None else draw
        est = denoiser(draw.x, draw.t, cond)
        plain = self.simple(lambda x, t, cond: est, data, cond, rng=rng, draw=draw)
        held = replace(est, parts={name: part.detach() for name, part in est.parts.items()})
        rest = self.bound(lambda x, t, cond: held, data, cond, rng=rng, draw=draw)
        return Loss(plain.rows + self.share * rest.rows.to(plain.rows))
