"""Recipe painters: trains with its Gaussian beside it, samples with fewer calls, and comes back from one file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import condiff
from condiff.core.condition import Condition
from condiff.core.system import System
from condiff.data import read
from condiff.oracles import GaussianData
from condiff.recipes import painters
from condiff.tasks.generate import batches
from condiff.tasks.late import gaussian_of
from condiff.train import Progress


def trained(name, **options):
    splits = read(name)
    system = painters(**{**painters.measure(splits), **options})
    settings = replace(painters.training, steps=2, batch_size=16)
    progress = Progress.begin(system, settings)
    for _ in condiff.fit(system, splits, settings=settings, progress=progress):
        pass
    return progress, splits


@pytest.mark.parametrize(("name", "rank"), [("digits8", 128), ("digits8", 10), ("mocap", 128)])
def test_it_trains_samples_and_loads_again(name, rank, tmp_path):
    progress, splits = trained(name, rank=rank)
    system = progress.averaged
    law, whole = system.denoiser.law, gaussian_of(system, splits.train)
    assert law.variances.numel() == min(rank, whole.variances.numel())
    torch.testing.assert_close(law.variances, whole.variances[:rank], atol=1e-5, rtol=1e-4)
    assert law.rest == pytest.approx(float(whole.variances[rank:].mean()) if rank == 10 else 0.0, rel=1e-4)
    condiff.save(system, tmp_path / "a.safetensors")
    same = condiff.load(tmp_path / "a.safetensors")
    ((a, calls),) = batches(system, num_samples=3, seed=1)
    ((b, _),) = batches(same, num_samples=3, seed=1)
    assert torch.equal(a, b)
    assert a.shape[1:] == splits.train.data.shape[1:]
    assert bool(a.isfinite().all())
    # nodes above sigma 8 cost nothing: 17 steps of 2 calls and a last one make 35 without the jump
    assert calls == 23


def test_a_jump_to_the_end_draws_the_gaussian_itself():
    progress, splits = trained("digits8", until=0.002)
    ((made, calls),) = batches(progress.averaged, num_samples=4, cond={})
    assert calls == 1  # the data estimate at the clock's last node
    whole = GaussianData.fit(progress.system.process, splits.train.data.flatten(1))
    assert isinstance(progress.averaged, System)
    assert float((made.flatten(1) - whole.mean).square().mean()) == pytest.approx(
        float(whole.variances.mean()), rel=0.5
    )


def test_an_unfitted_gaussian_says_so():
    system = painters(**painters.measure(read("digits8")))
    with pytest.raises(ValueError, match="never fitted"):
        condiff.sample(system, num_samples=1)


def test_resuming_keeps_the_statistics(tmp_path):
    progress, _ = trained("digits8")
    state = progress.system.denoiser.state_dict()
    average = progress.average.state_dict()
    for name in ("mean", "basis", "variances", "rest", "measured"):
        assert torch.equal(state[name], average[name])


def test_fewer_rows_than_directions_still_make_a_basis():
    system = painters(shape=(40,), rank=12)
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    system.denoiser.measure(lambda: [(rows, Condition({}, {}))])
    basis = system.denoiser.law.basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(12), atol=1e-5, rtol=0.0)
    assert int((system.denoiser.law.variances > 1e-6).sum()) == 4  # five rows span four directions
