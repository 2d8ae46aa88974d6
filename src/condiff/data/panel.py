"""Time series on a regular grid, and windows of them. No torch here: the inspection uses it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files
from condiff.data.frequency import CALENDAR, DAY, Frequency, common, infer, moment
from condiff.data.splits import borders
from condiff.data.tables import Table

SHARES = (0.8, 0.1)
"""Shares of train and validation along time; the rest is test."""

FEW = 10
"""An item with fewer times than these, and a third of another's, follows the other's frequency if it can."""


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
    """Sort, check and complete the series of a table with a time column.

    All items have one frequency: that of the item with most times. A short one, too short to tell its own, follows it,
    and working days are days of which some are missing where another item has a value every day.
    """
    problems: list[str] = []
    remarks: list[str] = []
    channels = tuple(table.numbers)
    values = np.stack([table.numbers[name] for name in channels], axis=1)
    column = table.item
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(table.names[column] if column else ("",) * table.num_rows):
        if np.isfinite(table.seconds[row]):
            rows_of.setdefault(key, []).append(row)
    items = [
        _sorted(Item(key, table.seconds[rows], values[rows]), _label(key, column), problems, remarks)
        for key, rows in rows_of.items()
    ]
    for item in items:
        for place, name in enumerate(channels):
            if np.isnan(item.values[:, place]).all():
                problems.append(f"{_label(item.name, column)}column {name} has no value at all: remove it")
    regular = [item for item in items if len(item.seconds) and (np.diff(item.seconds) > 0).all()]
    step, told = _frequency(regular)
    for item in regular:
        own = infer(item.seconds)
        if _follows(item, len(told.seconds) if told else 0, own, step):
            continue
        if own is None:
            problems.append(_label(item.name, column) + _irregular(item.seconds))
        elif told is not None:
            problems.append(
                f"item {told.name} has a value every {step.name}, but item {item.name} every {own.name}: give series "
                "of different frequency in files of their own"
            )
    completed = items if problems else [_completed(item, step) for item in items]
    inserted = sum(len(whole.seconds) - len(item.seconds) for whole, item in zip(completed, items, strict=True))
    if inserted:
        remarks.append(f"{inserted} time(s) are missing from the grid and count as missing values")
    return Panel(tuple(completed), channels, step, inserted, tuple(problems), tuple(remarks))


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


def _label(key: str, column: str | None) -> str:
    return f"item {key}: " if column else ""


def _sorted(item: Item, label: str, problems: list[str], remarks: list[str]) -> Item:
    order = np.argsort(item.seconds, kind="stable")
    if (np.diff(item.seconds) < 0).any():
        remarks.append(f"{label}rows are not in order of time; they are sorted on reading")
    seconds = item.seconds[order]
    twice = np.unique(seconds[1:][np.diff(seconds) == 0])
    if len(twice):
        shown = files.listed([moment(time) for time in twice])
        clocks = _clocks_set_back(twice, seconds)
        remedy = "write times in UTC or with their offset, such as +02:00" if clocks else "keep one row for each"
        why = ", as on local clocks when summer time ends" if clocks else ""
        problems.append(f"{label}{len(twice)} time(s) appear more than once ({shown}){why}: {remedy}")
    return Item(item.name, seconds, item.values[order])


def _frequency(items: Sequence[Item]) -> tuple[Frequency, Item | None]:
    """Find the frequency of all, and the item that tells it."""
    found = [(item, own) for item in items if (own := infer(item.seconds)) is not None and own.seconds]
    if not found:
        return Frequency(0.0), None
    told, step = max(found, key=lambda pair: len(pair[0].seconds))
    daily = [(item, own) for item, own in found if own.like(Frequency(DAY)) and len(item.seconds) >= FEW]
    if step.workdays and daily:
        told, step = daily[0]
    return step, told


def _follows(item: Item, most: int, own: Frequency | None, step: Frequency) -> bool:
    """Can an item be read at the common frequency? `most` is the number of times of the one that tells it."""
    if own is not None and (not own.seconds or step.like(own) or (own.workdays and step.like(Frequency(DAY)))):
        return True
    short = len(item.seconds) < FEW and 3 * len(item.seconds) <= most
    places = step.places(item.seconds) if short else None
    return places is not None and bool((np.diff(places) > 0).all())


def _irregular(seconds: NDArray[np.float64]) -> str:
    gaps = np.diff(seconds)
    step = common(gaps)
    odd = int(np.argmax(np.abs(gaps / step - np.rint(gaps / step))))
    return (
        f"times have no regular step (usually {step:g} s, but {gaps[odd]:g} s after {moment(seconds[odd])}): "
        "resample to a regular step"
    )


def _completed(item: Item, frequency: Frequency) -> Item:
    seconds = item.seconds
    gaps = np.diff(seconds)
    own = infer(seconds)
    if not len(gaps) or (own is not None and frequency.like(own) and gaps.max() <= CALENDAR * gaps.min()):
        return item
    places = frequency.places(seconds)
    if places is None or places[-1] == len(places) - 1:
        return item
    full = np.full((int(places[-1]) + 1, item.values.shape[1]), np.nan)
    full[places] = item.values
    grid = np.concatenate([seconds[:1], frequency.after(float(seconds[0]), len(full) - 1)])
    grid[places] = seconds
    return Item(item.name, grid, full)


def _clocks_set_back(twice: NDArray[np.float64], seconds: NDArray[np.float64]) -> bool:
    """Do times repeat as they do on local clocks: at one place in autumn, with a time left out in spring?"""
    days = np.unique(np.floor(twice / 86400).astype(np.int64))
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    small = len(twice) <= 4 * len(days) and float(np.median(np.diff(seconds))) < 86400
    return bool(small and len(days) <= 1 + np.ptp(seconds) / (300 * 86400) and np.isin(months, (3, 4, 9, 10, 11)).all())
