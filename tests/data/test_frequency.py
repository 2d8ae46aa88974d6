"""Frequencies: inferred with gaps, refused where there is none, and carried on into the future."""

from __future__ import annotations

import numpy as np
import pytest

from condiff.data.frequency import DAY, Frequency, calendar, infer, moment


def seconds(start: str, stop: str, unit: str, step: int = 1):
    return np.arange(start, stop, step, dtype=f"datetime64[{unit}]").astype("datetime64[s]").astype(np.float64)


def workdays(count: int):
    days = np.busday_offset(np.datetime64("2024-01-01"), np.arange(count))
    return days.astype("datetime64[s]").astype(np.float64)


def month_ends(count: int):
    starts = np.arange("2023-02", "2040-01", dtype="datetime64[M]")[:count]
    return starts.astype("datetime64[s]").astype(np.float64) - DAY


@pytest.mark.parametrize(
    ("times", "name", "periods"),
    [
        (seconds("2024-01-01T00", "2024-02-01T00", "h"), "hour", (24, 168)),
        (seconds("2024-01-01T00:00", "2024-01-05T00:00", "m", 15), "15 minutes", (96, 672)),
        (seconds("2024-01-01T00:00", "2024-01-05T00:00", "m", 30), "30 minutes", (48, 336)),
        (seconds("2024-01-01", "2024-06-01", "D"), "day", (7,)),
        (seconds("2024-01-01", "2026-06-01", "D", 7), "week", (52,)),
        (seconds("2020-01", "2024-06", "M"), "month", (12,)),
        (seconds("2020-01", "2024-06", "M", 3), "3 months", (4,)),
        (seconds("1950", "2024", "Y"), "year", ()),
        (month_ends(60), "month", (12,)),
        (workdays(60), "working day", (5,)),
        (seconds("2024-01-01", "2025-01-01", "D", 28), "4 weeks", ()),
        (seconds("2024-01-01T00:00:00", "2024-01-01T00:01:00", "s", 7), "7 seconds", ()),
    ],
)
def test_frequencies_are_found_with_gaps_and_carried_on(times, name, periods):
    frequency = infer(times)
    assert frequency is not None
    assert (frequency.name, frequency.periods) == (name, periods)
    head, tail = times[: len(times) // 2], times[len(times) // 2 :]
    np.testing.assert_array_equal(frequency.after(float(head[-1]), len(tail)), tail)
    holed = np.delete(times, [3, 4, len(times) - 4])
    found = infer(holed)
    assert found is not None
    assert found.name == name
    np.testing.assert_array_equal(found.places(holed), np.delete(np.arange(len(times)), [3, 4, len(times) - 4]))


def test_local_days_are_days_though_clocks_change():
    times = seconds("2024-03-01", "2024-04-30", "D") - 3600.0
    times[30:] -= 3600.0  # midnight in Berlin, in UTC
    frequency = infer(times)
    assert frequency is not None
    assert frequency.name == "day"


@pytest.mark.parametrize(
    "times",
    [[0, 3600, 7200, 12345, 15945], [0, 60, 120, 125, 185, 245], [0, 1000, 2000, 3000, 3300, 4000, 5000]],
)
def test_what_has_no_frequency_is_refused(times):
    assert infer(np.array(times, np.float64)) is None


def test_one_time_has_no_step():
    assert infer(np.array([5.0])) == Frequency(0.0)
    assert Frequency(0.0).name == "no step"


def test_a_time_is_written_as_finely_as_it_is():
    assert moment(1704067200.0) == "2024-01-01 00:00:00"
    assert moment(1704067200.1) == "2024-01-01 00:00:00.100"  # tenths of a second apart are not one time


def test_calendar_turns_with_the_clock():
    hours = seconds("2024-01-01T00", "2024-01-15T00", "h")
    found = calendar(hours, Frequency(3600.0), yearly=False)
    assert found.shape == (336, 4)
    np.testing.assert_allclose(found[:168], found[168:], atol=1e-9)  # a week later all is the same
    np.testing.assert_allclose(found[6, [0, 2]], [1.0, 0.0], atol=1e-9)  # six in the morning: a quarter of a day
    assert len(np.unique(found[:168].round(6), axis=0)) == 168
    days = seconds("2023-01-01", "2025-01-01", "D")
    weekly = calendar(days, Frequency(DAY), yearly=True)
    assert weekly.shape == (731, 4)
    np.testing.assert_allclose(weekly[0, 1], 0.0, atol=1e-9)  # the first of January
    months = seconds("2023-01", "2025-01", "M")
    assert calendar(months, Frequency(30 * DAY, 1), yearly=True).shape == (24, 2)
    assert calendar(months, Frequency(30 * DAY, 1), yearly=False).shape == (24, 0)
    assert calendar(workdays(10), Frequency(1.4 * DAY, workdays=True), yearly=False).shape == (10, 2)
