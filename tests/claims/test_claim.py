"""Rows, intervals and the form of a result."""

from __future__ import annotations

import json

import pytest
from scipy import stats

from condiff.claims import Result, Row, over_seeds, share


def result(rows, holds):
    return Result("x", "claim", "data", 3, rows, "effect", "expected", holds, 7)


def test_json_has_exactly_the_keys_of_the_contract():
    facts = json.loads(json.dumps(result([Row("a", 1.0, "%", 5, (0.5, 1.5))], True).to_json(2.345)))
    assert list(facts) == [
        "system", "claim", "data", "seed", "rows", "effect", "expected", "holds", "seconds", "calls",
    ]  # fmt: skip
    assert facts["rows"] == [{"name": "a", "value": 1.0, "unit": "%", "n": 5, "interval": [0.5, 1.5]}]
    assert facts["holds"] is True
    assert facts["seconds"] == 2.35 or facts["seconds"] == 2.34


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 4.0], [3.0, 1.0, 4.0, 1.0, 5.0]])
def test_intervals_over_seeds_are_students(values):
    row = over_seeds("a", values, "%", 10)
    mean = sum(values) / len(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    assert row.value == pytest.approx(mean)
    assert row.interval == pytest.approx((low, high), rel=1e-3)


def test_one_seed_has_the_interval_of_its_draws():
    row = share("a", [98.0], 200)
    expected = stats.binomtest(196, 200).proportion_ci(method="wilson")
    assert row.interval == pytest.approx((100 * expected.low, 100 * expected.high), rel=1e-6)
    assert row.n == 200
    assert share("a", [98.0, 99.0], 200).n == 400
    assert over_seeds("a", [5.0], "", 1).interval == (5.0, 5.0)
