"""Starting any system late: statistics in the system's own scale, calls saved, the answer exact for Gaussian data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from laws.cases import DTYPE

from condiff.codecs import Standardize
from condiff.core import RowRng, System, instant
from condiff.data.batch import Dataset
from condiff.objectives import Denoising
from condiff.oracles import GaussianData
from condiff.process import EDM, Gaussian, Interpolant, Karras, LogLinear, Ratio, Straight, Times
from condiff.solvers import Heun
from condiff.tasks.generate import batches
from condiff.tasks.late import gaussian_of, starting_late


def made():
    """A system whose denoiser is exact for Gaussian data that its codec rescales."""
    scale = torch.tensor([4.0, 1.0, 0.2], dtype=DTYPE)
    raw = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=DTYPE) * scale + 7.0
    codec = Standardize.fit(raw)
    process = Gaussian(LogLinear.edm())
    oracle = GaussianData.fit(process, codec.encode(raw))
    grid = Times(Karras(), process.schedule)
    objective = Denoising(process, EDM(1.0))
    system = System(process, oracle, objective, Heun(Ratio()), codec, grid, (3,), num_steps=18)
    return system, Dataset(raw.float(), {}, {}, name="raw", kind="vectors")


def test_the_gaussian_is_fitted_behind_the_codec():
    system, data = made()
    law = gaussian_of(system, data)
    torch.testing.assert_close(law.mean, torch.zeros(3), atol=1e-5, rtol=0.0)
    assert float(law.variances.sum()) == pytest.approx(3.0, abs=1e-4)  # standardised, not the 17 of the raw scale
    assert gaussian_of(system, data, rank=1).basis.shape == (3, 1)


def test_late_samples_are_the_samples_and_cost_less():
    system, data = made()
    law = gaussian_of(system, data)
    ((whole, calls),) = batches(system, num_samples=5)
    ((late, fewer),) = batches(starting_late(system, law, 8.0), num_samples=5)
    assert (calls, fewer) == (35, 35 - 12 + 0)
    # The whole run carries the error of its own first steps.
    torch.testing.assert_close(late, whole, atol=0.02, rtol=0.0)
    start = system.process.start((5, 3), rng=RowRng(0, range(5)))
    exact = system.codec.decode(law.flow(start, instant(1.0), instant(0.0)))
    assert float((late - exact).abs().max()) < float((whole - exact).abs().max()) + 1e-3


def test_other_processes_are_refused():
    system, data = made()
    bridge = replace(system, process=Interpolant(Straight()))
    with pytest.raises(TypeError, match="Gaussian process, got Interpolant"):
        gaussian_of(bridge, data)
    with pytest.raises(TypeError, match="Gaussian process, got Interpolant"):
        starting_late(bridge, gaussian_of(system, data), 8.0)
