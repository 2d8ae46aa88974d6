"""The teleportation experiment: its verdict on rows made by hand, and the whole of it cut to two steps."""

from __future__ import annotations

import json

import pytest

from condiff.claims import Row, painters
from condiff.cli.main import main

GOOD = {
    "calls, whole run": 35.0, "calls, skip 6": 23.0, "FD, whole run": 1.0, "FD teleport, skip 6": 1.04,
    "precision, whole run": 0.7, "precision, skip 6": 0.69, "recall, whole run": 0.6, "recall, skip 6": 0.61,
    "FD plain noise, skip 7": 1.31,
    **{f"score explained by the Gaussian, sigma {kappa:g}": 0.995 for kappa in painters.KAPPAS},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("FD, whole run", 1.0, True),
        ("calls, skip 6", 27.0, False),
        ("FD teleport, skip 6", 1.06, False),
        ("precision, skip 6", 0.67, False),
        ("recall, skip 6", 0.63, False),
        ("FD plain noise, skip 7", 1.29, False),
        ("score explained by the Gaussian, sigma 2", 0.989, False),
        ("score explained by the Gaussian, sigma 1", 0.9, True),
    ],
)
def test_the_verdict_is_a_function_of_the_rows(name, value, holds):
    rows = [Row(key, number, "", 1, (number, number)) for key, number in {**GOOD, name: value}.items()]
    assert painters.verdict(rows) is holds


def test_it_runs_end_to_end_and_tells_the_truth(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        painters, "QUICK", painters.Budget(num_seeds=1, steps=2, num_samples=64, skips=(6, 7), num_noised=8)
    )
    assert main(["reproduce", "painters", "--quick", "--json", "--out", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    value = {row["name"]: row["value"] for row in facts["rows"]}
    assert (value["calls, whole run"], value["calls, skip 6"], value["calls, skip 7"]) == (35, 23, 21)
    assert facts["calls"] == 35 + 2 * 23 + 2 * 21
    # two steps of training leave a network that says nothing: the Gaussian alone beats it
    assert value["FD of samples of the Gaussian alone"] < value["FD, whole run"]
    # its output is 0, which EDM reads as data N(0, std^2 I): plain noise suits that model, the real Gaussian does not
    assert value["RMS to the whole run, plain noise, skip 6"] < value["RMS to the whole run, teleport, skip 6"]
    assert facts["holds"] is False
    assert {"teleport.png", "plain_noise.png", "whole.png"} <= {path.name for path in tmp_path.glob("*.png")}
