"""The EVODiff experiment: its verdict is a function of the rows, and it runs end to end cut to two steps."""

from __future__ import annotations

import json

import pytest

from condiff.claims import Row, evodiff
from condiff.cli.catalogue import SYSTEMS
from condiff.cli.main import main
from condiff.solvers import Released

TINY = evodiff.Budget(num_seeds=1, steps=2, num_samples=40, num_exact=20, num_ends=4, calls=(5, 10, 15), fine=3)


def rows(five, ten, fifteen):
    return [
        Row(f"ratio to 2M at {n} calls", v, "", 1, (0, 9)) for n, v in ((5, five), (10, ten), (15, fifteen), (8, 99.0))
    ]


@pytest.mark.parametrize(
    ("ratios", "holds"),
    [((0.59, 1.05, 1.05), True), ((0.6, 1.0, 1.0), False), ((0.1, 1.06, 1.0), False), ((0.1, 1.0, 1.06), False)],
)
def test_the_verdict_is_a_function_of_the_rows(ratios, holds):
    assert evodiff.verdict(rows(*ratios)) is holds


def test_the_gain_of_the_control_is_that_of_the_released_ending():
    """At n calls the grid has n - 1 steps; the file's table has 1.054 at 4 steps and 1.092 at 9."""
    assert evodiff.gain(5) == pytest.approx(1.054, abs=1e-3)
    assert evodiff.gain(10) == pytest.approx(1.092, abs=1e-3)
    assert isinstance(evodiff.SOLVERS[evodiff.ENDED].ending, Released)


def test_an_untrained_network_runs_end_to_end_and_tells_the_truth(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evodiff, "QUICK", TINY)
    assert main(["reproduce", "evodiff", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    value = {row["name"]: row["value"] for row in facts["rows"]}
    given = [Row(r["name"], r["value"], r["unit"], r["n"], tuple(r["interval"])) for r in facts["rows"]]
    assert facts["holds"] is evodiff.verdict(given)
    assert facts["claim"] == evodiff.CLAIM == next(entry.claim for entry in SYSTEMS if entry.slug == "evodiff")
    # Five solvers at 5, 10 and 15 calls, on the network and on two mixtures, and Heun on 3 nodes: 2 steps of 2 calls, and the end.
    assert facts["calls"] == 3 * 5 * 30 + 5
    ratio = value["distance at 5 calls, EVODiff"] / value["distance at 5 calls, 2M"]
    assert value["ratio to 2M at 5 calls"] == pytest.approx(ratio)
    # On exact targets even a few samples show that more calls of DDIM come closer to the end point of the flow.
    assert value["error on the 64-D mixture at 15 calls, 2M"] < 0.5 * value["error on the 64-D mixture at 5 calls, 2M"]
    assert (tmp_path / "r" / "digits.png").is_file()
    assert "released ending" in facts["effect"]


def test_equal_seeds_give_equal_rows(monkeypatch):
    monkeypatch.setattr(evodiff, "QUICK", TINY)
    monkeypatch.setattr(evodiff, "TARGETS", {})
    once, again = (evodiff.run(quick=True, seed=3, out=None, talk=lambda text: None) for _ in range(2))
    assert [row.value for row in once.rows] == [row.value for row in again.rows]
