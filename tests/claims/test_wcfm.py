"""The W-CFM experiment, cut to two steps, and its verdict on rows made by hand."""

from __future__ import annotations

import json

import pytest

from condiff.claims import Row, wcfm
from condiff.cli.main import main


def rows(few, curvature, many):
    values = {"FD, 4 steps": few, "curvature": curvature, "FD, 50 steps": many}
    return [
        Row(f"{name}, {method}", value, "", 10, (0, 1))
        for name, pair in values.items()
        for method, value in zip((wcfm.PLAIN, wcfm.OURS), pair, strict=True)
    ]


@pytest.mark.parametrize(
    ("few", "curvature", "many", "holds"),
    [
        ((20.0, 17.0), (8.0, 6.8), (3.0, 3.9), True),
        ((20.0, 17.1), (8.0, 6.8), (3.0, 3.9), False),  # less than 15 % better at 4 steps
        ((20.0, 17.0), (8.0, 6.9), (3.0, 3.9), False),  # less than 15 % straighter
        ((20.0, 17.0), (8.0, 6.8), (3.0, 4.0), False),  # more than 30 % worse at 50 steps
        ((17.0, 20.0), (6.8, 8.0), (3.0, 3.0), False),
    ],
)
def test_the_verdict_is_a_function_of_the_rows(few, curvature, many, holds):
    assert wcfm.verdict(rows(few, curvature, many)) is holds


def test_it_runs_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(wcfm, "QUICK", wcfm.Budget(steps=2, num_samples=60, num_seeds=1, sizes=(32,)))
    assert main(["reproduce", "wcfm", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False
    at = {row["name"]: row["value"] for row in facts["rows"]}
    assert len(at) == 7 * (4 + 2 + 3) + 1 + 4
    assert facts["calls"] == 7 * (2 + 4 + 8 + 50)
    # What needs no trained network is right after two steps too.
    sizes = [at[f"effective size, {method}"] for method in (wcfm.PLAIN, "W-CFM kappa 0.3", wcfm.OURS, wcfm.NEAREST)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1.0
    assert at[f"tilt, {wcfm.PLAIN}"] == 0.0 > at[f"tilt, {wcfm.OURS}"]
    costs = [at[f"pair cost, {method}"] for method in (wcfm.PLAIN, "OT in 16", wcfm.EXACT)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < at["pair cost, Sinkhorn"] < costs[0]
    assert len(list((tmp_path / "r").glob("*_4_steps.png"))) == 7
