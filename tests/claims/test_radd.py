"""The text experiment: its verdict on rows made by hand, and a run cut to two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from condiff.claims import Row, radd


def rows(losses=(2.0, 2.05), timed=2.0, differ=0.0, calls=16.0, seconds=10.0, frequency=4.4):
    values = {
        "bits a byte, any order": losses[0],
        "bits a byte, lambda cross-entropy": losses[1],
        "bits a byte, told the time (baseline)": timed,
        "bits a byte, frequency of bytes (baseline)": frequency,
        "texts that differ with memo": differ,
        "calls without memo over with": calls,
        "time without memo over with": seconds,
    }
    return [Row(name, value, "", 10, (value, value)) for name, value in values.items()]


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"losses": (2.0, 2.07)}, False),
        ({"losses": (2.07, 2.0)}, False),
        ({"timed": 1.95}, False),
        ({"timed": 1.97}, True),
        ({"differ": 1.0}, False),
        ({"calls": 7.9}, False),
        ({"seconds": 3.9}, False),
        ({"frequency": 2.1}, False),  # no better than the frequency of bytes
    ],
)
def test_every_part_of_the_claim_decides(change, holds):
    assert radd.verdict(rows(**change)) is holds


def test_it_runs_end_to_end_and_the_memo_changes_nothing(monkeypatch, tmp_path):
    tiny = replace(
        radd.QUICK,
        training=replace(radd.QUICK.training, steps=2, batch_size=4),
        held_out=20,
        width=32,
        depth=1,
        many=128,
    )
    monkeypatch.setattr(radd, "QUICK", tiny)
    result = radd.run(quick=True, seed=0, out=tmp_path, talk=lambda text: None)
    value = {row.name: row.value for row in result.rows}
    assert value["texts that differ with memo"] == 0.0
    assert value["calls without memo"] == 128
    assert value["calls with memo"] == pytest.approx(value["calls with memo, by the formula"], abs=12)
    assert 4.2 < value["bits a byte, frequency of bytes (baseline)"] < 4.6
    # Hardly trained: near the log2(257) bits of a uniform byte, and no better than the frequencies.
    for name in ("any order", "lambda cross-entropy", "told the time (baseline)"):
        assert 6.0 < value[f"bits a byte, {name}"] < 8.5
    assert value["spread of one draw, any order"] < value["spread of one draw, lambda cross-entropy"]
    assert not result.holds
    assert len((tmp_path / "samples.txt").read_text(errors="replace")) > 10
