"""The reward experiment: its verdict on rows made by hand, its labels, and the whole of it cut to two steps."""

from __future__ import annotations

import json

import pytest
import torch

from condiff.claims import Row, overview
from condiff.cli.main import main
from condiff.data import read

GOOD = {
    "asked, mean": 1.0, "asked, p90": 2.0, "asked, p99": 3.0, "asked, max + 6 sd": 6.0,
    "true reward, mean": 1.05, "true reward, p90": 1.9, "true reward, p99": 2.75,
    "true reward, max": 3.2, "true reward, max + 6 sd": 4.4,
    "off support, p99": 0.5, "off support, max": 0.6, "off support, max + 6 sd": 0.9,
    "off support, gradient ascent as good as p99": 0.8, "off support, gradient ascent as good as max": 1.0,
    "predicted - true, max": 0.1, "predicted - true, guided, max": 0.2,
    "predicted - true, max + 6 sd": 0.3, "predicted - true, guided, max + 6 sd": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("asked, mean", 1.0, True),
        ("true reward, mean", 0.89, False),
        ("true reward, p90", 2.21, False),
        ("true reward, p99", 2.69, False),
        ("true reward, max + 6 sd", 4.6, False),
        ("off support, max + 6 sd", 0.77, False),
        ("off support, p99", 0.81, False),
        ("off support, gradient ascent as good as max", 0.59, False),
        ("predicted - true, guided, max", 0.05, False),
        ("predicted - true, guided, max + 6 sd", 0.2, False),
    ],
)
def test_the_verdict_is_a_function_of_the_rows(name, value, holds):
    rows = [Row(key, number, "", 1, (number, number)) for key, number in {**GOOD, name: value}.items()]
    assert overview.verdict(rows) is holds


def test_the_black_box_likes_ink_on_the_right():
    digits = torch.full((3, 1, 8, 8), -1.0)
    digits[1, ..., 4:] = 1.0
    digits[2, ..., :4] = 1.0
    # ink 0; right half 1, bottom 1/2; left half 1, bottom 1/2
    expected = [0.0, 10.0 + 3.0 * 0.9092974268256817, -10.0 + 3.0 * 0.9092974268256817]
    assert overview.black_box(digits).tolist() == pytest.approx(expected)


def test_few_rows_are_labelled_and_in_standard_form():
    splits = overview.labelled(read("digits8"), overview.black_box, 150, seed=1)
    there = splits.train.present["reward"]
    assert int(there.sum()) == 150
    values = splits.train.conditions["reward"]
    assert float(values[there].mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(values[there].std()) == pytest.approx(1.0, abs=1e-5)
    assert float(values[~there].abs().max()) == 0.0
    other = overview.labelled(read("digits8"), overview.black_box, 150, seed=2)
    assert not torch.equal(there, other.train.present["reward"])


def test_it_runs_end_to_end_and_tells_the_truth(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(overview, "QUICK", overview.Budget(num_seeds=1, steps=2, num_samples=20))
    assert main(["reproduce", "overview", "--quick", "--json", "--out", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    value = {row["name"]: row["value"] for row in facts["rows"]}
    # two steps of training: every target gives the same samples, so the large ones are missed by far
    assert value["true reward, max + 6 sd"] < 0.5 * value["asked, max + 6 sd"]
    assert facts["holds"] is False
    # where the data are Gaussian the exact sampler follows the theory, whatever was trained
    for step in (1, 3, 6):
        theory = value[f"plane: true reward over asked, {step} sd, theory"]
        assert value[f"plane: true reward over asked, {step} sd, exact sampler"] == pytest.approx(
            theory, abs=0.15 / step
        )
        assert value[f"plane: off support, {step} sd, exact sampler"] < 0.01
    assert value["correlation of learned and true reward"] > 0.95
    # six targets, two guided ones (a doubled batch is one call), two pictures and three on the plane, one batch each
    assert facts["calls"] == 35 * (6 + 2 + 2 + 3)
    assert {"asked_p99.png", "asked_max+6sd.png"} <= {path.name for path in tmp_path.glob("*.png")}
