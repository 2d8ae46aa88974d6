"""The flow-map recipe: builds for any data, trains, samples with one call, saves and loads to equal bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import condiff
from condiff.claims import lab
from condiff.data import read
from condiff.recipes import principles


@pytest.mark.parametrize(("name", "shape"), [("digits8", (1, 8, 8)), ("mocap", (15, 3))])
def test_it_trains_samples_and_loads(name, shape, tmp_path):
    splits = read(name)
    settings = replace(principles.training, steps=2, batch_size=16)
    system = lab.trained(principles, splits, seed=0, talk=lambda text: None, settings=settings)
    for steps, solver in ((1, None), (4, None), (2, "ddpm")):
        samples, calls = lab.drawn(system, 3, seed=0, num_steps=steps, solver=solver)
        assert samples.shape == (3, *shape)
        assert bool(torch.isfinite(samples).all())
        assert calls == steps
    condiff.save(system, tmp_path / "m.safetensors")
    again = condiff.load(tmp_path / "m.safetensors")
    assert torch.equal(condiff.sample(again, num_samples=2, seed=1), condiff.sample(system, num_samples=2, seed=1))


def test_guidance_is_built_in_or_asked_for_later():
    splits = read("digits8")
    settings = replace(principles.training, steps=2, batch_size=16)
    system = lab.trained(principles, splits, seed=0, talk=lambda text: None, settings=settings, scale=1.2, blend=0.4)
    assert system.objective.inner.scale == 1.2
    plain, guided = (condiff.sample(system, num_samples=2, seed=1, guidance_scale=w) for w in (1.0, 3.0))
    assert not torch.equal(plain, guided)


def test_low_frequencies_reach_both_embeddings():
    system = principles(low=0.1, high=3.0)
    times = system.denoiser.inner.net.time.frequencies
    assert (system.denoiser.low, system.denoiser.high) == (0.1, 3.0)
    assert (float(times.min()), float(times.max())) == (pytest.approx(0.1), pytest.approx(3.0))
