"""Nearest neighbours in feature space, and the fidelity and variety they show: precision, recall, density, coverage."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condiff.evaluate.distances import VALUES
from condiff.evaluate.metric import Metric, flat, mean, pair, share

_HELD = "interval over the scored rows, the balls held fixed"


def nearest(x: Tensor, others: Tensor, k: int = 1, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """Find the k nearest of `others` for every row of x, by Euclidean distance.

    Candidates come from |x|^2 - 2 x . y + |y|^2, one product a chunk; the distances of the candidates are then computed
    from the differences, since the expansion loses all digits for near copies.

    Args:
        x: Rows (N, D), float.
        others: Rows (M, D), M >= k.
        k: Neighbours a row.
        chunk: Rows of x a step; memory is chunk * M numbers.

    Returns: Distances (N, k), ascending, float64, and indices into `others` (N, k), int64.

    Raises:
        ValueError: If k is not in 1..M.
    """
    if not 1 <= k <= len(others):
        raise ValueError(f"cannot find {k} neighbours among {len(others)} rows; k must be 1 to {len(others)}")
    x, others = x.double(), others.double()
    squares = others.square().sum(1)
    spare = min(k + 2, len(others))  # rounding may swap near ties: rank a few more exactly
    distances, indices = [], []
    for part in torch.split(x, chunk):
        rough = squares - 2 * (part @ others.T)
        index = rough.topk(spare, dim=1, largest=False).indices
        exact = torch.stack([(part - others[index[:, i]]).square().sum(1).sqrt() for i in range(spare)], 1)
        # Sorting by index first makes ties go to the lowest index.
        index, order = index.sort(dim=1)
        exact, order = exact.gather(1, order).sort(dim=1, stable=True)
        distances.append(exact[:, :k])
        indices.append(index.gather(1, order)[:, :k])
    return torch.cat(distances), torch.cat(indices)


def radii(x: Tensor, k: int) -> Tensor:
    """Distance from each row of x (N, D) to its k-th nearest other row: (N,).

    Raises:
        ValueError: If k is not in 1..N-1.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"the {k}-th nearest other row needs more than {k} rows, got {len(x)}; lower k or add rows")
    # A row is its own nearest neighbour at distance 0; with exact copies a copy may stand in for it, at 0 as well.
    return nearest(x, x, k + 1)[0][:, k]


def _inside(x: Tensor, centres: Tensor, radius: Tensor, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """For each x: in how many balls is it (N,); for each ball: does it hold any x (M,)."""
    counts, held = [], torch.zeros(len(centres), dtype=torch.bool)
    for part in torch.split(x, chunk):
        inside = torch.cdist(part, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radius
        counts.append(inside.sum(1))
        held |= inside.any(0)
    return torch.cat(counts), held


def precision(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    k: int = 5,
) -> Metric:
    """Measure fidelity: the share of samples inside the union of the reference's k-nearest-neighbour balls.

    Args:
        samples: Rows (N, *S).
        reference: Real rows (M, *S), M > k.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        k: The ball around a real row reaches to its k-th nearest other real row.

    Returns: Metric "precision", a fraction.

    Raises:
        ValueError: As `pair`, and if a set has too few rows for k.
        TypeError: If the features are integers.

    Source: Kynkaanniemi et al. 2019.
    """
    x, y = pair(samples, reference, features)
    counts, _ = _inside(x, y, radii(y, k))
    return share(
        counts > 0,
        name="precision",
        definition=f"share of samples inside a {k}-nearest-neighbour ball of a reference row; "
        f"features: {definition}; {_HELD}",
        details={"num_reference": float(len(y))},
    )


def recall(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    k: int = 5,
) -> Metric:
    """Measure variety: the share of reference rows inside the union of the samples' k-nearest-neighbour balls.

    Args:
        samples: Rows (N, *S), N > k.
        reference: Real rows (M, *S).
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        k: The ball around a sample reaches to its k-th nearest other sample.

    Returns: Metric "recall", a fraction; n counts the reference rows.

    Raises:
        ValueError: As `pair`, and if a set has too few rows for k.
        TypeError: If the features are integers.

    Source: Kynkaanniemi et al. 2019.
    """
    x, y = pair(samples, reference, features)
    counts, _ = _inside(y, x, radii(x, k))
    return share(
        counts > 0,
        name="recall",
        definition=f"share of reference rows inside a {k}-nearest-neighbour ball of a sample; "
        f"features: {definition}; {_HELD}",
        details={"num_samples": float(len(x))},
    )


def density(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    k: int = 5,
    seed: int = 0,
) -> Metric:
    """Measure fidelity, less moved by outliers: the mean number of reference balls around a sample, over k.

    Args:
        samples: Rows (N, *S).
        reference: Real rows (M, *S), M > k.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        k: The ball around a real row reaches to its k-th nearest other real row.
        seed: Names the resampling of the interval.

    Returns: Metric "density"; about 1 for equal distributions, and it may exceed 1.

    Raises:
        ValueError: As `pair`, and if a set has too few rows for k.
        TypeError: If the features are integers.

    Source: Naeem et al. 2020.
    """
    x, y = pair(samples, reference, features)
    counts, _ = _inside(x, y, radii(y, k))
    return mean(
        counts.double() / k,
        name="density",
        definition=f"mean over samples of the number of {k}-nearest-neighbour balls of reference rows that hold it, "
        f"divided by {k}; features: {definition}; {_HELD}",
        seed=seed,
    )


def coverage(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    k: int = 5,
) -> Metric:
    """Measure variety, less moved by outliers: the share of reference rows whose ball holds a sample.

    Args:
        samples: Rows (N, *S).
        reference: Real rows (M, *S), M > k.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        k: The ball around a real row reaches to its k-th nearest other real row.

    Returns: Metric "coverage", a fraction; n counts the reference rows. It grows with the number of samples.

    Raises:
        ValueError: As `pair`, and if a set has too few rows for k.
        TypeError: If the features are integers.

    Source: Naeem et al. 2020.
    """
    x, y = pair(samples, reference, features)
    _, held = _inside(x, y, radii(y, k))
    return share(
        held,
        name="coverage",
        definition=f"share of reference rows whose {k}-nearest-neighbour ball holds a sample; "
        f"features: {definition}; {_HELD}",
        details={"num_samples": float(len(x))},
    )
