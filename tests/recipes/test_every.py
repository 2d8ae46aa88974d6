"""Every recipe: measured off its data it builds, takes two steps, samples finite rows, and loads again bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import condiff
from condiff.core.condition import ClassLabel
from condiff.data import read
from condiff.recipes import find, names
from condiff.train import Progress

BROUGHT = {"images": "digits8", "vectors": "mocap", "text": "verses", "series": "traffic"}
"""Data for recipes that have none of their own."""

SMALL = {
    "images": {"size": "tiny"},
    **{name: {"width": 32, "depth": 1} for name in ("diffusia", "radd", "series", "text")},
}
"""Options that keep this quick."""


def smaller(name):
    data = find(name).data or BROUGHT[name]
    splits = read(data, **{**find(name).reads, **({"length": 32} if data in ("kjv", "verses") else {})})
    return splits, {**find(name).measure(splits), **SMALL.get(name, {})}


OURS = [name for name in names() if find(name).build.__module__.startswith("condiff.")]
OWN_TEST = {"overview"}
"""Recipes that need a table of the user's own are tested beside this file."""


def test_none_is_left_out():
    assert set(OURS) - {name for name in OURS if find(name).data or name in BROUGHT} == OWN_TEST
    assert all(Path(__file__).with_name(f"test_{name}.py").is_file() for name in OWN_TEST)


@pytest.mark.parametrize("name", [name for name in OURS if name not in OWN_TEST])
def test_it_builds_trains_samples_and_loads_again(name, tmp_path):
    splits, arguments = smaller(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = find(name)(**arguments)
    settings = replace(find(name).training, steps=2, batch_size=8, precision="fp32")
    progress = Progress.begin(system, settings)
    losses = [float(report.loss) for report in condiff.fit(system, splits, settings=settings, progress=progress)]
    assert len(losses) == 2
    assert all(loss == loss for loss in losses)
    system = progress.averaged
    wanted = {"num_samples": 3, "num_steps": 4, "seed": 1}
    if any(isinstance(kind, ClassLabel) for kind in system.schema.values()):
        wanted["guidance_scale"] = 1.5
    elif system.schema:
        _, cond = splits.test.rows(torch.arange(3))
        wanted |= {"cond": cond, "guidance_scale": 1.5}
    drawn = condiff.sample(system, **wanted)
    assert drawn.shape[1:] == splits.train.data.shape[1:]
    assert bool(drawn.isfinite().all())
    condiff.save(system, tmp_path / "one.safetensors")
    loaded = condiff.load(tmp_path / "one.safetensors")
    again = condiff.sample(loaded, **wanted)
    torch.testing.assert_close(again, drawn)  # training may lay weights out in another order in memory
    condiff.save(loaded, tmp_path / "two.safetensors")
    assert torch.equal(condiff.sample(condiff.load(tmp_path / "two.safetensors"), **wanted), again)
