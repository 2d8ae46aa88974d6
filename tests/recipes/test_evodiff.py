"""The recipe builds, trains two steps, samples in the calls it is given, and loads again with equal bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import condiff
from condiff.data import read
from condiff.process import EDM, LogLinear, LogSNR
from condiff.recipes import evodiff
from condiff.solvers import EVODiff, Jump
from condiff.tasks.generate import batches
from condiff.train import Progress


@pytest.mark.parametrize(("data", "size"), [("digits8", "flat"), ("digits8", "tiny"), ("mocap", "flat")])
def test_it_trains_samples_and_reloads(data, size, tmp_path):
    splits = read(data)
    measured = evodiff.measure(splits)
    system = evodiff(**{**measured, "size": size})
    progress = Progress.begin(system, replace(evodiff.training, steps=2, batch_size=8))
    for report in condiff.fit(
        system, splits, settings=replace(evodiff.training, steps=2, batch_size=8), progress=progress
    ):
        assert torch.isfinite(report.loss)
    kwargs = {"num_samples": 3, "num_steps": 6, "seed": 2}
    drawn = condiff.sample(progress.averaged, **kwargs)
    assert drawn.shape == (3, *splits.train.data.shape[1:])
    condiff.save(progress.averaged, tmp_path / "x.safetensors")
    assert torch.equal(condiff.sample(condiff.load(tmp_path / "x.safetensors"), **kwargs), drawn)
    assert not torch.equal(condiff.sample(progress.averaged, **kwargs, solver=Jump()), drawn)
    assert [calls for _, calls in batches(progress.averaged, **kwargs, cond={})] == [6]


def test_it_is_edm_with_evodiff():
    system = evodiff(std=0.7)
    assert isinstance(system.solver, EVODiff)
    assert system.process.schedule == LogLinear(0.002, 80.0)
    assert system.denoiser.target == EDM(0.7)
    assert torch.equal(system.grid(10), LogSNR()(LogLinear.edm(), 10))
