"""The measuring itself: order, ratios, verdicts and counts. Nothing here asserts a time."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.paired import Effort, Ops, Row, Stored, ratio, seconds, sweep


def test_variants_run_in_turn():
    order = []
    readings = sweep({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, least=0.0)
    assert {name: len(values) for name, values in readings.items()} == {"a": 3, "b": 3, "c": 3}
    # Each runs once to warm up and once to size its repeats; then a b c a b c a b c.
    assert order == ["a", "a", "b", "b", "c", "c", *"abc" * 3]
    assert set(seconds({"a": lambda: None}, rounds=2, least=0.0)) == {"a"}


def test_a_short_variant_is_repeated_until_it_can_be_read():
    calls = []
    sweep({"a": lambda: calls.append(0)}, rounds=1, least=0.001)
    assert len(calls) > 20


def test_a_ratio_is_the_median_of_paired_rounds():
    readings = {"a": [2.0, 30.0, 6.0], "b": [1.0, 10.0, 1.0]}
    assert ratio(readings, "a", "b") == 3.0  # of 2, 3 and 6; a ratio of medians would be 6
    assert ratio(readings, "b", "a") == pytest.approx(1.0 / 3.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio({"a": [1.0, 2.0], "b": [1.0]}, "a", "b")


@pytest.mark.parametrize(
    ("value", "above", "bound", "verdict", "sound"),
    [
        (1.9, False, None, "pass", True),
        (2.0, False, None, "pass", True),
        (2.9, False, None, "falls short", True),
        (3.1, False, None, "falls short", False),
        (3.1, False, 4.0, "falls short", True),
        (4.1, False, 4.0, "falls short", False),
        (2.1, True, None, "pass", True),
        (1.4, True, None, "falls short", True),
        (1.3, True, None, "falls short", False),
        (1.3, True, 1.2, "falls short", True),
        (math.nan, False, None, "not measured", True),
    ],
)
def test_verdicts_and_bounds(value, above, bound, verdict, sound):
    row = Row("G1", "case", value, 2.0, above, bound=bound)
    assert (row.verdict, row.sound) == (verdict, sound)


def test_operations_and_reads_are_counted():
    x = torch.ones(3)
    with Ops() as seen:
        (x + x).mul_(2.0)
    assert seen.calls == {"aten::add": 1, "aten::mul_": 1}
    assert (seen.total, seen.syncs) == (2, 0)
    with Ops() as seen:
        float(x.sum())
        torch.nonzero(x)
        torch.equal(x, x)
    assert seen.syncs == 3


def test_a_stored_network_costs_nothing():
    x, t, out = torch.zeros(2), torch.tensor(0.0), torch.ones(2)
    with Ops() as seen:
        assert Stored(out)(x, t) is out
    assert seen.total == 0


def test_effort_picks_sizes():
    assert (Effort(True).pick(9, 1), Effort(False).pick(9, 1)) == (1, 9)
    assert Effort(True).rounds < Effort(False).rounds
