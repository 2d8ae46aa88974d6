"""PFGM++ as a composition: EDM at its limit, bit for bit, and everything else carried over."""

from __future__ import annotations

import pytest
import torch

import condiff
from condiff.core import RowRng, SharedRng, instant
from condiff.data import read
from condiff.objectives import Denoising
from condiff.process import EDM, Gaussian, LogLinear, LogNormalSigma, Preconditioned, Student
from condiff.recipes import pfgmpp
from condiff.train import Progress, Training, fit


def built(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = pfgmpp(**{**pfgmpp.measure(read("digits8")), **options})
        for weight in system.denoiser.parameters():  # a fresh network is zero, and would hide what it is asked
            torch.nn.init.normal_(weight, std=0.05)
    return system


def test_at_infinity_the_loss_and_the_samples_are_those_of_edm():
    """Against EDM composed by hand with normal noise, same seed: equal bits, conditions and dropping included."""
    system = built(df=0.0)
    std = system.call.arguments["std"]
    process = Gaussian(LogLinear(0.002, 80.0))
    twin = Preconditioned(system.denoiser.net, process, EDM(std), sigma_data=std)
    objective = Denoising(process, EDM(std), LogNormalSigma(-1.2, 1.2))
    data, cond = read("digits8").train.rows(torch.arange(16))
    x = system.codec.encode(data)
    ours = system.objective.inner(system.denoiser, x, cond, rng=SharedRng(1)).rows
    assert torch.equal(ours, objective(twin, x, cond, rng=SharedRng(1)).rows)
    start = system.process.start((4, 64), rng=RowRng(2, range(4)))
    assert torch.equal(start, process.start((4, 64), rng=RowRng(2, range(4))))


def test_the_prior_is_the_law_of_the_noise():
    """Not a normal start: the published generator draws the prior from the kernel too."""
    system = built(df=4.0)
    start = system.process.start((3, 64), rng=RowRng(2, range(3)))
    torch.testing.assert_close(start, 80.0 * Student(4.0).draw((3, 64), RowRng(2, range(3))))


def test_hyper_parameters_do_not_depend_on_d():
    """r = sigma sqrt(D): the same levels of sigma, preconditioning, time law and grid for every D."""
    some, other = built(df=16.0), built(df=2048.0)
    assert some.process.schedule == other.process.schedule
    assert torch.equal(some.grid(18), other.grid(18))
    assert some.objective.inner.target == other.objective.inner.target
    assert some.objective.inner.times == other.objective.inner.times
    sigma = some.process.schedule(some.grid(18))[1]
    karras = (80 ** (1 / 7) + torch.linspace(0, 1, 18, dtype=torch.float64) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, karras)
    x, t = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), instant(0.4)
    assert torch.equal(some.denoiser(x, t, None).parts["data"], other.denoiser(x, t, None).parts["data"])


def test_thirty_five_calls_by_default(tmp_path):
    calls = [used for _, used in condiff.tasks.generate.batches(built(), num_samples=2)]
    assert calls == [35]


@pytest.mark.parametrize("df", [0.0, 16.0])
def test_it_trains_samples_and_loads_bit_equal(tmp_path, df):
    splits = read("digits8")
    system = built(df=df)
    settings = Training(steps=2, batch_size=8)
    progress = Progress.begin(system, settings)
    losses = [float(report.loss) for report in fit(system, splits, settings=settings, progress=progress)]
    assert all(0.0 < loss < 100.0 for loss in losses)
    condiff.save(progress.averaged, tmp_path / "model.safetensors")
    again = condiff.load(tmp_path / "model.safetensors")
    one, other = (condiff.sample(made, num_samples=3, num_steps=4, seed=1) for made in (progress.averaged, again))
    assert torch.equal(one, other)
    assert one.shape == (3, 1, 8, 8)


def test_it_fits_pictures_and_tables_of_any_size():
    for shape, size, inner in (((3, 16, 16), "tiny", (3, 16, 16)), ((5,), "flat", (5,))):
        system = pfgmpp(shape=shape, size=size)
        assert system.shape == inner
        assert condiff.sample(system, num_samples=2, num_steps=2).shape == (2, *shape)
