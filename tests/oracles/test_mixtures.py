"""The exact targets are what they say, and their end points are the flow's on every process."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, rng

from condiff.core import RowRng, instant
from condiff.oracles import GaussianData, MixtureData, endpoints, patches, ring
from condiff.oracles.mixtures import STD
from condiff.process import VP, Flow, Gaussian, LogLinear


@pytest.mark.parametrize(("make", "dims", "parts"), [(ring, 2, 8), (patches, 64, 10)], ids=["ring", "patches"])
def test_targets_have_the_spread_they_promise(make, dims, parts):
    target = make(Gaussian(Flow()))
    share = target.weights / target.weights.sum()
    means = torch.stack([part.mean for part in target.components])
    assert means.shape == (parts, dims)
    torch.testing.assert_close((share[:, None] * means).sum(0), torch.zeros(dims, dtype=DTYPE), atol=1e-12, rtol=0.0)
    second = (share[:, None] * means.square()).sum() + sum(
        w * part.variances.sum() for w, part in zip(share, target.components, strict=True)
    )
    assert math.sqrt(float(second) / dims) == pytest.approx(STD, rel=1e-12)
    drawn = target.sample(4000, rng=RowRng(0, range(4000), dtype=DTYPE))
    assert float(drawn.square().mean().sqrt()) == pytest.approx(STD, rel=0.05)
    mean, cov = target.moments()
    torch.testing.assert_close(mean, torch.zeros(dims, dtype=DTYPE), atol=1e-12, rtol=0.0)
    assert float(cov.trace()) == pytest.approx(dims * STD**2, rel=1e-12)
    spread = (torch.outer(cov.diagonal(), cov.diagonal()) + cov.square()) / 4000
    assert bool(((torch.cov(drawn.T) - cov).abs() < 5 * spread.sqrt() + 1e-3).all())
    for part in target.components:
        torch.testing.assert_close(part.basis.T @ part.basis, torch.eye(dims, dtype=DTYPE), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("schedule", [Flow(), VP(), LogLinear.edm()], ids=["Flow", "VP", "EDM"])
def test_end_points_of_a_gaussian_are_its_flow_in_closed_form(schedule):
    """A mixture of one component is a Gaussian, whose flow is known; t need not be the end of the clock."""
    process = Gaussian(schedule)
    part = GaussianData.of(
        process, torch.tensor([0.3, -0.2], dtype=DTYPE), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()
    )
    target = MixtureData(process, torch.ones(1, dtype=DTYPE), (part,))
    for t in (1.0, 0.6):
        x = float(schedule(t)[1]) * rng(0, 1, 2).normal((3, 2))
        inside = (x - schedule(t)[0] * part.mean) @ part.basis
        total = schedule(t)[1] ** 2 + schedule(t)[0] ** 2 * part.variances
        exact = part.mean + (inside * (part.variances / total).sqrt()) @ part.basis.T
        # The end point is the data estimate at noise 1e-7.
        torch.testing.assert_close(endpoints(target, x, instant(t)), exact, atol=2e-6, rtol=1e-6)


def test_end_points_converge():
    target = ring(Gaussian(Flow()))
    x = rng(0, 1, 2, 3).normal((4, 2))
    fine, coarse = (endpoints(target, x, instant(1.0), steps) for steps in (400, 200))
    torch.testing.assert_close(fine, coarse, atol=1e-4, rtol=0.0)
