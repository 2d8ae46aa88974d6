"""How often a series is measured: inferred from its times, checked, and carried on into the future. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

DAY = 86400.0
MONTH = 30.436875 * DAY
"""Mean month of the Gregorian calendar in seconds."""

CALENDAR = 1.2
"""Steps whose longest is at most this much longer than the shortest are one step of a calendar (local days around the
change of summer time, months)."""

PERIODS: tuple[tuple[float, tuple[int, ...]], ...] = (
    (60.0, (60, 1440)),
    (300.0, (288, 2016)),
    (600.0, (144, 1008)),
    (900.0, (96, 672)),
    (1200.0, (72, 504)),
    (1800.0, (48, 336)),
    (3600.0, (24, 168)),
    (7200.0, (12, 84)),
    (10800.0, (8, 56)),
    (14400.0, (6, 42)),
    (21600.0, (4, 28)),
    (43200.0, (2, 14)),
    (86400.0, (7,)),
    (604800.0, (52,)),
)
"""Steps in seconds and how many of them make a day, a week or a year."""

UNITS = (("week", 7 * DAY), ("day", DAY), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


@final
@dataclass(frozen=True)
class Frequency:
    """A regular step in time: of so many seconds, of so many months, or from working day to working day.

    Args:
        seconds: Length of the step, its mean if it varies; 0 if there is only one time.
        months: Months in the step; 0 if it is not made of months.
        workdays: Monday to Friday only?
        ends: Are the times last days of months?
    """

    seconds: float
    months: int = 0
    workdays: bool = False
    ends: bool = False

    @property
    def name(self) -> str:
        """Say the step in words: "hour", "15 minutes", "month", "working day"."""
        if self.workdays:
            return "working day"
        if self.months:
            unit, count = ("year", self.months // 12) if self.months % 12 == 0 else ("month", self.months)
            return unit if count == 1 else f"{count} {unit}s"
        for unit, size in UNITS:
            count = round(self.seconds / size)
            if count >= 1 and abs(self.seconds - count * size) < 1e-6 * self.seconds:
                return unit if count == 1 else f"{count} {unit}s"
        return f"{self.seconds:g} s" if self.seconds else "no step"

    @property
    def periods(self) -> tuple[int, ...]:
        """Steps in every natural period, shortest first: a day and a week of hours, a year of months; empty if none."""
        if self.workdays:
            return (5,)
        if self.months:
            return (12 // self.months,) if self.months < 12 and 12 % self.months == 0 else ()
        return next((periods for step, periods in PERIODS if abs(self.seconds - step) < 0.01 * step), ())

    @property
    def period(self) -> int:
        """Steps in the shortest natural period; 1 if there is none."""
        return self.periods[0] if self.periods else 1

    def after(self, last: float, count: int) -> NDArray[np.float64]:
        """Continue a series: the next `count` times after `last`, seconds since 1970."""
        if self.workdays:
            day = np.floor(last / DAY).astype(np.int64).astype("datetime64[D]")
            ahead = np.busday_offset(day, np.arange(1, count + 1), roll="backward")
            return ahead.astype(np.float64) * DAY + last % DAY
        if self.months:
            return _monthly(last, self.months * np.arange(1, count + 1), self.ends)
        return last + self.seconds * np.arange(1, count + 1, dtype=np.float64)

    def places(self, seconds: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Count steps from the first of increasing times to every one; None if one is not on the grid."""
        if self.workdays:
            days = np.floor(seconds / DAY).astype(np.int64).astype("datetime64[D]")
            return np.busday_count(days[0], days).astype(np.int64)
        if self.months:
            number = seconds.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
            steps = number - number[0]
            return steps // self.months if (steps % self.months == 0).all() else None
        exact = (seconds - seconds[0]) / self.seconds
        whole = np.rint(exact)
        return whole.astype(np.int64) if (np.abs(exact - whole) <= 0.1).all() else None

    def like(self, other: Frequency) -> bool:
        """Are both one frequency?"""
        if self.months or other.months or self.workdays or other.workdays:
            return (self.months, self.workdays) == (other.months, other.workdays)
        return bool(abs(self.seconds - other.seconds) <= 0.01 * max(self.seconds, other.seconds))


def infer(seconds: NDArray[np.float64]) -> Frequency | None:
    """Find the frequency of increasing times, gaps allowed.

    In turn: working days, if there is no Saturday or Sunday among daily times of two weeks or more; months, quarters
    and years, if the step is about that long; steps of one length, up to the hour that local days gain and lose; the
    most common step, if all others are whole multiples of it.

    Returns: The frequency, or None if there is none.
    """
    gaps = np.diff(seconds)
    if len(gaps) == 0:
        return Frequency(0.0)
    step = common(gaps)
    if abs(step - DAY) < 0.05 * DAY and len(gaps) >= 9 and gaps.max() > CALENDAR * gaps.min():
        weekday = (np.floor(seconds / DAY).astype(np.int64) + 3) % 7
        if weekday.max() < 5:
            return Frequency(1.4 * DAY, workdays=True)
    months = round(step / MONTH)
    alike = len(gaps) > 2 and gaps.max() == gaps.min()  # every 28 days is no month
    if months >= 1 and abs(step / MONTH - months) < 0.1 * months and not alike:
        number = seconds.astype("datetime64[s]").astype("datetime64[M]")
        apart = np.diff(number.astype(np.int64))
        shortest = int(apart.min())
        if shortest >= 1 and all(gap % shortest == 0 for gap in apart.tolist()):
            ends = bool((_seconds(number + 1) - seconds <= DAY).all())
            return Frequency(shortest * MONTH, shortest, ends=ends)
    if gaps.max() <= CALENDAR * gaps.min():
        return Frequency(float(np.median(gaps)))
    found = Frequency(step)
    places = found.places(seconds)
    return None if places is None or (np.diff(places) == 0).any() else found


def common(gaps: NDArray[np.float64]) -> float:
    """Return the most common of positive steps, to one part in a hundred; the shortest of equally common ones."""
    kinds = np.round(gaps / gaps.min(), 2)
    found, count = np.unique(kinds, return_counts=True)
    return float(np.median(gaps[kinds == found[count.argmax()]]))


def calendar(seconds: NDArray[np.float64], frequency: Frequency, yearly: bool) -> NDArray[np.float64]:
    """Describe times by the calendar: sines and cosines of the hour, the weekday and the day of the year.

    Args:
        seconds: Times (T,).
        frequency: Of the series; what is the same at every step is left out.
        yearly: Include the day of the year? Only data of two years or more can teach it.

    Returns: (T, F), each in [-1, 1]; F may be 0.
    """
    parts = []
    days = seconds / DAY
    short = 0 < frequency.seconds < DAY and not frequency.months
    if short:
        parts.append(days % 1.0)
    if short or frequency.workdays or (0 < frequency.seconds <= DAY * 1.01 and not frequency.months):
        whole = np.floor(days) if not short else days
        parts.append(((whole + 3.0) % 7.0) / 7.0)
    if yearly and frequency.seconds < 300 * DAY:
        year = seconds.astype("datetime64[s]").astype("datetime64[Y]")
        start = _seconds(year)
        parts.append((seconds - start) / (_seconds(year + 1) - start))
    if not parts:
        return np.empty((len(seconds), 0))
    angle = 2.0 * np.pi * np.stack(parts, 1)
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


def moment(seconds: float) -> str:
    """Write a time as people read it, with thousandths of a second where there are any."""
    thousandths = round(1000 * seconds)
    whole = np.datetime64(thousandths, "ms") if thousandths % 1000 else np.datetime64(thousandths // 1000, "s")
    return str(whole).replace("T", " ")


def _monthly(last: float, steps: NDArray[np.int64], ends: bool) -> NDArray[np.float64]:
    """Move a time by months; it keeps its day, or its distance from the end of the month."""
    month = np.datetime64(round(last), "s").astype("datetime64[M]")
    begun = _seconds(month)
    ahead = month + steps
    if ends:
        return np.asarray(_seconds(ahead + 1) - (_seconds(month + 1) - last))
    within = last - begun
    room = _seconds(ahead + 1) - _seconds(ahead)
    return np.asarray(_seconds(ahead) + np.minimum(within, room - DAY + within % DAY))


def _seconds(months: Any) -> Any:  # noqa: ANN401 - one month or an array of them
    return months.astype("datetime64[s]").astype(np.float64)
