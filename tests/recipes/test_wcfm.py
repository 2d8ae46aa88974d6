"""W-CFM as a composition: the coupling it was asked for, and all else plain flow matching."""

from __future__ import annotations

import pytest
import torch

import condiff
from condiff.core import SharedRng
from condiff.data import read
from condiff.process import Gibbs, Independent, MinibatchOT, PerClass, Sinkhorn
from condiff.recipes import wcfm
from condiff.train import Progress, Training, fit

KINDS = {
    "gibbs": Gibbs(0.8),
    "ot": MinibatchOT(256, 2),
    "sinkhorn": Sinkhorn(2.0, chunk=256),
    "independent": Independent(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_samples_and_loads_bit_equal_with_every_coupling(kind, tmp_path):
    splits = read("digits8")
    system = wcfm(**wcfm.measure(splits), coupling=kind)
    assert system.objective.inner.coupling == KINDS[kind]
    settings = Training(steps=2, batch_size=8)
    progress = Progress.begin(system, settings)
    assert all(float(report.loss) > 0.0 for report in fit(system, splits, settings=settings, progress=progress))
    condiff.save(progress.averaged, tmp_path / "model.safetensors")
    again = condiff.load(tmp_path / "model.safetensors")
    one, other = (condiff.sample(made, num_samples=3, num_steps=4, seed=1) for made in (progress.averaged, again))
    assert torch.equal(one, other)
    assert one.shape == (3, 1, 8, 8)


def test_options_reach_the_coupling():
    assert wcfm(eps=0.3).objective.inner.coupling == Gibbs(0.3)
    assert wcfm(kappa=0.3).objective.inner.coupling == Gibbs(0.3 * 8.0)
    assert wcfm(coupling="ot", chunk=16, rounds=1).objective.inner.coupling == MinibatchOT(16, 1)
    within = wcfm(coupling="ot", within="label").objective.inner.coupling
    assert within == PerClass(MinibatchOT(256, 2), "label")


def test_pairs_within_classes_see_the_labels_of_the_batch():
    splits = read("digits8")
    system = wcfm(**wcfm.measure(splits), coupling="ot", within="label")
    data, cond = splits.train.rows(torch.arange(32))
    loss = system.objective(system.denoiser, system.codec.encode(data), cond, rng=SharedRng(0))
    assert loss.rows.shape == (32,)
    assert bool(loss.rows.isfinite().all())
