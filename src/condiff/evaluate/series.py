"""Measures of probabilistic forecasts: by quantiles, by draws, by coverage, and by whole paths.

A forecast is an ensemble of draws, (W, N, H): W windows (an origin of a series each), N draws, H steps. The truth is
(W, H) with NaN where nothing was measured; such steps are not scored. Every measure is a ratio of sums over windows, so
that its interval resamples windows, and two forecasts of the same windows are compared window by window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.evaluate.metric import Metric, quantiles, resample, stream
from condiff.guidance.observed import pinball

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Quantile levels of the weighted quantile loss: the deciles, as in the literature of forecasting."""

BANDS = (0.5, 0.8, 0.9)
"""Central bands whose coverage is reported."""

NUM_BINS = 10
"""Bins of the histogram of PIT values."""


@final
@dataclass(frozen=True)
class Score:
    """One measure of a forecast, window by window: value = sum of tops / sum of bottoms.

    Args:
        name: Short name of the metric.
        top: What is measured in every window, (W,).
        bottom: What it is measured by, (W,), not negative; 0 where a window does not count.
        definition: What the ratio is, complete enough to compare only equals.
        unit: As in `Metric`.
        details: Further numbers, as in `Metric`.

    Raises:
        ValueError: If no window counts, or a number is not finite.
    """

    name: str
    top: Tensor
    bottom: Tensor
    definition: str
    unit: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.top.ndim != 1 or self.top.shape != self.bottom.shape:
            raise ValueError(
                f"{self.name} needs one number a window, got {tuple(self.top.shape)} over {tuple(self.bottom.shape)}"
            )
        if not bool(torch.isfinite(self.top).all() & torch.isfinite(self.bottom).all()):
            raise ValueError(f"{self.name}: a forecast or the truth is infinite; look for NaN draws")
        if not float(self.bottom.sum()) > 0:
            why = "all true values are zero or missing" if len(self.top) else "there are no windows"
            raise ValueError(f"{self.name} cannot be measured: {why}")

    @property
    def value(self) -> float:
        """The ratio of the two sums."""
        return float(self.top.sum() / self.bottom.sum())

    def metric(self, *, seed: int = 0, num_resamples: int = 1000) -> Metric:
        """Make the metric, with the percentile bootstrap interval of the ratio over windows.

        sqrt(n / (n - 1)) widens the interval as for a mean; a single window has no spread to go by, so its interval is
        the value itself. Windows are taken as independent: where neighbours share a bad day, it is too narrow.

        Args:
            seed: Names the resampling.
            num_resamples: Bootstrap resamples of windows.
        """
        said = f"{self.definition}; percentile bootstrap over windows, widened by sqrt(n / (n - 1))"
        return Metric(
            self.name, self.value, self._interval(self.top, self.bottom, self.value, seed, num_resamples),
            int((self.bottom > 0).sum()), said, self.unit, seed, self.details,
        )  # fmt: skip

    def gain(self, other: Score, *, seed: int = 0, num_resamples: int = 1000) -> Metric:
        """Measure by which share this score is below another of the same windows: 1 - this / other.

        The interval resamples windows of both together, so what makes a window hard for both cancels.

        Args:
            other: The same measure of another forecast; its value is above 0.
            seed: Names the resampling.
            num_resamples: Bootstrap resamples of windows.

        Raises:
            ValueError: If the two are not the same measure of the same windows.
        """
        if self.name != other.name or not torch.equal(self.bottom, other.bottom):
            raise ValueError(f"{self.name} and {other.name} are not one measure of the same windows")
        if not float(other.top.sum()) > 0:
            raise ValueError(f"the other forecast has a {self.name} of {other.value:g}; nothing can be below it")
        value = 1.0 - self.value / other.value
        return Metric(
            f"{self.name}_gain",
            value,
            self._interval(other.top - self.top, other.top, value, seed, num_resamples),
            len(self.top),
            f"share by which it is below the other, windows resampled together; {self.definition}",
            "fraction",
            seed,
        )

    def _interval(self, top: Tensor, bottom: Tensor, value: float, seed: int, num: int) -> tuple[float, float]:
        n = len(top)
        if n < 2:
            return value, value
        index = resample(n, num, stream(seed, self.name))
        sums = top.double()[index].sum(1), bottom.double()[index].sum(1)
        drawn = (sums[0] / sums[1])[sums[1] > 0]
        if not len(drawn):
            return value, value
        low, high = quantiles(value + math.sqrt(n / (n - 1)) * (drawn - value))
        return min(low, value), max(high, value)


def ensemble_quantiles(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Read quantiles off draws, so that draw k of N in order is the quantile of level k / (N + 1).

    Between those levels the line, outside of them the lowest and the highest draw. By exchangeability a new value lies
    below draw k with chance k / (N + 1) exactly, so bands keep their coverage at any N.

    Args:
        draws: (W, N, H).
        levels: Each in (0, 1).

    Returns: (W, Q, H), float64.

    Raises:
        ValueError: If a level is outside (0, 1) or there are no draws.

    Source: Hyndman and Fan 1996, definition 6.
    """
    if not all(0.0 < level < 1.0 for level in levels):
        raise ValueError(f"levels must lie in (0, 1), got {list(levels)}")
    count = draws.shape[1]
    if count < 1:
        raise ValueError("quantiles need at least one draw")
    order = draws.double().sort(1).values
    place = (torch.tensor(levels, dtype=torch.float64, device=draws.device) * (count + 1) - 1).clamp(0, count - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(count - 1)
    share = (place - low)[None, :, None]
    return order[:, low] * (1 - share) + order[:, high] * share


def weighted_quantile_loss(draws: Tensor, truth: Tensor, levels: Sequence[float] = LEVELS) -> Score:
    """Score quantiles of draws: mean over levels of 2 * sum of pinball / sum of |truth|; 0 is perfect.

    It is what papers of forecasting call CRPS, approximated at nine levels. For a point forecast, all quantiles alike
    and levels symmetric, it is the sum of absolute errors over the sum of absolute values.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        levels: Quantile levels.

    Raises:
        ValueError: If shapes differ, or the truth has no size to weigh by.

    Source: Salinas et al. 2020 (DeepAR); Rasul et al. 2021 (TimeGrad) for the mean over deciles.
    """
    known = _known(draws, truth)
    found = ensemble_quantiles(draws, levels)
    level = torch.tensor(levels, dtype=torch.float64, device=draws.device)[None, :, None]
    loss = 2.0 * pinball(_zeroed(truth, known)[:, None], found, level).mean(1)
    return Score(
        "weighted_quantile_loss",
        (loss * known).sum(1),
        _zeroed(truth, known).abs().sum(1),
        f"mean over levels {', '.join(f'{level:g}' for level in levels)} of 2 * sum of pinball loss / sum of |truth| "
        f"(what papers call CRPS), quantiles of {draws.shape[1]} draws at k / (N + 1)",
    )


def ensemble_crps(draws: Tensor, truth: Tensor) -> Score:
    """Score draws by the exact continuous ranked probability score of their distribution, over the sum of |truth|.

    CRPS = mean_i |x_i - y| - 1/2 mean_ij |x_i - x_j|, the second sum by sorting, O(N log N). `details["crps"]` is the
    mean a step in the units of the data, and `details["crps_fair"]` the same with N (N - 1) pairs: what infinitely many
    draws would score, in expectation.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.

    Raises:
        ValueError: If shapes differ, or the truth has no size to weigh by.

    Source: Gneiting and Raftery 2007; Ferro 2014 for the fair form.
    """
    known = _known(draws, truth)
    count = draws.shape[1]
    order = draws.double().sort(1).values
    far = (order - _zeroed(truth, known)[:, None]).abs().mean(1)
    rank = 2.0 * torch.arange(count, dtype=torch.float64, device=draws.device) - count + 1.0
    pairs = (rank[None, :, None] * order).sum(1)  # sum of |x_i - x_j| over i < j
    crps = (far - pairs / count**2) * known
    steps = float(known.sum())
    details = {"crps": float(crps.sum()) / steps}
    if count > 1:
        details["crps_fair"] = float(((far - pairs / (count * (count - 1))) * known).sum()) / steps
    return Score(
        "ensemble_crps",
        crps.sum(1),
        _zeroed(truth, known).abs().sum(1),
        f"sum of the exact CRPS of {count} draws / sum of |truth|; other than the weighted quantile loss",
        details=details,
    )


def mase(draws: Tensor, truth: Tensor, scale: Tensor) -> Score:
    """Score the median by its mean absolute error over that of a seasonal naive forecast within the history.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        scale: Mean of |y_t - y_(t - period)| over the history of every window, (W,); a window whose scale is 0, a
            history that repeats itself exactly, does not count.

    Raises:
        ValueError: If shapes differ, or no window counts.

    Source: Hyndman and Koehler 2006.
    """
    known = _known(draws, truth)
    error = ((ensemble_quantiles(draws, (0.5,))[:, 0] - _zeroed(truth, known)).abs() * known).sum(1)
    steps = known.sum(1)
    counts = (scale > 0) & (steps > 0)
    top = torch.where(counts, error / steps.clamp_min(1) / torch.where(counts, scale.double(), 1.0), 0.0)
    return Score(
        "mase",
        top,
        counts.double(),
        "mean over windows of the mean absolute error of the median / the mean absolute seasonal difference of the "
        "history before the window; below 1 beats a seasonal naive forecast of the past",
        details={"left_out": float((~counts).sum())},
    )


def band_coverage(draws: Tensor, truth: Tensor, share: float) -> Score:
    """Score a central band by the share of true values in it; a calibrated band of 90 % holds 90 %.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        share: Mass of the band, in (0, 1).

    Raises:
        ValueError: If shapes differ, or every true value is missing.
    """
    known = _known(draws, truth)
    low, high = ensemble_quantiles(draws, (0.5 - share / 2, 0.5 + share / 2)).unbind(1)
    y = _zeroed(truth, known)
    return Score(
        f"coverage_{100 * share:g}",
        ((y >= low) & (y <= high) & known).sum(1).double(),
        known.sum(1).double(),
        f"share of true values within the central {100 * share:g} % band of {draws.shape[1]} draws, ends included; "
        f"{share:g} is calibrated",
        "fraction",
        {"width": float(((high - low) * known).sum() / known.sum().clamp_min(1))},
    )


def pit(draws: Tensor, truth: Tensor, *, seed: int = 0) -> Tensor:
    """Compute the probability integral transform of the truth: its randomised rank among draws, uniform if calibrated.

    (number of draws below + u * (1 + number of draws equal)) / (N + 1), u uniform in [0, 1)

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        seed: Names u.

    Returns: (W, H), float64 in [0, 1), NaN where the truth is.

    Source: Gneiting, Balabdaoui and Raftery 2007; Czado, Gneiting and Held 2009 for ties.
    """
    known = _known(draws, truth)
    y = _zeroed(truth, known)[:, None]
    u = torch.rand(truth.shape, generator=stream(seed, "pit"), dtype=torch.float64).to(draws.device)
    below, equal = (draws < y).sum(1), (draws == y).sum(1)
    return torch.where(known, (below + u * (1 + equal)) / (draws.shape[1] + 1), math.nan)


def pit_scores(draws: Tensor, truth: Tensor, *, seed: int = 0) -> list[Score]:
    """Score calibration by mean and spread of the PIT values.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        seed: Names the random part of ranks.

    Returns: "pit_mean", 1/2 if calibrated, above it if forecasts are too low, with the histogram in `details`; and
        "pit_spread", 12 times the mean square around 1/2: 1 if calibrated, above it if bands are too narrow.

    Raises:
        ValueError: If shapes differ, or every true value is missing.
    """
    values = pit(draws, truth, seed=seed)
    known = ~values.isnan()
    u, count = torch.where(known, values, 0.5), known.sum(1).double()
    bins = torch.bincount((values[known] * NUM_BINS).long().clamp_max(NUM_BINS - 1), minlength=NUM_BINS).double()
    shares = {f"bin_{k}": float(bins[k] / bins.sum().clamp_min(1)) for k in range(NUM_BINS)}
    return [
        Score(
            "pit_mean",
            (u * known).sum(1),
            count,
            f"mean randomised rank of the truth among {draws.shape[1]} draws; 0.5 is calibrated, more is forecasts too "
            f"low; details are the {NUM_BINS} bins of the PIT histogram, 0.1 each if calibrated",
            details=shares,
        ),
        Score(
            "pit_spread",
            12.0 * ((u - 0.5).square() * known).sum(1),
            count,
            f"12 * mean square of the randomised rank around 1/2 among {draws.shape[1]} draws; 1 is calibrated, more "
            "is bands too narrow, less is too wide",
        ),
    ]


def energy_score(draws: Tensor, truth: Tensor) -> Score:
    """Score whole paths: mean_i |x_i - y| - 1/2 mean_ij |x_i - x_j| with Euclidean norms over the horizon.

    It asks for what the marginals do not: draws whose steps belong together. A window with a missing value is scored on
    the steps that are known. Weighted by the sum of |y|; `details["energy"]` is the mean a window in the units of the
    data.

    Args:
        draws: (W, N, H), every draw a path.
        truth: (W, H), NaN where missing.

    Raises:
        ValueError: If shapes differ, or the truth has no size to weigh by.

    Source: Gneiting and Raftery 2007, with exponent 1.
    """
    known = _known(draws, truth)
    y = _zeroed(truth, known)
    tops = []
    for x, true, seen in zip(draws.double(), y, known, strict=True):  # pairs of draws: one window at a time
        path = x * seen
        apart = torch.cdist(path, path, compute_mode="donot_use_mm_for_euclid_dist")
        tops.append((path - true).norm(dim=1).mean() - 0.5 * apart.mean())
    top = torch.stack(tops)
    return Score(
        "energy_score",
        top,
        y.norm(dim=1),
        f"sum over windows of the energy score of {draws.shape[1]} paths / sum of |truth| (Euclidean over the horizon)",
        details={"energy": float(top.mean())},
    )


def seasonal_scale(history: Tensor, period: int) -> float:
    """Compute the mean of |y_t - y_(t - period)| over what is known of a history (T,), NaN where missing.

    Returns: The mean; 0 if no pair is known.

    Raises:
        ValueError: If the period is below 1.
    """
    if period < 1:
        raise ValueError(f"a period has at least one step, got {period}")
    steps = (history[period:] - history[:-period]).abs().double()
    seen = steps[~steps.isnan()]
    return float(seen.mean()) if len(seen) else 0.0


def forecast_scores(
    draws: Tensor, truth: Tensor, *, scale: Tensor | None = None, paths: bool = True, seed: int = 0
) -> list[Score]:
    """Score one forecast by everything here, leaving out what these data cannot tell, such as a loss relative to zero.

    Args:
        draws: (W, N, H).
        truth: (W, H), NaN where missing.
        scale: Of `mase`, (W,); without it there is no MASE.
        paths: Are the draws paths? Quantiles laid side by side are not, and get no energy score.
        seed: Names the random part of ranks.

    Returns: Scores of the same windows, in one order.

    Raises:
        ValueError: If shapes differ, a draw is not finite, or no true value is known.
    """
    if not bool((~truth.isnan()).any()):
        raise ValueError("every true value is missing, so a forecast cannot be scored")
    found: list[Score] = [*pit_scores(draws, truth, seed=seed)]
    found = [band_coverage(draws, truth, share) for share in BANDS] + found
    sized = bool((truth.nan_to_num() != 0).any())
    if scale is not None and bool(((scale > 0) & (~truth.isnan()).any(1)).any()):
        found.insert(0, mase(draws, truth, scale))
    if sized:
        found = [weighted_quantile_loss(draws, truth), ensemble_crps(draws, truth), *found]
        found += [energy_score(draws, truth)] if paths else []
    return found


def _known(draws: Tensor, truth: Tensor) -> Tensor:
    if draws.ndim != 3 or truth.shape != (draws.shape[0], draws.shape[2]):
        raise ValueError(
            f"a forecast needs draws (W, N, H) and truth (W, H), got {tuple(draws.shape)} and {tuple(truth.shape)}"
        )
    if not bool(draws.isfinite().all()):
        raise ValueError(f"{int((~draws.isfinite()).sum())} of {draws.numel()} forecast values are not finite")
    return ~truth.isnan()


def _zeroed(truth: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, truth, 0.0).double()
