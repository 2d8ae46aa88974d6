"""Bridges as a recipe: what the data decide, and a folder of pairs from training to a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import condiff
from condiff.cli.main import main
from condiff.core import Condition, RowRng
from condiff.data import read
from condiff.data.pairs import NAME, between, degraded
from condiff.recipes import interpolants
from condiff.solvers import SDE, Constant, Heun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four hundred pairs: a square somewhere, and its blurred picture."""
    root = tmp_path_factory.mktemp("data") / "pairs"
    random = np.random.default_rng(0)
    for name in ("input", "target"):
        (root / name).mkdir(parents=True)
    for k in range(400):
        picture = random.integers(0, 60, (8, 8)).astype(np.uint8)
        y, x = random.integers(0, 5, 2)
        picture[y : y + 3, x : x + 3] += 190
        soft = np.asarray(Image.fromarray(picture).resize((4, 4)).resize((8, 8)))
        Image.fromarray(soft).save(root / "input" / f"{k:03d}.png")
        Image.fromarray(picture).save(root / "target" / f"{k:03d}.png")
    return root


def test_data_decide_where_a_bridge_starts():
    digits = read("digits8")
    assert interpolants.measure(digits)["source"] == ""
    found = interpolants.measure(degraded(digits, lambda x: x))
    assert (found["source"], found["size"]) == (NAME, "tiny")
    assert interpolants(**found).process.source == NAME


def test_an_unpaired_network_never_sees_its_source():
    splits = between(read("digits8"), 1, 7)
    system = interpolants(**{**interpolants.measure(splits), "size": "flat", "paired": False})
    torch.nn.init.normal_(system.denoiser.net.out.weight)
    x, cond = splits.train.rows(torch.arange(4))
    x = system.codec.encode(x)
    est = system.denoiser(x, torch.tensor(0.5), cond)
    other = system.denoiser(x, torch.tensor(0.5), Condition.of(input=-cond.values[NAME]))
    assert torch.equal(est.parts["drift"], other.parts["drift"])
    loss = system.objective(system.denoiser, x, cond, rng=RowRng(0, range(4)))
    assert loss.rows.shape == (4,)


def test_without_latent_noise_there_is_one_head_and_a_deterministic_solver():
    assert isinstance(interpolants(latent=0.0).solver, Heun)
    assert len(interpolants(latent=0.0).denoiser.targets) == 1
    assert interpolants(diffusion=0.3).solver == SDE(Constant(0.3))
    assert isinstance(interpolants(diffusion=0.0).solver, Heun)


def test_a_folder_of_pairs_from_training_to_a_picture(folder, tmp_path, capsys):
    run, one = tmp_path / "run", folder / "input" / "000.png"
    words = ["train", "interpolants", "--data", str(folder), "--out", str(run), "--steps", "3", "--batch-size", "8"]
    assert main([*words, "--num-steps", "4"]) == 0
    assert (run / "samples").is_dir()
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "2"]) == 2
    assert "starts from the condition 'input'" in capsys.readouterr().err
    out = tmp_path / "sharp.png"
    assert main(["sample", str(run), "--cond", f"input={one}", "-n", "2", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 4
    assert main(["replay", str(out)]) == 0
    assert main(["eval", str(run), "-n", "16", "--json"]) == 0
    measured = {metric["name"] for metric in json.loads((run / "eval.json").read_text())["metrics"]}
    assert "frechet" in measured
    system = condiff.load(run)
    source = system.codec.encode(read(str(folder)).test.conditions["input"][:1])
    drawn = condiff.sample(system, num_samples=1, cond={"input": source}, num_steps=1, solver="euler")
    est = system.denoiser(source, torch.tensor(1.0), Condition.of(input=source))
    torch.testing.assert_close(drawn, source - est.parts["velocity"])
