"""The flow-map experiment, cut to two steps: the verdict follows the rows, and calls are counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from condiff.claims import principles
from condiff.cli.catalogue import SYSTEMS
from condiff.cli.main import main

TINY = principles.Budget(steps=2, num_samples=40, num_seeds=1, extra=False, batch_size=8)


def distances(one, two, four):
    return {1: one, 2: two, 4: four, 8: 1.0, 50: 1.0}


def rows(*flow, seeds=1):
    found = {
        "MeanFlow": [distances(10.0, 5.0, 2.0)] * seeds,
        "flow matching": [distances(*flow)] * seeds,
        "flow matching, high frequencies": [distances(*(value + 1.0 for value in flow))] * seeds,
    }
    return principles.table(found, 100)


@pytest.mark.parametrize(
    ("flow", "holds"),
    [((40.0, 15.0, 4.0), True), ((39.0, 15.0, 4.0), False), ((40.0, 14.9, 4.0), False), ((40.0, 15.0, 3.9), False)],
)
def test_the_verdict_is_a_function_of_the_rows(flow, holds):
    assert principles.verdict(rows(*flow)) is holds


def test_the_verdict_takes_the_better_flow_and_the_whole_interval():
    found = {
        "MeanFlow": [distances(10.0, 5.0, 2.0)] * 2,
        "flow matching": [distances(100.0, 50.0, 20.0)] * 2,
        "flow matching, high frequencies": [distances(30.0, 50.0, 20.0)] * 2,
    }
    assert principles.table(found, 100)[0].value == pytest.approx(3.0)
    assert not principles.verdict(principles.table(found, 100))
    # A mean of five with one seed below one: the interval reaches below one, and the claim does not hold.
    found["flow matching, high frequencies"] = [distances(91.0, 50.0, 20.0), distances(9.0, 50.0, 20.0)]
    first = principles.table(found, 100)[0]
    assert first.value == pytest.approx(5.0)
    assert first.interval[0] < 1.0
    assert not principles.verdict(principles.table(found, 100))


def test_it_runs_end_to_end_and_tells_the_truth(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(principles, "QUICK", replace(TINY, extra=True))
    assert main(["reproduce", "principles", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False
    assert facts["rows"][0]["name"] == "better flow over MeanFlow, 1 call"
    assert len(facts["rows"]) == 3 + 5 * 5 + 1
    # Five models with 1, 2, 4, 8 and 50 calls, and pictures of two of them with 1 and 2.
    assert facts["calls"] == 5 * 65 + 2 * 3
    pictures = {path.name for path in (tmp_path / "r").glob("*.png")}
    assert pictures >= {"MeanFlow_1.png", "MeanFlow_2.png", "flow_matching_1.png", "flow_matching_2.png"}


def test_equal_seeds_give_equal_rows(monkeypatch):
    monkeypatch.setattr(principles, "QUICK", TINY)
    once, again = (principles.run(quick=True, seed=3, out=None, talk=lambda text: None) for _ in range(2))
    assert [row.value for row in once.rows] == [row.value for row in again.rows]


def test_the_catalogue_says_what_is_tested():
    assert next(entry.claim for entry in SYSTEMS if entry.slug == "principles") == principles.CLAIM
