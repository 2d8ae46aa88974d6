"""Are samples copies of training rows? Distances to the nearest training row, compared with those of held-out data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.evaluate.distances import VALUES
from condiff.evaluate.metric import Metric, extract, flat, quantiles, resample, stream, wilson
from condiff.evaluate.neighbours import nearest

LEVEL = 0.01
"""Held-out quantile below which a sample counts as closer to the training data than new data is."""


@final
@dataclass(frozen=True, eq=False)
class Copying:
    """How near samples lie to the training rows, against how near new data lies.

    Args:
        ratio: Median distance of samples over that of held-out rows; 1 for new data, near 0 for copies.
        closer: Share of samples closer than the 1st percentile of held-out distances; about 0.01 for new data.
        distances: Distance of each sample to its nearest training row, (N,).
        neighbours: Which training row that is, (N,).
        held_out: Distance of each held-out row to its nearest training row, (M,).
    """

    ratio: Metric
    closer: Metric
    distances: Tensor
    neighbours: Tensor
    held_out: Tensor

    @property
    def verdict(self) -> str:
        """Say in one sentence whether samples look copied."""
        low, high = self.closer.interval
        told = (
            f"{self.closer.value:.1%} of samples (95 % interval {low:.1%} to {high:.1%}) lie closer to a training row "
            f"than {1 - LEVEL:.0%} of new data does, and the median distance is {self.ratio.value:.2f} times that of "
            "new data"
        )
        if low > LEVEL:
            return f"Samples are suspiciously near the training data: {told}; look at the neighbours."
        return f"No sign of copying: {told}."

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: both metrics, the verdict and the ten nearest samples with their neighbours."""
        order = self.distances.argsort()[:10].tolist()
        near = [{"sample": i, "train": int(self.neighbours[i]), "distance": float(self.distances[i])} for i in order]
        return {
            "ratio": self.ratio.to_json(),
            "closer": self.closer.to_json(),
            "verdict": self.verdict,
            "nearest": near,
        }


def copying(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    features: Callable[[Tensor], Tensor] = flat,
    definition: str = VALUES,
    seed: int = 0,
    num_resamples: int = 1000,
) -> Copying:
    """Compare distances to the nearest training row between samples and held-out data.

    Samples may be nearer than new data for a harmless reason: smoother or plainer data has nearer neighbours. So look
    at the neighbours before calling it copying.

    Args:
        samples: Rows (N, *S).
        train: The training rows (K, *S).
        held_out: Real rows the model has not seen (M, *S); the 1st percentile is rough below a few hundred.
        features: Feature function, (B, *S) to (B, D).
        definition: What the features are.
        seed: Names the resampling of the intervals.
        num_resamples: Bootstrap resamples.

    Returns: Both metrics, and for every sample its nearest training row.

    Raises:
        ValueError: If row shapes differ, a set has fewer than 2 rows or is not finite, or over half of the held-out
            rows are themselves exact copies of training rows.
        TypeError: If the features are integers.
    """
    shapes = {"samples": samples.shape[1:], "train": train.shape[1:], "held_out": held_out.shape[1:]}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"rows must have one shape, got { {name: tuple(shape) for name, shape in shapes.items()} }")
    base = extract(train, features, what="training rows")
    found, index = nearest(extract(samples, features, what="samples"), base)
    distances, neighbours = found[:, 0], index[:, 0]
    fresh = nearest(extract(held_out, features, what="held-out rows"), base)[0][:, 0]
    middle = float(fresh.median())
    if middle == 0:
        raise ValueError(
            "over half of the held-out rows are exact copies of training rows; give data the model has not seen"
        )
    generator = stream(seed, "copying")
    ratios, levels = [], []
    for _ in range(num_resamples):
        other = fresh[resample(len(fresh), 1, generator)[0]]
        # A resample may consist of copies; an infinite draw would be an honest end, but not one JSON can hold.
        floor = max(float(other.median()), float(fresh[fresh > 0].min()))
        ratios.append(float(distances[resample(len(distances), 1, generator)[0]].median()) / floor)
        levels.append(float(torch.quantile(other, LEVEL)))
    value = float(distances.median()) / middle
    low, high = quantiles(torch.tensor(ratios))
    level = float(torch.quantile(fresh, LEVEL))
    shared = {"num_train": float(len(base)), "num_held_out": float(len(fresh))}
    ratio = Metric(
        name="copying_ratio",
        value=value,
        interval=(min(low, value), max(high, value)),
        n=len(distances),
        definition="median Euclidean distance of samples to their nearest training row, over that of held-out rows; "
        f"features: {definition}; percentile bootstrap over samples and held-out rows",
        seed=seed,
        details={**shared, "exact_copies": float((distances == 0).sum())},
    )
    return Copying(
        ratio,
        _closer(distances, level, quantiles(torch.tensor(levels)), definition, seed, shared),
        distances,
        neighbours,
        fresh,
    )


def _closer(
    distances: Tensor, level: float, ends: tuple[float, float], definition: str, seed: int, details: dict[str, float]
) -> Metric:
    def count(threshold: float) -> int:
        # Equality counts only at 0, where it means an exact copy.
        return int(((distances < threshold) | (distances == 0)).sum())

    n = len(distances)
    low, high = sorted(count(end) for end in ends)
    value = count(level)
    return Metric(
        name="copying_share",
        value=value / n,
        interval=(wilson(min(low, value), n)[0], wilson(max(high, value), n)[1]),
        n=n,
        definition=f"share of samples nearer to a training row than the {LEVEL:.0%} quantile of held-out distances "
        f"(new data: {LEVEL:g}); features: {definition}; Wilson interval, widened by the bootstrap of the quantile",
        unit="fraction",
        seed=seed,
        details={**details, "threshold": level},
    )
