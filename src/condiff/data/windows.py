"""Windows of series for forecasting: what lies before, what is asked for, and what is known in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.core.condition import Condition
from condiff.data.batch import Dataset, Splits
from condiff.data.columns import moments
from condiff.data.frequency import DAY, Frequency, calendar, moment
from condiff.data.splits import PARTS
from condiff.data.tracks import Track, Tracks

MOST_WINDOWS = 20_000
"""About as many training windows are cut; from longer series every second, third, ... one."""

MOST_ITEMS = 500
"""Up to so many series are told apart by a condition of their own."""

SHARE = 0.1
"""Share of every series that is validation, and share that is test, along time; at least a horizon each."""


SCALINGS = ("deviation", "mean")


@final
@dataclass(frozen=True)
class Window:
    """How a series is laid out for a network, learned once from the training part and kept in a checkpoint.

    A window is `context` steps and the `horizon` steps after them; `lags` look further back. Everything is measured in
    units of the steps before the horizon, so that a series times 1000 is the same window: their deviation from their
    mean, or, with "mean" as scaling, the mean size of the context's values, around zero.

    Args:
        horizon: Steps to forecast, >= 1.
        context: Steps before them within the window, >= 1.
        lags: Steps back that every step of the window may look; a day and a week of hours.
        frequency: The step in time.
        yearly: Is the day of the year among the calendar's features?
        known: Names of what is known in advance.
        mean: Mean of each over the training part.
        std: Its deviation.
        labels: Class names by condition name: of "item", and of what never changes within a series.
        scaling: "deviation" or "mean".
    """

    horizon: int
    context: int
    lags: tuple[int, ...] = ()
    frequency: Frequency = Frequency(0.0)
    yearly: bool = False
    known: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scaling: str = "deviation"

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {self.scaling!r}")
        if self.horizon < 1 or self.context < 1 or min(self.lags, default=1) < 1:
            raise ValueError(
                f"a window needs a horizon, a context and lags of at least one step, got horizon {self.horizon}, "
                f"context {self.context} and lags {list(self.lags)}"
            )

    @property
    def length(self) -> int:
        """Steps of the window: context and horizon."""
        return self.context + self.horizon

    @property
    def reach(self) -> int:
        """Steps before the window that lags look at."""
        return max(self.lags, default=0)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "labels": {name: list(labels) for name, labels in self.labels.items()}}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        lists = {name: tuple(plain[name]) for name in ("lags", "known", "mean", "std")}
        labels = {name: tuple(labels) for name, labels in plain["labels"].items()}
        return cls(**{**plain, **lists, "labels": labels, "frequency": Frequency(**plain["frequency"])})


@final
@dataclass(frozen=True, eq=False)
class Cut:
    """Windows cut out of series, in units of their own.

    Args:
        values: float64 (N, R + L), R steps of reach and the window, (series - centre) / scale; NaN where missing.
        centre: Mean of what is known before the horizon in the units of the series, (N,); 0 with mean scaling.
        scale: Its deviation, or mean size, (N,); 0 where the history never changes, and then `centre` is its value.
        calendar: float32 (N, F, L).
        known: float32 (N, D, L), each standardised by the training part; 0 where it is missing.
        classes: int64 (N,) by condition name; -1 where a label is new.
    """

    values: NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    calendar: NDArray[np.float32]
    known: NDArray[np.float32]
    classes: Mapping[str, NDArray[np.int64]]

    def where(self, kept: NDArray[np.bool_]) -> Cut:
        """Keep the windows of a bool (N,)."""
        return Cut(
            self.values[kept],
            self.centre[kept],
            self.scale[kept],
            self.calendar[kept],
            self.known[kept],
            {name: part[kept] for name, part in self.classes.items()},
        )


def cut(window: Window, tracks: Sequence[Track], origins: NDArray[np.int64], *, upto: int | None = None) -> Cut:
    """Cut the windows whose horizons begin at given steps.

    Args:
        window: How.
        tracks: The series; times and what is known must reach to the end of every window.
        origins: (N, 2): number of the track, and the step at which the horizon begins.
        upto: Steps of reach and window that mean and deviation are taken over; those before the horizon if None. Where
            fewer than two of them are known, the whole history before the horizon (or the whole series) is taken.

    Returns: N windows. What lies before the first value of a series, and after its last, is missing.
    """
    count, reach, context, length = len(origins), window.reach, window.context, window.length
    values = np.full((count, reach + length), np.nan)
    features = [np.empty((0, 0))] * len(tracks)
    advance = [np.empty((0, 0))] * len(tracks)
    mean, std = np.array(window.mean), np.array(window.std)
    for number in np.unique(origins[:, 0]).tolist():
        rows = np.flatnonzero(origins[:, 0] == number)
        track, starts = tracks[number], origins[rows, 1] - context
        values[rows] = _sliding(track.values[:, None], starts - reach, reach + length, np.nan)[:, 0]
        features[number] = _sliding(calendar(track.seconds, window.frequency, window.yearly), starts, length, 0.0)
        standard = (track.known - mean) / std if window.known else np.empty((len(track.seconds), 0))
        advance[number] = _sliding(np.nan_to_num(standard), starts, length, 0.0)
    before = values[:, : reach + context if upto is None else upto]
    seen = ~np.isnan(before)
    many = np.maximum(seen.sum(1), 1)
    centre = np.where(seen, before, 0.0).sum(1) / many
    scale = np.sqrt((np.where(seen, before - centre[:, None], 0.0) ** 2).sum(1) / many)
    # A sum of equal numbers rounds: what is below that is no deviation.
    scale = np.where(scale > 1e-12 * np.abs(centre), scale, 0.0)
    if window.scaling == "mean":
        size = _mean_size(before[:, reach:])
        changes = scale > 0
        scale = np.where(changes, np.where(size > 0, size, _mean_size(before)), 0.0)
        centre = np.where(changes, 0.0, centre)
    for row in np.flatnonzero(seen.sum(1) < 2).tolist():  # too little in sight: the whole history tells the scale
        past = tracks[origins[row, 0]].values[: origins[row, 1] if upto is None else None]
        centre[row], scale[row] = _scale(past[~np.isnan(past)], window.scaling)
    classes = {}
    for name, labels in window.labels.items():
        number_of = {label: place for place, label in enumerate(labels)}
        own = [number_of.get(track.name if name == "item" else track.classes.get(name, ""), -1) for track in tracks]
        classes[name] = np.array(own, np.int64)[origins[:, 0]] if count else np.empty(0, np.int64)
    order = np.argsort(np.argsort(origins[:, 0], kind="stable"), kind="stable")
    return Cut(
        (values - centre[:, None]) / np.where(scale > 0, scale, 1.0)[:, None],
        centre,
        scale,
        _stacked(features, order, (len(_names(window)), length)),
        _stacked(advance, order, (len(window.known), length)),
        classes,
    )


def _scale(known: NDArray[np.float64], scaling: str) -> tuple[float, float]:
    """Centre and scale of known values (n,); scale 0 if they never change."""
    if not len(known):
        return 0.0, 0.0
    if np.ptp(known) == 0:
        return float(known[0]), 0.0
    return (0.0, float(np.abs(known).mean())) if scaling == "mean" else (float(known.mean()), float(known.std()))


def _mean_size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute value of what is known, 0 where nothing is."""
    known = ~np.isnan(values)
    size: NDArray[np.float64] = np.where(known, np.abs(values), 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return size


def laid_out(window: Window, windows: Cut, *, shown: int | None = None) -> tuple[Tensor, Condition]:
    """Turn windows into what a system takes: data and their condition, which is all that a forecaster may see.

    Args:
        window: How they were cut.
        windows: The windows.
        shown: Steps of each that may be seen; the context if None.

    Returns: Data float32 (N, 1, L), 0 where missing. Conditions "given" (N, 2, L), values and flags of what may be seen
        of the window; "older" (N, 2, R), the same of the steps before it; "calendar" (N, F, L), "known" (N, D, L) and
        classes; and for training "measured" (N, 1, L), 1 where data hold a value. Names without a feature are left out.
    """
    reach, until = window.reach, window.context if shown is None else shown
    seen = ~np.isnan(windows.values)
    pair = np.stack([np.where(seen, windows.values, 0.0), seen], 1).astype(np.float32)
    given = pair[:, :, reach:].copy()
    given[:, :, until:] = 0.0
    pictures = {"given": given, "measured": pair[:, 1:, reach:], "older": pair[:, :, :reach]}
    pictures |= {"calendar": windows.calendar, "known": windows.known}
    values = {
        name: torch.from_numpy(np.ascontiguousarray(picture))
        for name, picture in pictures.items()
        if picture.shape[1] and picture.shape[2]
    }
    present = {name: torch.ones(len(seen), dtype=torch.bool) for name in values}
    for name, numbers in windows.classes.items():
        values[name] = torch.from_numpy(np.maximum(numbers, 0))
        present[name] = torch.from_numpy(numbers >= 0)
    return torch.from_numpy(np.ascontiguousarray(pair[:, :1, reach:])), Condition(values, present)


def plan(
    tracks: Tracks,
    *,
    horizon: int | None = None,
    context: int | None = None,
    lags: Sequence[int] | None = None,
    scaling: str = "deviation",
) -> Window:
    """Choose a window for series, and learn from their training parts what it needs.

    Args:
        tracks: The series.
        horizon: Steps to forecast; a natural period (a day of hours, a week of days, a year of months) if None, or 8.
        context: Steps before them; three periods or two horizons, whichever is more, if None.
        lags: Steps back; the last seven periods (days of hours) and two longer ones (weeks of hours), as far as the
            training part reaches twice as far, if None.
        scaling: "deviation" or "mean", as in `Window`.

    Raises:
        ValueError: If no series is long enough; the message says how long one must be.
    """
    frequency = tracks.frequency
    period = frequency.period
    longest = max(len(track) for track in tracks.tracks)
    ahead = horizon or (period if period > 1 else 8)
    need = 3 * ahead + 2
    if longest < need:
        raise ValueError(
            f"{tracks.source}: the longest series has {longest} step(s), but a horizon of {ahead} needs {need} or "
            "more: one to validate, one to test and one to learn from; add rows"
            + (f", or give a --horizon of at most {(longest - 2) // 3}" if longest >= 5 else "")
        )
    room = longest - 2 * _held(longest, ahead)
    before = context or max(2, min(max(3 * period if period <= 100 else period, 2 * ahead), room - ahead))
    if lags is None:
        periods = frequency.periods
        chosen = [period * k for k in range(1, 8)] if periods else []
        chosen += [later * k for later in periods[1:] for k in (1, 2)]
        lags = sorted({lag for lag in chosen if 2 * lag + ahead <= room})
    elif max(lags, default=0) >= longest:
        raise ValueError(f"{tracks.source}: the longest series has {longest} steps, so no lag can be {max(lags)}")
    ends = [_parts(len(track), ahead)[0] for track in tracks.tracks]
    rows = np.concatenate([track.known[:end] for track, end in zip(tracks.tracks, ends, strict=True)])
    mean, std = _moments(rows, tracks.known, tracks.source)
    spans = [float(t.seconds[max(end - 1, 0)] - t.seconds[0]) for t, end in zip(tracks.tracks, ends, strict=True)]
    labels: dict[str, tuple[str, ...]] = {}
    if 1 < len(tracks.tracks) <= MOST_ITEMS:
        labels["item"] = tuple(track.name for track in tracks.tracks)
    for name in dict.fromkeys(name for track in tracks.tracks for name in track.classes):
        found = {track.classes[name] for track in tracks.tracks if name in track.classes}
        labels[name] = tuple(sorted(found))
    yearly = max(spans) >= 2 * 365 * DAY
    return Window(ahead, before, tuple(lags), frequency, yearly, tracks.known, mean, std, labels, scaling)


def origins(tracks: Sequence[Track], window: Window, part: int, *, stride: int | None = None) -> NDArray[np.int64]:
    """List where horizons begin in one part of every series: its time is split 80/10/10, a horizon at least to each.

    A training window lies wholly in the first part. A validation or test window has its horizon in its part and looks
    back wherever it likes, as a forecast would; the last one ends with the series.

    Args:
        tracks: The series.
        window: How they are cut.
        part: 0 train, 1 validation, 2 test.
        stride: Steps from one to the next; in training as many as keep the windows below `MOST_WINDOWS`, later the
            horizon, so that nothing is scored twice, if None.

    Returns: int64 (N, 2), number of the series and step.
    """
    horizon = window.horizon
    total = sum(len(track) for track in tracks)
    step = stride or (max(1, round(total / MOST_WINDOWS)) if part == 0 else horizon)
    found = []
    for number, track in enumerate(tracks):
        train, validation = _parts(len(track), horizon)
        if part == 0:
            first = min(window.context, max(2, train - horizon))
            places = np.arange(train - horizon, first - 1, -step)[::-1]
        else:
            low, high = ((train, validation), (validation, len(track)))[part - 1]
            places = np.arange(high - horizon, low - 1, -step)[::-1]
        found.append(np.stack([np.full(len(places), number), places], 1))
    return np.concatenate(found).astype(np.int64)


def windowed_tracks(
    tracks: Tracks,
    *,
    horizon: int | None = None,
    context: int | None = None,
    lags: Sequence[int] | None = None,
    scaling: str = "deviation",
    stride: int | None = None,
    window: Window | None = None,
) -> Splits:
    """Cut series into training, validation and test windows, by time only.

    Args:
        tracks: The series.
        horizon, context, lags, scaling: As for `plan`.
        stride: Steps from one training window to the next; chosen by the amount of data if None.
        window: How to cut; planned from the series if None.

    Returns: Data and conditions as `laid_out` makes them; `meta["window"]` is the window as JSON.

    Raises:
        ValueError: If no series is long enough, or none ever changes.
    """
    made = window or plan(tracks, horizon=horizon, context=context, lags=lags, scaling=scaling)
    parts = []
    flat = 0
    for part in range(3):
        places = origins(tracks.tracks, made, part, stride=stride if part == 0 else None)
        windows = cut(made, tracks.tracks, places)
        asked = ~np.isnan(windows.values[:, -made.horizon :]).all(1)
        good = (windows.scale > 0) & asked  # nothing can be learned from what never changes, or was not measured
        flat += int((windows.scale == 0).sum())
        if not good.any():
            why = "never changes before any" if len(places) and asked.any() else "has no value in any"
            raise ValueError(
                f"{tracks.source}: no series is fit for the {PARTS[part]} part{_when(tracks.tracks, places)}: what "
                f"there is {why} of its windows; add rows, or give a smaller --horizon"
            )
        parts.append(windows.where(good))
    facts: dict[str, object] = {
        "source": tracks.source,
        "split_rule": "80/10/10 % of every series by time, a horizon at least for each",
        "window": made.to_json(),
        "items": len(tracks.tracks),
        "step_seconds": made.frequency.seconds,
        "period": made.frequency.period,
        "missing": tracks.missing,
        "flat_windows": flat,
        "remarks": list(tracks.remarks),
    }

    def dataset(windows: Cut, part: int) -> Dataset:
        data, cond = laid_out(made, windows)
        kinds: dict[str, object] = {name: {"kind": "series" if name == "older" else "picture"} for name in cond.values}
        kinds |= {name: {"kind": "class", "num_classes": len(labels)} for name, labels in made.labels.items()}
        return Dataset(
            data, cond.values, cond.present,
            name=tracks.name, kind="series", labels=made.labels,
            meta={**facts, "split": PARTS[part], "conditions": kinds},
        )  # fmt: skip

    return Splits(*(dataset(windows, part) for part, windows in enumerate(parts)))


def _when(tracks: Sequence[Track], places: NDArray[np.int64]) -> str:
    """Say between which times horizons begin."""
    if not len(places):
        return ""
    times = [float(tracks[number].seconds[at]) for number, at in places.tolist()]
    return f" (horizons from {moment(min(times))} to {moment(max(times))})"


def _held(length: int, horizon: int) -> int:
    return max(round(SHARE * length), horizon)


def _parts(length: int, horizon: int) -> tuple[int, int]:
    """Steps at which validation and test begin; a series too short for all three is for training alone."""
    held = _held(length, horizon)
    return (length - 2 * held, length - held) if length >= 2 * held + horizon + 2 else (length, length)


def _moments(
    rows: NDArray[np.float64], names: Sequence[str], source: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = [], []
    for column, name in zip(rows.T, names, strict=True):
        there = column[np.isfinite(column)]
        if not len(there):
            raise ValueError(f"{source}: {name} has no number in the training part; leave it out of --condition")
        centre, deviation = moments(there[:, None])
        mean.append(float(centre[0]))
        std.append(float(deviation[0]))
    return tuple(mean), tuple(std)


def _names(window: Window) -> range:
    return range(calendar(np.zeros(1), window.frequency, window.yearly).shape[1])


def _sliding(rows: NDArray[np.float64], starts: NDArray[np.int64], length: int, blank: float) -> NDArray[np.float64]:
    """Cut (T, C) into windows (N, C, length) that may begin before the first row and end after the last."""
    if not len(starts):
        return np.empty((0, rows.shape[1], length))
    left, right = max(-int(starts.min()), 0), max(int(starts.max()) + length - len(rows), 0)
    padded = np.pad(rows, ((left, right), (0, 0)), constant_values=blank)
    return np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)[starts + left]


def _stacked(
    parts: Sequence[NDArray[np.float64]], order: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Join the windows of all series and bring them back into the order in which they were asked for."""
    found = [part for part in parts if part.size or len(part)]
    if not found or not shape[0]:
        return np.zeros((len(order), *shape), np.float32)
    return np.concatenate(found).astype(np.float32)[order]
