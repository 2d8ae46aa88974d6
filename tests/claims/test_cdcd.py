"""The contrast experiment: its verdict on rows made by hand, its pairs of pictures and phrases, a run of two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from condiff.claims import Row, cdcd


def rows(gain=(0.1, 0.1, 0.1), official=0.0, base=0.7, cost=0.2, far=0.5, lead=0.0):
    values = {
        "bits a token, base": 0.7,
        f"bits a token, {cdcd.BEST}": 0.7 + cost,
        "FD, base, 80 steps": 0.5,
        f"FD, {cdcd.BEST}, 80 steps": far,
    }
    for steps, more in zip(cdcd.CALLS, gain, strict=True):
        values[f"accuracy, base, {steps} steps"] = base
        values[f"accuracy, official, {steps} steps"] = base + official
        values[f"accuracy, {cdcd.BEST}, {steps} steps"] = base + more
        values[f"least gain of a seed, {steps} steps"] = more
    values["least gain of a seed, 8 steps over 80 without"] = lead
    return [Row(name, value, "", 10, (value, value)) for name, value in values.items()]


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"gain": (0.01, 0.1, 0.1)}, False),
        ({"gain": (0.1, 0.01, 0.1)}, False),
        ({"gain": (0.1, 0.1, -0.01)}, False),
        ({"official": 0.03}, False),
        ({"official": -0.03}, False),
        ({"cost": 0.05}, False),
        ({"far": 0.45}, False),
        ({"lead": -0.01}, False),
    ],
)
def test_every_part_of_the_claim_decides(change, holds):
    assert cdcd.verdict(rows(**change)) is holds


def test_the_least_gain_is_that_of_one_seed():
    found = {f"accuracy, base, {steps} steps": [0.5, 0.75] for steps in cdcd.CALLS}
    found |= {f"accuracy, {cdcd.BEST}, {steps} steps": [0.75, 0.875] for steps in cdcd.CALLS}
    found[f"accuracy, {cdcd.BEST}, 8 steps"] = [1.0, 0.5]
    assert [row.value for row in cdcd.margins(found, 10)] == [0.125, 0.125, -0.25, -0.25]


def test_two_steps_from_end_to_end(monkeypatch, tmp_path):
    monkeypatch.setattr(cdcd, "QUICK", replace(cdcd.QUICK, steps=2, num_samples=40, variants=("base", cdcd.BEST)))
    monkeypatch.setattr(cdcd, "verdict", lambda rows: False)  # it asks for the official weight too; tested above
    heard = []
    result = cdcd.run(quick=True, seed=0, out=tmp_path, talk=heard.append)
    value = {row.name: row.value for row in result.rows}
    assert len(heard) == 2
    assert result.calls == 2 * sum(cdcd.CALLS)
    # Hardly trained: near the 2 bits of a uniform token of four.
    assert 1.8 < value["bits a token, base"] < 2.5
    assert value["accuracy, real test digits at 4 levels (ceiling)"] == pytest.approx(0.922, abs=0.002)
    assert not result.holds
    assert {"base.png", "infonce_rows.png"} <= {path.name for path in tmp_path.glob("*.png")}
