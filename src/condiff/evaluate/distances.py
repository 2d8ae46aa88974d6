"""Distances between a set of samples and a reference set, over any feature function: Frechet distance and KID."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condiff.evaluate.metric import Metric, flat, pair, quantiles, resample, stream

VALUES = "the values themselves"
"""Definition of the feature function `flat`."""

_CENTRED = (
    "interval: value + (bootstrap quantiles - bootstrap mean), rows of both sets resampled, which gives the spread at "
    "this n and not the bias; conservative when the two distributions are nearly equal"
)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean (D,) and unbiased covariance (D, D) of rows (N, D), in float64.

    Raises:
        ValueError: If there are fewer than 2 rows.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"moments need rows (N, D) with N >= 2, got shape {tuple(rows.shape)}")
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def frechet_distance(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    """Compute the squared Frechet (2-Wasserstein) distance of two Gaussians, stable for singular covariances.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)

    The last trace is computed as the sum of the singular values of S1^1/2 S2^1/2, which is the same number without the
    root of a rounding error. For the same reason, eigenvalues of S1 and S2 below rounding level count as zero.

    Args:
        mean: Mean (D,).
        cov: Covariance (D, D), symmetric and positive semi-definite; singular ones are fine.
        other_mean: Mean of the other Gaussian, (D,).
        other_cov: Covariance of the other Gaussian, (D, D).

    Returns: The distance, >= 0, in squared units of the rows.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    cov, other_cov = cov.double(), other_cov.double()
    overlap = torch.linalg.svdvals(_root(cov) @ _root(other_cov)).sum()
    gap = (mean.double() - other_mean.double()).square().sum()
    trace = torch.trace(cov) + torch.trace(other_cov) - 2 * overlap
    # The trace term is a difference of large numbers; below zero it is rounding.
    return float(gap + trace.clamp_min(0.0))


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    level = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = (vectors * torch.where(values > level, values, 0.0).sqrt()) @ vectors.T
    return root


def frechet(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    seed: int = 0,
    num_resamples: int = 100,
) -> Metric:
    """Measure the Frechet distance between Gaussians fitted to the features of two sets ("FID" for Inception features).

    The estimate is biased upward, by about 1 / n of the features' variance, and resampling repeats the bias. So the
    interval keeps only the spread of the resampled distances, around the value, and `details["bias"]` is how much
    resampling added: a rough estimate of the bias in the value. Compare values at equal n only.

    Args:
        samples: Rows (N, *S), N >= 2.
        reference: Real rows (M, *S), M >= 2.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        seed: Names the resampling of the interval.
        num_resamples: Bootstrap resamples; each costs two eigenvalue problems of size D.

    Returns: Metric "frechet", in squared units of the features.

    Raises:
        ValueError: As `pair`, and if num_resamples < 10.
        TypeError: If the features are integers.

    Source: Heusel et al. 2017; the bias: Chong and Forsyth 2020.
    """
    _enough(num_resamples)
    x, y = pair(samples, reference, features)
    value = frechet_distance(*moments(x), *moments(y))
    generator = stream(seed, "frechet")
    draws = []
    for _ in range(num_resamples):
        one, other = resample(len(x), 1, generator)[0], resample(len(y), 1, generator)[0]
        draws.append(frechet_distance(*moments(x[one]), *moments(y[other])))
    low, high, bias = _centred(value, torch.tensor(draws, dtype=torch.float64))
    return Metric(
        name="frechet",
        value=value,
        interval=(max(low, 0.0), high),
        n=len(x),
        definition=(
            "Frechet distance of Gaussians with the samples' mean and unbiased covariance (squared 2-Wasserstein), not "
            f"corrected for its bias at finite n; features: {definition}; {_CENTRED}"
        ),
        unit="squared feature units",
        seed=seed,
        details={"num_reference": float(len(y)), "bias": bias},
    )


def kid(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    seed: int = 0,
    num_resamples: int = 200,
) -> Metric:
    """Measure the kernel distance of two sets: the unbiased squared MMD with k(x, y) = (x . y / D + 1)^3.

    mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j)

    All pairs are used instead of random blocks. Equal distributions give 0 on average, so values below 0 occur. In a
    resample, a row paired with its own copy is left out, which keeps resampling unbiased too.

    Args:
        samples: Rows (N, *S), N >= 2.
        reference: Real rows (M, *S), M >= 2.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        seed: Names the resampling of the interval.
        num_resamples: Bootstrap resamples.

    Returns: Metric "kid".

    Raises:
        ValueError: As `pair`, and if num_resamples < 10.
        TypeError: If the features are integers.

    Source: Binkowski et al. 2018; unbiased MMD: Gretton et al. 2012, eq. 3.
    """
    _enough(num_resamples)
    x, y = pair(samples, reference, features)
    generator = stream(seed, "kid")
    # Row 0 holds the value itself: every row counted once.
    left = torch.cat([torch.ones(1, len(x), dtype=torch.float64), _counts(len(x), num_resamples, generator)])
    right = torch.cat([torch.ones(1, len(y), dtype=torch.float64), _counts(len(y), num_resamples, generator)])
    draws = _within(x, left) + _within(y, right) - 2 * _between(x, y, left, right)
    value = float(draws[0])
    low, high, _ = _centred(value, draws[1:])
    return Metric(
        name="kid",
        value=value,
        interval=(low, high),
        n=len(x),
        definition=(
            f"unbiased squared MMD over all pairs with kernel (x . y / D + 1)^3; features: {definition}; {_CENTRED}"
        ),
        unit="squared MMD",
        seed=seed,
        details={"num_reference": float(len(y))},
    )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _counts(n: int, num: int, generator: torch.Generator) -> Tensor:
    """How often each row is in each resample: float64 (num, n)."""
    index = resample(n, num, generator)
    return torch.zeros(num, n, dtype=torch.float64).scatter_add_(1, index, torch.ones(1, 1).double().expand(num, n))


def _within(x: Tensor, counts: Tensor, chunk: int = 1000) -> Tensor:
    """Mean kernel over pairs of different rows, for each row of counts (R, N): (R,)."""
    total = torch.zeros(len(counts), dtype=torch.float64)
    for at in range(0, len(x), chunk):
        part = slice(at, at + chunk)
        total += ((counts[:, part] @ _kernel(x[part], x)) * counts).sum(1)
        total -= counts[:, part].square() @ _kernel_diagonal(x[part])
    pairs = counts.sum(1).square() - counts.square().sum(1)
    if bool((pairs == 0).any()):
        raise ValueError(f"{len(x)} rows are too few to resample pairs of different rows; give more")
    return total / pairs


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1.0) ** 3


def _between(x: Tensor, y: Tensor, left: Tensor, right: Tensor, chunk: int = 1000) -> Tensor:
    """Mean kernel over all pairs, for each row of the counts: (R,)."""
    total = torch.zeros(len(left), dtype=torch.float64)
    for at in range(0, len(x), chunk):
        part = slice(at, at + chunk)
        total += ((left[:, part] @ _kernel(x[part], y)) * right).sum(1)
    return total / (left.sum(1) * right.sum(1))


def _centred(value: float, draws: Tensor) -> tuple[float, float, float]:
    """Interval of the draws' spread around the value, and the draws' mean excess over the value."""
    bias = float(draws.mean()) - value
    low, high = quantiles(draws - draws.mean())
    return value + min(low, 0.0), value + max(high, 0.0), bias


def _enough(num_resamples: int) -> None:
    if num_resamples < 10:
        raise ValueError(f"an interval needs at least 10 resamples, got {num_resamples}; 100 or more are better")
