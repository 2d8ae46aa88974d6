"""Recipe overview on a user's table: some rows have a reward, some do not, and a target in the file's units works."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import condiff
from condiff.cli.main import main
from condiff.data import read
from condiff.recipes import overview
from condiff.tasks.optimise import optimize


@pytest.fixture
def designs(tmp_path):
    """Three numbers a design, the third their sum, and a profit that a third of the rows have."""
    rng = np.random.default_rng(0)
    path = tmp_path / "designs.csv"
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["length", "width", "profit", "weight"])
        for row in range(600):
            length, width = rng.normal(50.0, 8.0), rng.normal(3.0, 0.5)
            profit = 100.0 + 2.0 * length - 10.0 * width + rng.normal(0.0, 2.0)
            table.writerow([length, width, f"{profit}" if row % 3 == 0 else "", 0.1 * length + width])
    return path


def test_a_column_becomes_a_condition_that_rows_may_lack(designs):
    train = read(designs, conditions=["profit"]).train
    assert train.meta["columns"] == ["length", "width", "weight"]
    assert train.data.shape[1] == 3
    facts = train.meta["conditions"]["profit"]
    assert facts["mean"][0] == pytest.approx(170.0, abs=5.0)
    there = train.present["profit"]
    assert 0.25 < float(there.double().mean()) < 0.42
    assert float(train.conditions["profit"][there].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(train.conditions["profit"][~there].abs().max()) == 0.0
    assert train.meta["read"] == {"conditions": ["profit"]}
    with pytest.raises(ValueError, match="column profit.*make the column a condition"):
        read(designs)
    with pytest.raises(ValueError, match="did you mean 'profit'"):
        read(designs, conditions=["profits", "profit"])
    with pytest.raises(ValueError, match="every numeric column is a condition"):
        read(designs, conditions=["length", "width", "weight", "profit"])


def test_from_a_table_to_designs_of_a_wanted_reward(designs, tmp_path, capsys):
    """The whole way on the command line; 150 steps are enough for a plane."""
    run = tmp_path / "run"
    words = ["train", "overview", "--data", str(designs), "--reward", "profit", "--out", str(run), "--steps", "150",
             "--lr", "3e-3", "--validate-every", "0"]  # fmt: skip
    assert main(words) == 0
    found = {}
    for asked in (150, 190):
        out = tmp_path / f"{asked}.csv"
        assert main(["sample", str(run), "-n", "100", "--cond", f"profit={asked}", "--out", str(out)]) == 0
        with open(out) as file:
            header = file.readlines()[1].strip()
        assert header == "length,width,weight"
        length, width, weight = np.loadtxt(out, delimiter=",", skiprows=2).T
        found[asked] = float((100.0 + 2.0 * length - 10.0 * width).mean())
        assert float(np.abs(0.1 * length + width - weight).mean()) < 0.3  # still designs of that kind
    assert found[150] == pytest.approx(150.0, abs=6.0)
    assert found[190] == pytest.approx(190.0, abs=6.0)
    capsys.readouterr()

    system = condiff.load(run)
    train = read(designs, conditions=["profit"]).train
    reward = system.denoiser.reward
    assert int(reward.rows) == int(train.present["profit"].sum())
    _, report = optimize(system, reward, [170.0, 190.0, 400.0], train, num_samples=64, rank=2)
    assert report.rows[1].predicted == pytest.approx(190.0, abs=6.0)
    assert report.end == 190.0  # 400 is ten deviations away
    assert report.rows[2].nn_ratio > 3.0 * report.rows[1].nn_ratio

    assert main(["eval", str(run), "-n", "30", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == str(designs)


def test_a_reward_that_is_not_there_is_named(designs, tmp_path, capsys):
    assert main(["train", "overview", "--data", str(designs), "--reward", "gain", "--out", str(tmp_path / "x")]) == 2
    assert "nothing named 'gain' to condition on" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no condition of one number"):
        overview(conditions={"label": {"kind": "ClassLabel", "num_classes": 3, "labels": []}})


def test_it_saves_and_loads_with_its_reward(designs, tmp_path):
    splits = read(designs, conditions=["profit"])
    system = overview(**overview.measure(splits), reward="profit")
    for _ in condiff.fit(system, splits, settings=overview.training.__class__(steps=2, batch_size=16)):
        pass
    condiff.save(system, tmp_path / "a.safetensors")
    same = condiff.load(tmp_path / "a.safetensors")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(system.denoiser.reward(x), same.denoiser.reward(x))
    assert float(same.denoiser.reward.noise) > 0.0
