"""Time series on a regular grid, and windows of them. No torch here: the inspection uses it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files
from condiff.data.splits import borders
from condiff.data.tables import Table

SHARES = (0.8, 0.1)
"""Shares of train and validation along time; the rest is test."""

CALENDAR = 1.2
"""Steps whose longest is at most this much longer than the shortest are one calendar step (months, years, summer
time)."""

PERIODS = ((3600.0, 24), (1800.0, 48), (900.0, 96), (86400.0, 7), (604800.0, 52))
"""Steps in seconds and how many make the natural period; months are found by their length."""


@final
@dataclass(frozen=True)
class Item:
    """One series on a regular grid.

    Args:
        name: Name of the item; empty in a wide table.
        seconds: Times in seconds since 1970, float64 (T,).
        values: One row a time and one column a channel, float64 (T, C), NaN where missing.
    """

    name: str
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]


@final
@dataclass(frozen=True)
class Panel:
    """All series of a table.

    Args:
        items: One item for a wide table, one an item name for a long table.
        channels: Names of the value columns.
        step: Seconds between rows (the median).
        inserted: Rows that were missing from the grid and were inserted as NaN.
        problems: What stops the table from being used as series.
        remarks: What is odd but can be used.
    """

    items: tuple[Item, ...]
    channels: tuple[str, ...]
    step: float
    inserted: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def period(self) -> int:
        """Steps in a natural period: a day of hours, a week of days, a year of months; 1 if there is none."""
        days = self.step / 86400
        if 28 <= days <= 31:
            return 12
        return next((period for step, period in PERIODS if abs(self.step - step) < 0.01 * step), 1)

    @property
    def missing(self) -> int:
        """Values that are missing, over all items and channels."""
        return int(sum(np.isnan(item.values).sum() for item in self.items))

    def window(self) -> int:
        """Default window length: whole periods, at most 192 steps (8 days of hours), short enough for the test part."""
        shortest = min((len(item.seconds) for item in self.items), default=0)
        room = min(192, shortest - borders(shortest, *SHARES)[1])
        return room // self.period * self.period if room >= self.period else room


def panel(table: Table) -> Panel:
    """Sort, check and complete the series of a table with a time column."""
    problems: list[str] = []
    remarks: list[str] = []
    channels = tuple(table.numbers)
    values = np.stack([table.numbers[name] for name in channels], axis=1)
    column = table.item
    keys = np.array(table.names[column] if column else [""] * table.num_rows)
    items = []
    steps: list[float] = []
    inserted = 0
    for key in dict.fromkeys(keys.tolist()):
        chosen = (keys == key) & np.isfinite(table.seconds)
        item = Item(str(key), table.seconds[chosen], values[chosen])
        label = f"item {key}: " if column else ""
        completed, added = _regular(item, label, problems, remarks)
        inserted += added
        items.append(completed)
        if len(completed.seconds) > 1:
            steps.append(float(np.median(np.diff(completed.seconds))))
        for place, name in enumerate(channels):
            if len(completed.values) and np.isnan(completed.values[:, place]).all():
                problems.append(f"{label}column {name} has no value at all: remove it")
    if inserted:
        remarks.append(f"{inserted} time(s) are missing from the grid and count as missing values")
    return Panel(
        tuple(items), channels, float(np.median(steps)) if steps else 0.0, inserted, tuple(problems), tuple(remarks)
    )


def filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill missing values (T, C) on the line between their neighbours; before the first and after the last, hold it."""
    out = values.copy()
    time = np.arange(len(values))
    for column in out.T:
        known = np.isfinite(column)
        column[~known] = np.interp(time[~known], time[known], column[known])
    return out


def windows(length: int, start: int, stop: int, stride: int) -> NDArray[np.int64]:
    """First positions of the windows that lie wholly in [start, stop)."""
    return np.arange(start, stop - length + 1, stride, dtype=np.int64)


def _regular(item: Item, label: str, problems: list[str], remarks: list[str]) -> tuple[Item, int]:
    order = np.argsort(item.seconds, kind="stable")
    if (np.diff(item.seconds) < 0).any():
        remarks.append(f"{label}rows are not in order of time; they are sorted on reading")
    seconds, values = item.seconds[order], item.values[order]
    gaps = np.diff(seconds)
    twice = np.unique(seconds[1:][gaps == 0])
    if len(twice):
        shown = files.listed([_moment(moment) for moment in twice])
        problems.append(f"{label}{len(twice)} time(s) appear more than once ({shown}): keep one row for each")
        return Item(item.name, seconds, values), 0
    if len(gaps) == 0 or gaps.max() <= CALENDAR * gaps.min():
        return Item(item.name, seconds, values), 0
    step = float(np.median(gaps))
    places = (seconds - seconds[0]) / step
    whole = np.rint(places)
    if len(np.unique(whole)) != len(whole) or (np.abs(places - whole) > 0.1).any():
        if 27 <= step / 86400 <= 32:
            return _months(item.name, seconds, values)
        odd = int(np.argmax(np.abs(gaps / step - np.rint(gaps / step))))
        problems.append(
            f"{label}times have no regular step (usually {step:g} s, but {gaps[odd]:g} s after "
            f"{_moment(seconds[odd])}): "
            "resample to a regular step"
        )
        return Item(item.name, seconds, values), 0
    full = np.full((int(whole[-1]) + 1, values.shape[1]), np.nan)
    full[whole.astype(np.int64)] = values
    return Item(item.name, seconds[0] + step * np.arange(len(full)), full), len(full) - len(values)


def _months(name: str, seconds: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[Item, int]:
    """Complete monthly rows, whose steps are 28 to 31 days."""
    months = seconds.astype("datetime64[s]").astype("datetime64[M]")
    grid = np.arange(months[0], months[-1] + 1)
    full = np.full((len(grid), values.shape[1]), np.nan)
    full[np.searchsorted(grid, months)] = values
    return Item(name, grid.astype("datetime64[s]").astype(np.float64), full), len(full) - len(values)


def _moment(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s")).replace("T", " ")
