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
from condiff.oracles.spectrum import Batches, Spectrum
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


def _over(top: Tensor, bottom: Tensor) -> Tensor:
    """Return top / bottom, and 0 where bottom = 0: what lies outside the basis there is rounding, not noise."""
    return torch.where(bottom > 0.0, top / torch.where(bottom > 0.0, bottom, 1.0), 0.0)


@final
@dataclass(frozen=True)
class GaussianData:
    """Data N(mean, S), S = basis diag(variances) basis^T + rest (I - basis basis^T): everything in closed form.

    data = mean + sum_k alpha v_k / (alpha^2 v_k + sigma^2) b_k b_k^T (x - alpha mean), and v = rest outside the basis

    A direction k of the data is undecided while kappa = sigma / alpha is above sqrt(v_k) and decided below it: large
    features first, details later (`emergence`).

    Args:
        process: The process that corrupts the data; its noise law must be Normal.
        mean: Shape (*S).
        basis: Orthonormal columns (D, K) with D = prod(S).
        variances: Shape (K,), >= 0.
        rest: Variance of every direction outside the basis, >= 0; 0 for data on a subspace, the mean of what was cut
            off for a covariance of low rank.

    Source: Wang and Vastola 2023, eq. 5 to 8, for any (alpha, sigma). Their released sampler has rest = 0.
    """

    process: Gaussian
    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float = 0.0

    def __post_init__(self) -> None:
        dims = self.mean.numel()
        if self.basis.ndim != 2 or self.basis.shape[0] != dims or self.variances.shape != self.basis.shape[1:]:
            raise ValueError(
                f"GaussianData needs basis ({dims}, K) and variances (K,), got {tuple(self.basis.shape)} and "
                f"{tuple(self.variances.shape)}"
            )
        if bool((self.variances < 0).any()) or self.rest < 0.0:
            raise ValueError("GaussianData needs variances >= 0; clamp those of an estimated covariance")

    @classmethod
    def of(cls, process: Gaussian, mean: Tensor, covariance: Tensor, rank: int | None = None) -> Self:
        """Build from a mean (*S) and a covariance (D, D); of its directions the `rank` largest are kept apart."""
        spectrum = Spectrum.of(mean, covariance, rank)
        return cls._from(process, spectrum, mean)

    @classmethod
    def fit(cls, process: Gaussian, data: Tensor | Batches, rank: int | None = None) -> Self:
        """Fit mean and covariance, in float64, batch by batch.

        Args:
            process: The process; data must be in its space, after any codec.
            data: All rows (N, *S), or a function that starts a fresh pass over batches (B, *S) of them.
            rank: Directions to keep apart; all if None. Above 2048 features the covariance is never made: the largest
                directions come from randomised iterations over the batches.

        Raises:
            ValueError: If there are fewer than 2 rows, or all directions of a large space are asked for.
        """
        spectrum = Spectrum.fit(data, rank)
        like = data if isinstance(data, Tensor) else next(iter(data()))
        return cls._from(process, spectrum, like)

    @classmethod
    def _from(cls, process: Gaussian, spectrum: Spectrum, like: Tensor) -> Self:
        return cls(process, spectrum.mean.to(like), spectrum.basis.to(like), spectrum.variances.to(like), spectrum.rest)

    @property
    def _partial(self) -> bool:
        return self.basis.shape[1] < self.basis.shape[0]

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
        if self._partial:
            outside = centred - inside @ basis.T
            spread = alpha * alpha * self.rest + sigma * sigma
            noise = noise + sigma * _over(outside, spread) if self.rest else noise + _over(outside, sigma)
            data = data + alpha * self.rest * _over(outside, spread) if self.rest else data
        return Moments({"data": data.reshape(x.shape), "noise": noise.reshape(x.shape)})

    def gain(self, t: Tensor, s: Tensor) -> Tensor:
        """Return by how much the flow from t to s stretches each direction of the basis, (K,) or (B, K), float64.

        sqrt((sigma_s^2 + alpha_s^2 v_k) / (sigma_t^2 + alpha_t^2 v_k)); towards the data a kick at t ends multiplied
        by it: above 1 for directions of large variance, 0 off the data's subspace.
        """
        return self._gain(self.variances.to(torch.float64), t, s)

    def _gain(self, variances: Tensor, t: Tensor, s: Tensor) -> Tensor:
        ends = []
        for time in (t, s):
            coefficients = (torch.as_tensor(c, dtype=torch.float64) for c in self.process.coefficients(time))
            alpha, sigma = (c.to(variances.device).unsqueeze(-1) if c.ndim else c for c in coefficients)
            ends.append(sigma**2 + alpha**2 * variances)
        before, after = ends
        # 0 / 0 is a direction without variance at sigma = 0: there is nothing in it to stretch.
        return _over(after, before).sqrt()

    def emergence(self) -> Tensor:
        """Return the kappa = sigma / alpha at which each direction is half decided, sqrt(v_k), shape (K,).

        Along an exact trajectory the squared projection of the data estimate on b_k is there at half of its final
        value.
        """
        return self.variances.sqrt()

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the probability flow's state at s from x (B, *S) at t, up or down, exactly.

        x_s = alpha_s mean + sum_k gain_k(t, s) b_k b_k^T (x - alpha_t mean), plus the same outside the basis with the
        variance `rest`, where it is sigma_s / sigma_t for rest = 0.
        """
        alpha_t, _ = _tensors(self.process, t, x)
        alpha_s, _ = _tensors(self.process, s, x)
        mean, basis = self.mean.flatten().to(x), self.basis.to(x)
        centred = x.flatten(1) - alpha_t * mean
        inside = centred @ basis
        out = alpha_s * mean + (inside * self.gain(t, s).to(x)) @ basis.T
        if self._partial:
            rest = torch.full((1,), self.rest, dtype=torch.float64, device=x.device)
            out = out + self._gain(rest, t, s).to(x) * (centred - inside @ basis.T)
        return out.reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) in nats, shape (B,). Where sigma = 0 the variances outside the basis must not be 0."""
        alpha, sigma = _tensors(self.process, t, x)
        centred = x.flatten(1) - alpha * self.mean.flatten().to(x)
        basis = self.basis.to(x)
        inside = centred @ basis
        total = alpha**2 * self.variances.to(x) + sigma**2
        rest = centred.shape[1] - basis.shape[1]
        out = -0.5 * ((inside**2 / total).sum(1) + torch.log(2.0 * math.pi * total).expand_as(inside).sum(1))
        if rest:
            spread = alpha**2 * self.rest + sigma**2
            outside = (centred - inside @ basis.T).square().sum(1, keepdim=True) / spread
            out = out - 0.5 * (outside + rest * torch.log(2.0 * math.pi * spread)).expand(len(out), 1).squeeze(1)
        return out

    def sample(self, num: int, *, rng: Rng) -> Tensor:
        """Draw data, shape (num, *S)."""
        z = rng.normal((num, self.variances.numel())).to(self.mean)
        made = self.mean.flatten() + (z * self.variances.sqrt()) @ self.basis.T
        if self._partial and self.rest:
            fresh = rng.normal((num, self.basis.shape[0])).to(self.mean)
            made = made + self.rest**0.5 * (fresh - (fresh @ self.basis) @ self.basis.T)
        return made.reshape(num, *self.mean.shape)

    def marginal(self, shape: Sequence[int], t: Tensor, *, rng: Rng) -> Tensor:
        """Draw states (B, *S) at t from N(alpha mean, alpha^2 S + sigma^2 I): a better start than plain noise."""
        data = self.sample(shape[0], rng=rng).reshape(tuple(shape))
        return self.process.draw(data, t, rng=rng).x


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

    @classmethod
    def fit(
        cls, process: Gaussian, data: Tensor, labels: Tensor, *, rank: int | None = None, name: str | None = None
    ) -> Self:
        """Fit one Gaussian to each group of rows: to each class, or to each cluster of `clusters`.

        Args:
            process: The process; data must be in its space.
            data: All rows (N, *S).
            labels: Group of each row, int64 (N,), 0 to K - 1, each with at least 2 rows.
            rank: Directions kept apart in each; all if None.
            name: If given, a class condition of this name selects the group for the rows that have it.
        """
        counts = torch.bincount(labels)
        if bool((counts < 2).any()):
            raise ValueError(f"every group needs at least 2 rows for a covariance, got {counts.tolist()}")
        parts = tuple(GaussianData.fit(process, data[labels == k], rank) for k in range(len(counts)))
        return cls(process, (counts / counts.sum()).to(data), parts, name)

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

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the data's mean (D,) and covariance (D, D), D = prod(S), summed over components."""
        share = (self.weights / self.weights.sum()).to(self.components[0].mean)
        means = torch.stack([part.mean.flatten() for part in self.components])
        mean = share @ means
        within = [
            w * (part.basis * part.variances) @ part.basis.T for w, part in zip(share, self.components, strict=True)
        ]
        centred = means - mean
        return mean, torch.stack(within).sum(0) + (share[:, None] * centred).T @ centred

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
