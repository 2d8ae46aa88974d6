"""The digits experiment, cut to two steps: it runs end to end, counts its calls and tells the truth."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from condiff.claims import Row, digits
from condiff.cli.main import main


@pytest.fixture
def tiny(monkeypatch):
    budget = digits.Budget(seconds=0.0, num_samples=20, num_seeds=1, steps=2, batch_size=8, widths=(8, 16))
    monkeypatch.setattr(digits, "QUICK", budget)
    monkeypatch.setattr(digits, "FULL", replace(budget, num_seeds=2))


def rows(guided, plain):
    return [Row("guided", guided, "%", 10, (0, 100)), Row("plain", plain, "%", 10, (0, 100))]


@pytest.mark.parametrize(
    ("guided", "plain", "holds"),
    [(98.0, 90.0, True), (97.9, 90.0, False), (98.5, 98.5, False), (98.5, 99.0, False), (100.0, 0.0, True)],
)
def test_the_verdict_is_a_function_of_the_rows(guided, plain, holds):
    assert digits.verdict(rows(guided, plain)) is holds


def test_an_untrained_model_does_not_hold(tiny, tmp_path, capsys):
    assert main(["reproduce", "digits", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False
    assert facts["rows"][0]["value"] < 60
    assert facts["rows"][0]["n"] == 20
    # 20 samples with and without guidance and two pictures of 100, each in batches of 128: 20 steps, and Adams' first
    # step calls twice.
    assert facts["calls"] == 4 * 21
    assert json.loads((tmp_path / "r" / "result.json").read_text()) == facts
    assert {path.name for path in (tmp_path / "r").glob("*.png")} == {"guidance_1.png", "guidance_2.png"}


def test_equal_seeds_give_equal_rows_and_full_uses_more_seeds(tiny, tmp_path):
    once, again = (digits.run(quick=True, seed=3, out=None, talk=lambda text: None) for _ in range(2))
    assert [row.value for row in once.rows] == [row.value for row in again.rows]
    full = digits.run(quick=False, seed=3, out=None, talk=lambda text: None)
    assert full.rows[0].n == 40
    assert full.calls == 2 * once.calls
