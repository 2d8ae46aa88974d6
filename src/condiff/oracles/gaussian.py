"""Exact denoisers for Gaussian data of any covariance and for mixtures of Gaussians.

They are denoisers like any other (x, t, cond) -> Moments, so a solver, a guidance or a likelihood can be tested
against closed forms, and a sampler can start from the Gaussian that fits its data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import expand
from condiff.process.gaussian import Gaussian
from condiff.process.noise import Normal, Student


def _tensors(process: Gaussian, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma as tensors that broadcast against x flattened to (B, D)."""
    if not process.noise.standard:
        raise TypeError(f"this oracle is exact for Normal noise only, got {process.noise}")
    return _levels(process, t, x)


def _levels(process: Gaussian, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = (torch.as_tensor(c, dtype=x.dtype, device=x.device) for c in process.coefficients(t))
    if alpha.ndim > 1:
        raise ValueError(f"this oracle takes times of shape () or (B,), got {tuple(alpha.shape)}")
    flat = x.flatten(1)
    return expand(alpha, flat), expand(sigma, flat)


def _radial(process: Gaussian) -> Normal | Student:
    law = process.noise
    if not isinstance(law, Normal | Student):
        raise TypeError(f"DataSetIdeal needs noise whose density depends on its length alone, got {law}")
    return law


def _over(outside: Tensor, sigma: Tensor) -> Tensor:
    """Return outside / sigma, and 0 where sigma = 0: what lies outside the basis there is rounding, not noise."""
    return torch.where(sigma > 0.0, outside / torch.where(sigma > 0.0, sigma, 1.0), 0.0)


@final
@dataclass(frozen=True)
class GaussianData:
    """Data N(mean, basis diag(variances) basis^T): posterior means, flow map and log-density in closed form.

    data = mean + sum_k alpha v_k / (alpha^2 v_k + sigma^2) b_k b_k^T (x - alpha mean)

    Args:
        process: The process that corrupts the data; its noise law must be Normal.
        mean: Shape (*S).
        basis: Orthonormal columns (D, K) with D = prod(S); directions outside have variance 0.
        variances: Shape (K,), >= 0.

    Source: Wang and Vastola 2023, eq. 5 to 8, for any (alpha, sigma).
    """

    process: Gaussian
    mean: Tensor
    basis: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        dims = self.mean.numel()
        if self.basis.ndim != 2 or self.basis.shape[0] != dims or self.variances.shape != self.basis.shape[1:]:
            raise ValueError(
                f"GaussianData needs basis ({dims}, K) and variances (K,), got {tuple(self.basis.shape)} and "
                f"{tuple(self.variances.shape)}"
            )
        if bool((self.variances < 0).any()):
            raise ValueError("GaussianData needs variances >= 0; clamp those of an estimated covariance")

    @classmethod
    def of(cls, process: Gaussian, mean: Tensor, covariance: Tensor) -> Self:
        """Build from a mean (*S) and a covariance (D, D)."""
        variances, basis = torch.linalg.eigh(covariance.to(torch.float64))
        return cls(process, mean, basis.to(mean), variances.clamp_min(0.0).to(mean))

    @classmethod
    def fit(cls, process: Gaussian, data: Tensor) -> Self:
        """Fit mean and covariance to data (N, *S), in float64."""
        flat = data.flatten(1).to(torch.float64)
        centred = flat - flat.mean(0)
        fitted = cls.of(process, flat.mean(0).reshape(data.shape[1:]), centred.T @ centred / len(flat))
        return cls(process, fitted.mean.to(data), fitted.basis.to(data), fitted.variances.to(data))

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the posterior means given x (B, *S) at t of shape () or (B,)."""
        alpha, sigma = _tensors(self.process, t, x)
        centred = x.flatten(1) - alpha * self.mean.flatten().to(x)
        basis, variances = self.basis.to(x), self.variances.to(x)
        total = alpha * alpha * variances + sigma * sigma
        inside = centred @ basis
        # data = mean + S alpha C^-1 centred and noise = sigma C^-1 centred, C = alpha^2 S + sigma^2: both finite at
        # either end; a direction of no variance at sigma = 0 holds no noise.
        safe = total.clamp_min(torch.finfo(x.dtype).tiny)
        data = self.mean.flatten().to(x) + (inside * (alpha * variances / safe)) @ basis.T
        noise = (inside * (sigma / safe)) @ basis.T
        if basis.shape[1] < basis.shape[0]:
            noise = noise + _over(centred - inside @ basis.T, sigma)
        return Moments({"data": data.reshape(x.shape), "noise": noise.reshape(x.shape)})

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the probability flow's state at s from x (B, *S) at t, up or down, exactly.

        x_s = alpha_s mean + sum_k sqrt(V_k(s) / V_k(t)) b_k b_k^T (x - alpha_t mean), V_k = sigma^2 + alpha^2 v_k,
        plus (sigma_s / sigma_t) times what lies outside the basis.
        """
        alpha_t, sigma_t = _tensors(self.process, t, x)
        alpha_s, sigma_s = _tensors(self.process, s, x)
        mean, basis, variances = self.mean.flatten().to(x), self.basis.to(x), self.variances.to(x)
        centred = x.flatten(1) - alpha_t * mean
        inside = centred @ basis
        before = (sigma_t**2 + alpha_t**2 * variances).clamp_min(torch.finfo(x.dtype).tiny)
        moved = (inside * ((sigma_s**2 + alpha_s**2 * variances) / before).sqrt()) @ basis.T
        out = alpha_s * mean + moved
        if basis.shape[1] < basis.shape[0]:
            out = out + sigma_s * _over(centred - inside @ basis.T, sigma_t)
        return out.reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) in nats, shape (B,). The basis must span the space where sigma = 0."""
        alpha, sigma = _tensors(self.process, t, x)
        centred = x.flatten(1) - alpha * self.mean.flatten().to(x)
        basis = self.basis.to(x)
        inside = centred @ basis
        total = alpha**2 * self.variances.to(x) + sigma**2
        rest = centred.shape[1] - basis.shape[1]
        out = -0.5 * ((inside**2 / total).sum(1) + torch.log(2.0 * math.pi * total).expand_as(inside).sum(1))
        if rest:
            outside = (centred - inside @ basis.T).square().sum(1, keepdim=True) / sigma**2
            out = out - 0.5 * (outside + rest * torch.log(2.0 * math.pi * sigma**2)).expand(len(out), 1).squeeze(1)
        return out

    def sample(self, num: int, *, rng: Rng) -> Tensor:
        """Draw data, shape (num, *S)."""
        z = rng.normal((num, self.variances.numel())).to(self.mean)
        return (self.mean.flatten() + (z * self.variances.sqrt()) @ self.basis.T).reshape(num, *self.mean.shape)


@final
@dataclass(frozen=True)
class MixtureData:
    """Data from a mixture of Gaussians: posterior means by responsibilities.

    Args:
        process: The process that corrupts the data; its noise law must be Normal.
        weights: Component weights (K,), > 0; normalised here.
        components: K Gaussians on that process.
        name: If given, a class condition of this name selects one component for the rows that have it.

    Source: Bayes' rule; responsibilities by log-sum-exp.
    """

    process: Gaussian
    weights: Tensor
    components: tuple[GaussianData, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.components),) or bool((self.weights <= 0).any()):
            raise ValueError(f"MixtureData needs {len(self.components)} weights > 0, got {self.weights.tolist()}")

    @classmethod
    def isotropic(
        cls, process: Gaussian, weights: Tensor, means: Tensor, std: float | Sequence[float], name: str | None = None
    ) -> Self:
        """Build from means (K, *S) and standard deviations, one or K."""
        stds = [std] * len(means) if isinstance(std, float) else list(std)
        eye = torch.eye(means[0].numel(), dtype=means.dtype)
        parts = tuple(
            GaussianData(process, mean, eye, torch.full((mean.numel(),), s * s, dtype=means.dtype))
            for mean, s in zip(means, stds, strict=True)
        )
        return cls(process, weights, parts, name)

    def responsibilities(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return the posterior component probabilities (B, K)."""
        log_p = torch.stack([part.log_density(x, t) for part in self.components], 1)
        log_p = log_p + torch.log(self.weights / self.weights.sum()).to(x)
        if self.name is not None and cond is not None and self.name in cond.values:
            index = torch.arange(len(self.components), device=x.device)
            other = index != cond.values[self.name].reshape(-1, 1).to(x.device)
            log_p = log_p.masked_fill(other & cond.present[self.name].reshape(-1, 1).to(x.device), -torch.inf)
        return torch.softmax(log_p, 1)

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the posterior means given x (B, *S) at t of shape () or (B,)."""
        share = self.responsibilities(x, t, cond)
        parts = [part(x, t, None) for part in self.components]
        mixed = {
            name: torch.einsum("bk,bk...->b...", share, torch.stack([part.parts[name] for part in parts], 1))
            for name in ("data", "noise")
        }
        return Moments(mixed)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) in nats, shape (B,)."""
        log_p = torch.stack([part.log_density(x, t) for part in self.components], 1)
        return torch.logsumexp(log_p + torch.log(self.weights / self.weights.sum()).to(x), 1)

    def sample(self, num: int, *, rng: Rng) -> Tensor:
        """Draw data, shape (num, *S)."""
        logits = torch.log(self.weights).expand(num, -1)
        which = rng.categorical(logits)
        drawn = torch.stack([part.sample(num, rng=rng) for part in self.components], 1)
        return drawn[torch.arange(num), which]


@final
@dataclass(frozen=True)
class DataSetIdeal:
    """The ideal denoiser of a finite data set: the posterior mean over its rows, which sampling would memorise.

    data = sum_i softmax_i(log kernel of (x - alpha d_i) / sigma) d_i

    With Student noise of D degrees of freedom, noise / sqrt(D) is the electric field of the rows as charges in N + D
    dimensions, read off as E_x / E_r.

    Args:
        process: The process that corrupts the data; its noise law must be Normal or Student.
        data: All data, shape (N, *S).
        name: If given, `labels` restrict the rows of that class condition.
        labels: Class of each row, int64 (N,).

    Source: Karras et al. 2022, appendix B.3; Xu et al. 2023 (PFGM++), eq. 4, for Student noise.
    """

    process: Gaussian
    data: Tensor
    name: str | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        _radial(self.process)
        if (self.name is None) != (self.labels is None):
            raise ValueError("DataSetIdeal needs both name and labels, or neither")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the posterior means given x (B, *S) at t of shape () or (B,); sigma must be > 0."""
        alpha, sigma = _levels(self.process, t, x)
        rows = self.data.flatten(1).to(x)
        flat = x.flatten(1)
        square = flat.square().sum(1, keepdim=True) - 2.0 * alpha * (flat @ rows.T) + alpha**2 * rows.square().sum(1)
        logits = _radial(self.process).log_kernel(square.clamp_min(0.0) / sigma**2, flat.shape[1])
        if self.name is not None and self.labels is not None and cond is not None and self.name in cond.values:
            other = self.labels.to(x.device) != cond.values[self.name].reshape(-1, 1).to(x.device)
            logits = logits.masked_fill(other & cond.present[self.name].reshape(-1, 1).to(x.device), -torch.inf)
        data = torch.softmax(logits, 1) @ rows
        return Moments({"data": data.reshape(x.shape), "noise": ((flat - alpha * data) / sigma).reshape(x.shape)})
