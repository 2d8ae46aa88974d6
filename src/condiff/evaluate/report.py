"""All sample metrics of one set in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from condiff.evaluate.copying import copying
from condiff.evaluate.distances import frechet, kid
from condiff.evaluate.features import RandomFeatures
from condiff.evaluate.metric import Metric, extract, stream
from condiff.evaluate.neighbours import coverage, density, precision, recall


def evaluate_samples(
    samples: Tensor,
    reference: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    definition: str | None = None,
    train: Tensor | None = None,
    seed: int = 0,
    k: int = 5,
) -> list[Metric]:
    """Measure samples against held-out data: distances, fidelity, variety and, given the training rows, copying.

    Without a feature function, `RandomFeatures` fitted to the training rows (or the reference) are used; the definition
    in every metric says so. Features are computed once for all metrics.

    Args:
        samples: Rows (N, *S), N > k.
        reference: Held-out real rows (M, *S), M > k.
        features: Feature function, (B, *S) to (B, D), such as `judge().features`.
        definition: What the features are, such as `judge().definition`; given exactly when features are.
        train: Training rows (K, *S). They add the two copying metrics, and "frechet_train": the distance between
            as many training rows as there are samples and the reference, which is what perfect samples would score.
        seed: Names the intervals and the choice of training rows.
        k: Neighbours that make a ball in precision, recall, density and coverage.

    Returns: Metrics named frechet, kid, precision, recall, density, coverage; with train also frechet_train (its n says
        how many training rows there were), copying_ratio, copying_share.

    Raises:
        ValueError: If row shapes differ, values are not finite, or a set has too few rows.
        TypeError: If features and definition are not given together, or the features are integers.
    """
    if (features is None) != (definition is None):
        raise TypeError("features and definition belong together: give both, or neither for random features")
    sizes = {tuple(rows.shape[1:]) for rows in (samples, reference, train) if rows is not None}
    if len(sizes) > 1:
        raise ValueError(f"samples, reference and train must hold rows of one shape, got {sorted(sizes)}")
    if features is None or definition is None:
        features = RandomFeatures.fit(reference if train is None else train)
        definition = features.definition
    x = extract(samples, features, what="samples")
    y = extract(reference, features, what="reference rows")
    out = [
        frechet(x, y, definition=definition, seed=seed),
        kid(x, y, definition=definition, seed=seed),
        precision(x, y, definition=definition, k=k),
        recall(x, y, definition=definition, k=k),
        density(x, y, definition=definition, k=k, seed=seed),
        coverage(x, y, definition=definition, k=k),
    ]
    if train is not None:
        base = extract(train, features, what="training rows")
        some = base[torch.randperm(len(base), generator=stream(seed, "train rows"))[: len(x)]]
        floor = frechet(some, y, definition=definition, seed=seed)
        near = copying(x, base, y, definition=definition, seed=seed)
        out += [replace(floor, name="frechet_train"), near.ratio, near.closer]
    return out
