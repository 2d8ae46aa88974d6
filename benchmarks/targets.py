"""Exact targets on which solvers are judged: two Gaussian mixtures of overall standard deviation 0.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from condiff.core.drivers import instants
from condiff.core.rng import RowRng
from condiff.oracles import GaussianData, MixtureData
from condiff.process import Flow, Gaussian

STD = 0.5


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
    """Build the 64-D target: ten Gaussians over 8x8 images, diagonal in the 2-D cosine basis with a falling spectrum."""
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


def endpoints(target: MixtureData, start: Tensor, steps: int = 400, begin: float = 1.0) -> Tensor:
    """Return the exact flow's end point from `start` at t = begin of Flow: classical Runge-Kutta on the flow's own time."""
    process = target.process
    assert isinstance(process.schedule, Flow)
    # Quadratic grid: the field bends most near the data.
    grid = begin * torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64) ** 2
    grid[-1] = 1e-7
    x = start
    for a, b in zip(instants(grid), instants(grid)[1:], strict=False):
        t, s = float(a), float(b)
        h = s - t

        def u(y: Tensor, tau: float) -> Tensor:
            at = torch.tensor(tau, dtype=torch.float64)
            return process.velocity(y, at, target(y, at, None))

        k1 = u(x, t)
        k2 = u(x + h / 2 * k1, t + h / 2)
        k3 = u(x + h / 2 * k2, t + h / 2)
        k4 = u(x + h * k3, s)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return target(x, instants(grid)[-1], None).parts["data"]
