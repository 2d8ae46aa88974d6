"""The block experiment, cut to two training steps: it runs end to end, and its verdict reads the rows."""

from __future__ import annotations

import json

import pytest

from condiff.claims import Row, ctrldiff
from condiff.cli.main import main

GOOD = {
    **{f"bits a byte, blocks of {k}": 2.0 + k / 100 for k in ctrldiff.BOUNDS},
    **{f"{name}, price {k}": value for k in (1, 2, 3) for name, value in (("hindsight", 8.0), ("learned", 9.7), ("best fixed", 10.1))},
    **{f"gap recovered, price {k}": 0.2 for k in (1, 2, 3)},
    **{f"learned over best fixed, price {k}": -0.4 for k in (1, 2, 3)},
    "guided: read as asked": 0.71,
    "unguided: read as asked": 0.5,
    "tokens that differ with memory": 0.0,
}  # fmt: skip


def rows(**changes):
    return [Row(name, value, "", 1, (value - 0.02, value + 0.02)) for name, value in {**GOOD, **changes}.items()]


def test_the_verdict_is_a_function_of_the_rows():
    assert ctrldiff.verdict(rows())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bits a byte, blocks of 4", 2.0),
        ("bits a byte, blocks of 48", 2.1),
        ("learned, price 2", 10.2),
        ("learned, price 3", 7.9),
        ("gap recovered, price 1", 0.19),
        ("learned over best fixed, price 3", 0.01),
        ("guided: read as asked", 0.69),
        ("tokens that differ with memory", 1.0),
    ],
)
def test_every_part_of_the_claim_can_fail_it(name, value):
    assert not ctrldiff.verdict(rows(**{name: value}))


def test_it_runs_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ctrldiff, "QUICK", ctrldiff.Budget(2, 8, 10, 4, 2, 2, 1, 2))
    assert main(["reproduce", "ctrldiff", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    value = {row["name"]: row["value"] for row in facts["rows"]}
    assert facts["holds"] is False
    assert value["tokens that differ with memory"] == 0
    assert value["calls a token, blocks of 8, 4 calls"] == 5 / 8
    assert (tmp_path / "r" / "guided.txt").is_file()


def test_windows_of_both_translations_are_labelled():
    splits, labels = ctrldiff.both()
    assert len(splits.test) == len(labels[2])
    assert 0.4 < float(labels[0].double().mean()) < 0.6
