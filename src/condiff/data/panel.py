"""Time series on a regular grid, and windows of them. No torch here: the inspection uses it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files
from condiff.data.frequency import CALENDAR, Frequency, infer, moment
from condiff.data.splits import borders
from condiff.data.tables import Table

SHARES = (0.8, 0.1)
"""Shares of train and validation along time; the rest is test."""


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
        frequency: The step from row to row, one for all items.
        inserted: Rows that were missing from the grid and were inserted as NaN.
        problems: What stops the table from being used as series.
        remarks: What is odd but can be used.
    """

    items: tuple[Item, ...]
    channels: tuple[str, ...]
    frequency: Frequency
    inserted: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def step(self) -> float:
        """Seconds between rows, their mean if they vary."""
        return self.frequency.seconds

    @property
    def period(self) -> int:
        """Steps in a natural period: a day of hours, a week of days, a year of months; 1 if there is none."""
        return self.frequency.period

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
    found: list[tuple[str, Frequency]] = []
    inserted = 0
    for key in dict.fromkeys(keys.tolist()):
        chosen = (keys == key) & np.isfinite(table.seconds)
        item = Item(str(key), table.seconds[chosen], values[chosen])
        label = f"item {key}: " if column else ""
        completed, frequency = _regular(item, label, problems, remarks)
        inserted += len(completed.seconds) - len(item.seconds)
        items.append(completed)
        if frequency is not None and frequency.seconds:
            found.append((str(key), frequency))
        for place, name in enumerate(channels):
            if len(completed.values) and np.isnan(completed.values[:, place]).all():
                problems.append(f"{label}column {name} has no value at all: remove it")
    step = found[0][1] if found else Frequency(0.0)
    odd = next(((key, other) for key, other in found if not step.like(other)), None)
    if odd is not None:
        problems.append(
            f"item {found[0][0]} has a value every {step.name}, but item {odd[0]} every {odd[1].name}: give series of "
            "different frequency in files of their own"
        )
    if inserted:
        remarks.append(f"{inserted} time(s) are missing from the grid and count as missing values")
    return Panel(tuple(items), channels, step, inserted, tuple(problems), tuple(remarks))


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


def _regular(item: Item, label: str, problems: list[str], remarks: list[str]) -> tuple[Item, Frequency | None]:
    order = np.argsort(item.seconds, kind="stable")
    if (np.diff(item.seconds) < 0).any():
        remarks.append(f"{label}rows are not in order of time; they are sorted on reading")
    seconds, values = item.seconds[order], item.values[order]
    gaps = np.diff(seconds)
    twice = np.unique(seconds[1:][gaps == 0])
    if len(twice):
        shown = files.listed([moment(time) for time in twice])
        clocks = _clocks_set_back(twice, seconds)
        remedy = "write times in UTC or with their offset, such as +02:00" if clocks else "keep one row for each"
        why = ", as on local clocks when summer time ends" if clocks else ""
        problems.append(f"{label}{len(twice)} time(s) appear more than once ({shown}){why}: {remedy}")
        return Item(item.name, seconds, values), None
    frequency = infer(seconds)
    if frequency is None:
        step = float(np.median(gaps))
        odd = int(np.argmax(np.abs(gaps / step - np.rint(gaps / step))))
        problems.append(
            f"{label}times have no regular step (usually {step:g} s, but {gaps[odd]:g} s after "
            f"{moment(seconds[odd])}): "
            "resample to a regular step"
        )
        return Item(item.name, seconds, values), None
    places = frequency.places(seconds) if len(gaps) and gaps.max() > CALENDAR * gaps.min() else None
    if places is None or places[-1] == len(places) - 1:
        return Item(item.name, seconds, values), frequency
    full = np.full((int(places[-1]) + 1, values.shape[1]), np.nan)
    full[places] = values
    grid = np.concatenate([seconds[:1], frequency.after(float(seconds[0]), len(full) - 1)])
    grid[places] = seconds
    return Item(item.name, grid, full), frequency


def _clocks_set_back(twice: NDArray[np.float64], seconds: NDArray[np.float64]) -> bool:
    """Do times repeat as they do on local clocks: at one place in autumn, with a time left out in spring?"""
    days = np.unique(np.floor(twice / 86400).astype(np.int64))
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    small = len(twice) <= 4 * len(days) and float(np.median(np.diff(seconds))) < 86400
    return bool(small and len(days) <= 1 + np.ptp(seconds) / (300 * 86400) and np.isin(months, (3, 4, 9, 10, 11)).all())
