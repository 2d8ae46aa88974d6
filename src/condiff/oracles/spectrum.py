"""Mean and principal directions of data, read in batches: exact for small spaces, randomised for large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.rng import Rng, SharedRng

Batches = Callable[[], Iterable[Tensor]]
"""Starts a fresh pass over the rows of a data set, in batches (B, *S)."""

LARGEST = 2048
"""Most features of which a covariance is made whole: 34 MB in float64."""

_CHUNK = 1024


@final
@dataclass(frozen=True)
class Spectrum:
    """Mean, principal directions and their variances, float64.

    Args:
        mean: Shape (*S).
        basis: Orthonormal columns (D, K), largest variance first.
        variances: Shape (K,), >= 0.
        rest: Mean variance of the D - K directions left out; 0 if there are none.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, rank: int | None = None) -> Self:
        """Build from a mean (*S) and a covariance (D, D), keeping the `rank` largest directions."""
        variances, basis = torch.linalg.eigh(covariance.to(torch.float64))
        variances, basis = variances.flip(0).clamp_min(0.0), basis.flip(1)
        kept = _rank(rank, len(variances))
        rest = float(variances[kept:].mean()) if kept < len(variances) else 0.0
        return cls(mean.to(torch.float64), basis[:, :kept].contiguous(), variances[:kept], rest)

    @classmethod
    def fit(cls, data: Tensor | Batches, rank: int | None = None, *, num_iterations: int = 4) -> Self:
        """Fit to all rows (N, *S), or to a function that starts a fresh pass over batches of them.

        Args:
            data: The rows.
            rank: Directions to keep; all if None.
            num_iterations: Passes of the randomised subspace iteration, used above `LARGEST` features.

        Raises:
            ValueError: If there are fewer than 2 rows, or no rank is given for more features than `LARGEST`.

        Source: Halko et al. 2011, algorithm 4.4, with a Rayleigh-Ritz step; variances are those of the population
            (divided by N).
        """
        batches = (lambda: torch.split(data, _CHUNK)) if isinstance(data, Tensor) else data
        first = next(iter(batches()))
        shape, dims = first.shape[1:], first[0].numel()
        count, total = 0, torch.zeros(dims, dtype=torch.float64)
        for rows in _flat(batches):
            count, total = count + len(rows), total + rows.sum(0)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {count}")
        mean = total / count
        if dims <= LARGEST:
            scatter = torch.zeros(dims, dims, dtype=torch.float64)
            for rows in _flat(batches):
                scatter.addmm_((rows - mean).T, rows - mean)
            return cls.of(mean.reshape(shape), scatter / count, rank)
        if rank is None:
            raise ValueError(f"{dims} features have a covariance of {dims}x{dims}; give a rank, such as 64")
        kept = _rank(rank, dims)
        width = min(kept + 10, dims, count)
        kept = min(kept, width)
        probe: Tensor = SharedRng(0, "spectrum", dtype=torch.float64).normal((dims, width))
        power, trace = _pass(batches, mean, torch.linalg.qr(probe).Q)
        for _ in range(num_iterations):
            probe = torch.linalg.qr(power).Q
            power, trace = _pass(batches, mean, probe)
        variances, turn = torch.linalg.eigh(probe.T @ power / count)
        variances, turn = variances.flip(0).clamp_min(0.0)[:kept], turn.flip(1)[:, :kept]
        rest = max(float(trace / count - variances.sum()), 0.0) / (dims - kept)
        return cls(mean.reshape(shape), probe @ turn, variances, rest)


def clusters(data: Tensor, num: int, *, rng: Rng, num_iterations: int = 25) -> Tensor:
    """Group rows around `num` centres by Lloyd's iterations from random rows (k-means).

    Args:
        data: Rows (N, *S).
        num: Number of groups, 1 to N.
        rng: Source of the first centres, chosen among rows with odds of squared distance (k-means++).
        num_iterations: Most iterations; fewer where nothing changes.

    Returns: Group of each row, int64 (N,); an emptied group takes the row farthest from its centre.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007.
    """
    flat = data.flatten(1).to(torch.float64)
    if not 1 <= num <= len(flat):
        raise ValueError(f"cannot make {num} groups of {len(flat)} rows")
    chosen = [0]
    for _ in range(num - 1):
        away = torch.cdist(flat, flat[chosen]).amin(1).square()
        chosen.append(int(rng.categorical(torch.log(away + 1e-30)[None])[0]))
    centres = flat[chosen]
    labels = torch.full((len(flat),), -1)
    for _ in range(num_iterations):
        distances = torch.cdist(flat, centres)
        nearest = distances.argmin(1)
        away = distances.gather(1, nearest[:, None])[:, 0]
        for empty in (torch.bincount(nearest, minlength=num) == 0).nonzero().flatten().tolist():
            crowded = torch.bincount(nearest, minlength=num)[nearest] > 1
            row = int(torch.where(crowded, away, -1.0).argmax())
            nearest[row], away[row] = empty, 0.0
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sums = torch.zeros_like(centres).index_add_(0, labels, flat)
        centres = sums / torch.bincount(labels, minlength=num)[:, None]
    return labels


def _rank(rank: int | None, dims: int) -> int:
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return dims if rank is None else min(rank, dims)


def _flat(batches: Batches) -> Iterator[Tensor]:
    for rows in batches():
        yield rows.detach().flatten(1).to("cpu", torch.float64)


def _pass(batches: Batches, mean: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Return scatter @ probe and the trace of the scatter, in one pass."""
    out, trace = torch.zeros_like(probe), torch.zeros((), dtype=torch.float64)
    for rows in _flat(batches):
        centred = rows - mean
        out.addmm_(centred.T, centred @ probe)
        trace += centred.square().sum()
    return out, trace
