"""The loss curve: points where they belong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from condiff.train.curve import _log_ticks, _ticks, draw_curve


def where(picture, colour):
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(-1))
    return rows, columns


def test_a_straight_decay_is_a_straight_line_on_the_log_axis():
    picture = draw_curve([("a", [(float(x), 10.0 ** (-x / 50)) for x in range(101)])], title="t")
    rows, columns = where(picture, (31, 119, 180))
    inside = rows > 90  # below the legend
    slope, start = np.polyfit(columns[inside], rows[inside], 1)
    assert slope > 0.3  # falling: rows count downwards
    assert np.abs(rows[inside] - (slope * columns[inside] + start)).max() < 3
    assert columns[inside].max() > 850  # the last point is at the right end
    assert rows[inside].max() > 440


def test_both_lines_are_drawn_and_bad_values_left_out():
    picture = draw_curve(
        [("a", [(1, 1.0), (2, math.nan), (3, 0.5), (4, math.inf), (5, -1.0)]), ("b", [(2, 0.7), (5, 0.6)])], title="t"
    )
    assert len(where(picture, (31, 119, 180))[0]) > 100
    assert len(where(picture, (214, 90, 20))[0]) > 100


@pytest.mark.parametrize("points", [[], [(1, math.nan)], [(1, 0.5)], [(1, 0.5), (2, 0.5)]])
def test_few_points_are_no_error(points):
    assert draw_curve([("a", points), ("b", [])], title="t").size == (900, 520)


@pytest.mark.parametrize(("low", "high"), [(-0.5, -0.4), (-3.0, 2.0), (0.0, 0.3), (-7.2, -6.9), (-9.0, 9.0)])
def test_ticks_are_few_inside_and_rising(low, high):
    ticks = _log_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert all(low - 1e-9 <= math.log10(value) <= high + 1e-9 for value in ticks)


@pytest.mark.parametrize(("end", "ticks"), [(12, [0, 2, 4, 6, 8, 10, 12]), (2500, [0, 500, 1000, 1500, 2000, 2500])])
def test_step_ticks_are_round(end, ticks):
    assert _ticks(end) == ticks
