"""A measured number that carries its own definition and uncertainty, and the intervals it is made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.rng import key

Z95 = 1.959963984540054
"""Standard normal quantile of 0.975: all intervals here are 95 %."""


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """One measured value: what it is, over how many rows, how sure, and how to measure it again.

    Args:
        name: Short name, such as "frechet".
        value: The measured number.
        interval: 95 % interval (low, high); how it is made is part of the definition.
        n: Rows that were scored.
        definition: The estimator and the feature function, complete enough to compare only equals.
        unit: What a 1 means; "" for a pure number, "fraction" for a share in [0, 1].
        seed: Seed of the interval's resampling; None if nothing was drawn.
        details: Further numbers that explain the value, by name.

    Raises:
        ValueError: If the value is not finite, the interval is not (low, high) with low <= high, or n < 1.
    """

    name: str
    value: float
    interval: tuple[float, float]
    n: int
    definition: str
    unit: str = ""
    seed: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not math.isfinite(self.value):
            raise ValueError(f"metric {self.name!r} came out as {self.value}; check the samples for NaN and infinity")
        if not low <= high:
            raise ValueError(f"metric {self.name!r} has interval ({low}, {high}); low must not exceed high")
        if self.n < 1:
            raise ValueError(f"metric {self.name!r} was measured on {self.n} rows; at least one is needed")

    def __str__(self) -> str:
        """Say it in one line."""
        low, high = self.interval
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {self.value:.4g}{unit} (95 % interval {low:.4g} to {high:.4g}, n = {self.n})"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `details` is left out when empty."""
        out: dict[str, Any] = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "n": self.n,
            "interval": [self.interval[0], self.interval[1]],
            "seed": self.seed,
            "definition": self.definition,
        }
        if self.details:
            out["details"] = dict(self.details)
        return out


def wilson(successes: float, n: int, *, z: float = Z95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = successes / n

    Args:
        successes: Count in [0, n].
        n: Trials, >= 1.
        z: Standard normal quantile of the level.

    Returns: (low, high) in [0, 1].

    Raises:
        ValueError: If n < 1 or successes is outside [0, n].

    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # The ends are exactly 0 and 1 at p = 0 and p = 1; the formula leaves a rounding error there.
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == n else min(high, 1.0))


def share(hits: Tensor, *, name: str, definition: str, details: Mapping[str, float] | None = None) -> Metric:
    """Make a proportion of rows with its Wilson interval; hits is bool (N,)."""
    count, n = int(hits.sum()), len(hits)
    return Metric(
        name=name,
        value=count / max(n, 1),
        interval=wilson(count, n),
        n=n,
        definition=f"{definition}; Wilson interval",
        unit="fraction",
        details=details or {},
    )


def resample(n: int, num: int, generator: torch.Generator) -> Tensor:
    """Draw `num` bootstrap resamples of n rows: int64 (num, n)."""
    return torch.randint(n, (num, n), generator=generator)


def stream(seed: int, *names: int | str) -> torch.Generator:
    """Make the private generator of one interval, named by the seed and what it is for."""
    return torch.Generator().manual_seed(key(seed, "evaluate", *names))


def quantiles(draws: Tensor) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of draws (R,)."""
    low, high = torch.quantile(draws.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def mean_interval(rows: Tensor, *, seed: int, name: str, num_resamples: int = 1000) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean over rows, widened for small n.

    mean + sqrt(n / (n - 1)) * (quantiles of resampled means - mean)

    The factor undoes the smaller variance of a resample.

    Args:
        rows: Independent values, (N,), N >= 2.
        seed: Names the resampling, together with `name`.
        name: What is averaged.
        num_resamples: Bootstrap resamples.

    Returns: (low, high).

    Raises:
        ValueError: If there are fewer than 2 rows, or a row is not finite.
    """
    rows = rows.detach().double().cpu()
    if rows.ndim != 1 or len(rows) < 2:
        raise ValueError(f"an interval of {name} needs at least 2 rows, got shape {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        raise ValueError(f"{name}: {int((~rows.isfinite()).sum())} of {len(rows)} rows are not finite")
    n, generator = len(rows), stream(seed, name)
    chunk = max(1, 2_000_000 // n)
    means = torch.cat(
        [rows[resample(n, min(chunk, num_resamples - at), generator)].mean(-1) for at in range(0, num_resamples, chunk)]
    )
    centre = float(rows.mean())
    low, high = quantiles(centre + math.sqrt(n / (n - 1)) * (means - centre))
    return min(low, centre), max(high, centre)


def mean(rows: Tensor, *, name: str, definition: str, seed: int, unit: str = "") -> Metric:
    """Make the mean of independent rows (N,) with its bootstrap interval."""
    interval = mean_interval(rows, seed=seed, name=name)
    return Metric(
        name=name,
        value=float(rows.detach().double().mean()),
        interval=interval,
        n=len(rows),
        definition=f"{definition}; percentile bootstrap over rows, widened by sqrt(n / (n - 1))",
        unit=unit,
        seed=seed,
    )


def flat(x: Tensor) -> Tensor:
    """Flatten each row: the feature function that leaves values as they are, (B, *S) to (B, D)."""
    return x.flatten(1)


def extract(x: Tensor, features: Callable[[Tensor], Tensor], *, what: str, chunk: int = 500) -> Tensor:
    """Compute the features of all rows in chunks, without gradients.

    Args:
        x: Rows (N, *S).
        features: Feature function, (B, *S) to (B, ...); its result is flattened to (B, D).
        what: Name of the rows in error messages.
        chunk: Rows a call.

    Returns: Features (N, D), float64 on the host.

    Raises:
        ValueError: If there are fewer than 2 rows, or a feature is not finite.
        TypeError: If x holds integers and the features do too: token numbers have no distances.
    """
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"the {what} need at least 2 rows (N, *S), got shape {tuple(x.shape)}")
    with torch.no_grad():
        parts = [features(part) for part in torch.split(x, chunk)]
    if not parts[0].is_floating_point():
        raise TypeError(
            f"the {what} and their features are {parts[0].dtype}: token numbers have no distances; "
            "pass a feature function that returns floats"
        )
    out = torch.cat([part.flatten(1).to("cpu", torch.float64) for part in parts])
    if len(out) != len(x):
        raise ValueError(f"the feature function returned {len(out)} rows for {len(x)} {what}; it must keep rows")
    bad = ~out.isfinite().all(1)
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        raise ValueError(
            f"{len(rows)} of {len(x)} {what} have features that are not finite (first: row {rows[0]}); "
            "look at those rows for NaN, infinity or huge values"
        )
    return out


def pair(samples: Tensor, reference: Tensor, features: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Extract the features of samples and reference: float64 (N, D) and (M, D).

    Raises:
        ValueError: If the two have rows or features of different size, or as `extract`.
    """
    if samples.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"samples have rows of shape {tuple(samples.shape[1:])} but the reference has "
            f"{tuple(reference.shape[1:])}; compare like with like"
        )
    return extract(samples, features, what="samples"), extract(reference, features, what="reference rows")
