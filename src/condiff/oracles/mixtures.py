"""Exact targets on which solvers are judged: two Gaussian mixtures of standard deviation 0.5, and their flow."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from condiff.core.rng import RowRng
from condiff.core.shapes import instant
from condiff.oracles.gaussian import GaussianData, MixtureData
from condiff.process.gaussian import Gaussian
from condiff.process.schedule import Flow

STD = 0.5
"""Standard deviation of either target, root mean square over coordinates."""


def _scaled(
    process: Gaussian, weights: Tensor, means: Tensor, bases: list[Tensor], variances: list[Tensor]
) -> MixtureData:
    """Centre a mixture and give it STD per coordinate, root mean square over coordinates."""
    share = weights / weights.sum()
    centre = (share[:, None] * means).sum(0)
    between = (share[:, None] * (means - centre).square()).sum()
    within = sum(w * v.sum() for w, v in zip(share, variances, strict=True))
    factor = STD / float(((between + within) / means.shape[1]).sqrt())
    parts = tuple(
        GaussianData(process, factor * (m - centre), basis, factor**2 * v)
        for m, basis, v in zip(means, bases, variances, strict=True)
    )
    return MixtureData(process, weights, parts)


def ring(process: Gaussian) -> MixtureData:
    """Build the 2-D target: eight Gaussians on a ring, weights as sqrt(k), every other one anisotropic."""
    angle = torch.arange(8, dtype=torch.float64) * (2.0 * math.pi / 8)
    means = torch.stack([angle.cos(), angle.sin()], 1)
    weights = torch.arange(1, 9, dtype=torch.float64).sqrt()
    bases, variances = [], []
    for k, a in enumerate(angle.tolist()):
        c, s = math.cos(a), math.sin(a)
        bases.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
        spread = (0.1, 0.1) if k % 2 else (0.04, 0.2)
        variances.append(torch.tensor(spread, dtype=torch.float64) ** 2)
    return _scaled(process, weights, means, bases, variances)


def patches(process: Gaussian) -> MixtureData:
    """Build the 64-D target: ten Gaussians over 8x8 images, diagonal in the cosine basis with a falling spectrum."""
    i = torch.arange(8, dtype=torch.float64)
    cosine = torch.cos(math.pi / 8 * (i[None, :] + 0.5) * i[:, None]) * math.sqrt(2.0 / 8)
    cosine[0] /= math.sqrt(2.0)
    basis = torch.kron(cosine, cosine).T.contiguous()
    f = (i[:, None] ** 2 + i[None, :] ** 2).sqrt().flatten()
    spectrum = 1.0 / (1.0 + f) ** 2
    draw = RowRng(0, range(20), dtype=torch.float64)
    z = draw.normal((20, 64))
    means = (z[:10] * spectrum) @ basis.T
    variances = [(spectrum * 0.5) ** 2 * torch.exp(0.5 * z[10 + k]) for k in range(10)]
    return _scaled(process, torch.ones(10, dtype=torch.float64), means, [basis] * 10, variances)


def endpoints(target: MixtureData, x: Tensor, t: Tensor, steps: int = 400) -> Tensor:
    """Return the data at the end of the exact flow from x (B, D) at a shared time t, (B, D) in float64.

    Classical Runge-Kutta in the flow's own coordinates, y = x / (alpha + sigma) at time sigma / (alpha + sigma), where
    the curve is the same for every process; the last call reads the data off at a noise level of 1e-7.

    Args:
        target: The mixture, on any Gaussian process.
        x: State.
        t: Its time, shape ().
        steps: Four calls each; 400 leave an error of about 1e-8.
    """
    alpha, sigma = (float(c) for c in target.process.coefficients(t))
    size = alpha + sigma
    process = Gaussian(Flow())
    twin = replace(
        target, process=process, components=tuple(replace(part, process=process) for part in target.components)
    )
    # Quadratic grid: the field bends most near the data.
    grid = (sigma / size * torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64) ** 2).clamp_min(1e-7).tolist()

    def slope(y: Tensor, tau: float) -> Tensor:
        at = instant(tau)
        return process.velocity(y, at, twin(y, at, None))

    y = x.to(torch.float64) / size
    for a, b in pairwise(grid):
        h = b - a
        k1 = slope(y, a)
        k2 = slope(y + h / 2 * k1, a + h / 2)
        k3 = slope(y + h / 2 * k2, a + h / 2)
        k4 = slope(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return twin(y, instant(grid[-1]), None).parts["data"]
