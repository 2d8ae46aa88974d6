"""The PFGM++ experiment, cut to two steps, and its verdict on rows made by hand."""

from __future__ import annotations

import json

import pytest

from condiff.claims import Row, pfgmpp
from condiff.cli.main import main

NAMES = ("infinity", "128", "16")


def rows(clean, hurt):
    made = [Row(f"FD, 35 calls, D = {name}", value, "", 10, (0, 1)) for name, value in zip(NAMES, clean, strict=True)]
    return made + [
        Row(f"FD, error 0.3, D = {name}", value, "", 10, (0, 1)) for name, value in zip(NAMES, hurt, strict=True)
    ]


@pytest.mark.parametrize(
    ("clean", "hurt", "holds"),
    [
        ((2.0, 2.2, 2.5), (8.0, 7.0, 6.0), True),
        ((2.0, 2.2, 2.1), (8.0, 7.0, 6.1), False),  # less than 25 % better
        ((2.0, 2.2, 2.1), (8.0, 8.5, 5.0), False),  # not in the order of D
        ((2.0, 2.2, 2.6), (8.0, 7.0, 5.0), False),  # worse without error
        ((2.6, 2.2, 1.9), (8.0, 7.0, 5.0), False),  # better without error is not equal either
        ((2.0, 2.0, 2.0), (5.0, 7.0, 8.0), False),
    ],
)
def test_the_verdict_is_a_function_of_the_rows(clean, hurt, holds):
    assert pfgmpp.verdict(rows(clean, hurt)) is holds


def test_it_runs_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pfgmpp, "QUICK", pfgmpp.Budget(steps=2, num_samples=60, num_seeds=1))
    assert main(["reproduce", "pfgmpp", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False
    assert len(facts["rows"]) == 6 * 3 + 1
    assert {row["n"] for row in facts["rows"][:-1]} == {60}
    # 35 calls in five of the six settings and 11 in one, for three models.
    assert facts["calls"] == 3 * (5 * 35 + 11)
    pictures = {path.name for path in (tmp_path / "r").glob("D_*.png")}
    assert pictures == {f"D_{name}_{setting}.png" for name in NAMES for setting in ("35_calls", "error_0.3")}
