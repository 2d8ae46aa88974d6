"""What a denoiser and its trajectories are made of: how Gaussian the score is, where paths lie, what is decided when.

These are measurements of a trained system against closed forms, to choose how late its sampling can start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import instant
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True, slots=True)
class Explained:
    """How much of a denoiser another one explains at one noise level, 1 being all.

    Args:
        kappa: Noise level sigma / alpha.
        score: 1 - |s - s_other|^2 / |s|^2, sums over noised data rows.
        data: The same of data estimates around their mean, which is harder: at high noise the score is mostly -x.
    """

    kappa: float
    score: float
    data: float


@torch.no_grad()
def explained_variance(
    denoiser: Denoiser[Moments],
    other: Denoiser[Moments],
    process: Gaussian,
    data: Tensor,
    kappas: Sequence[float],
    *,
    rng: Rng,
) -> list[Explained]:
    """Compare a denoiser with a closed form (Gaussian, mixture, the data set itself) on noised data.

    Args:
        denoiser: The one to explain, such as a trained network.
        other: The one to explain it by.
        process: The process of both.
        data: Rows (N, *S) in the process's space.
        kappas: Noise levels sigma / alpha, > 0, within the process's clock.
        rng: Source of the noise, which is the same at all levels.

    Returns: One record a noise level.

    Source: Wang and Vastola 2024, "explained variance" of the learned score; data estimates are ours.
    """
    noise = process.noise.draw(data.shape, rng).to(data)
    out = []
    for kappa in kappas:
        t = instant(float(process.schedule.time(-2.0 * torch.log(torch.tensor(kappa, dtype=torch.float64)))))
        x = process.draw(data, t, rng=rng, noise=noise).x
        mine, its = denoiser(x, t, None).parts, other(x, t, None).parts
        # s = -noise / sigma: the factor cancels in the ratio.
        score = 1.0 - float((mine["noise"] - its["noise"]).square().sum() / mine["noise"].square().sum())
        spread = mine["data"] - mine["data"].mean(0)
        estimate = 1.0 - float((mine["data"] - its["data"]).square().sum() / spread.square().sum())
        out.append(Explained(kappa, score, estimate))
    return out


def span_energy(states: Tensor) -> Tensor:
    """Measure how far trajectories stay in the plane of their two ends.

    sum_n |P x_n|^2 / sum_n |x_n|^2, P the projection on span{x_0, x_T}

    Args:
        states: Trajectories (N, B, *S), first to last node.

    Returns: Shares in [0, 1], shape (B,).

    Source: Wang and Vastola 2023, "rotation" of trajectories.
    """
    paths = states.flatten(2).transpose(0, 1).to(torch.float64)
    ends = torch.linalg.qr(torch.stack([paths[:, 0], paths[:, -1]], -1)).Q
    share: Tensor = (paths @ ends).square().sum((1, 2)) / paths.square().sum((1, 2))
    return share


def trajectory_spectrum(states: Tensor) -> Tensor:
    """Measure how few directions trajectories need: the shares of their variance over time by principal component.

    Args:
        states: Trajectories (N, B, *S).

    Returns: Cumulative shares of the mean-free paths, shape (B, min(N, D)); entry k - 1 is what k directions hold.
    """
    paths = states.flatten(2).transpose(0, 1).to(torch.float64)
    power = torch.linalg.svdvals(paths - paths.mean(1, keepdim=True)).square()
    shares: Tensor = power.cumsum(1) / power.sum(1, keepdim=True)
    return shares


def commitment(estimates: Tensor, kappas: Tensor, basis: Tensor, mean: Tensor) -> Tensor:
    """Measure when each direction of the data is half decided along sampling trajectories.

    The kappa from which on the mean square of b_k . (data estimate - mean) is at least half of its final value, linear
    in log kappa between nodes. Gaussian data: sqrt(v_k) exactly, largest variance first. The last crossing counts: at
    high noise the estimates of a network err by more than a small direction has to show.

    Args:
        estimates: Data estimates along trajectories (N, B, *S), from noise to data.
        kappas: Noise level of each node, decreasing, (N,).
        basis: Directions (D, K).
        mean: Mean of the data (*S).

    Returns: Noise levels (K,); the first node's where a direction is decided before it.

    Source: Wang and Vastola 2023, section on feature emergence.
    """
    power = ((estimates - mean).flatten(2).to(torch.float64) @ basis.to(torch.float64)).square().mean(1)  # (N, K)
    half = 0.5 * power[-1]
    levels = torch.log(kappas.to(torch.float64))
    below = (power < half).to(torch.int64)
    at = torch.where(below.any(0), len(power) - below.flip(0).argmax(0), 0)  # the node after the last one below
    before = (at - 1).clamp_min(0)
    low, high = power.gather(0, before[None])[0], power.gather(0, at[None])[0]
    share = torch.where(at > 0, (half - low) / (high - low).clamp_min(1e-300), 1.0)
    return torch.exp(levels[before] + share * (levels[at] - levels[before]))
