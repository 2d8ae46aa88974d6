"""Experts by time: one in charge, edges on the right side, one expert is no expert."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, FLOW, denoiser, gaussian, labels, rng

from condiff.core import instant, trajectory
from condiff.guidance import CFG, ByTime
from condiff.oracles import MixtureData
from condiff.process import Noise
from condiff.solvers import Heun


class Constant:
    def __init__(self, value):
        self.value = value

    def __call__(self, x, t, cond):
        return FLOW.complete(x, t, torch.full_like(x, self.value))


def test_each_stretch_has_its_expert_and_an_edge_belongs_to_the_noisier():
    experts = ByTime((Constant(1.0), Constant(2.0), Constant(3.0)), (0.3, 0.7))
    x, asked = torch.zeros(6, 2, dtype=DTYPE), [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
    expected = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    rows = experts(x, torch.tensor(asked, dtype=DTYPE), None).parts["data"][:, 0]
    assert rows.tolist() == expected
    for t, value in zip(asked, expected, strict=True):
        assert float(experts(x, instant(t), None).parts["data"][0, 0]) == value
        assert float(experts(x, torch.tensor(t, dtype=DTYPE), None).parts["data"][0, 0]) == value


def test_one_expert_is_no_expert():
    net, x, cond = denoiser(FLOW), rng(0, 1).normal((2, 2)), labels(0, 1)
    t = torch.tensor([0.2, 0.8], dtype=DTYPE)
    for name in ("data", "noise"):
        torch.testing.assert_close(ByTime((net,), ())(x, t, cond).parts[name], net(x, t, cond).parts[name])


def test_an_expert_is_never_asked_outside_its_stretch():
    """A Noise prediction says nothing of the data at t = 1, so its answer there would be an error."""
    early = denoiser(FLOW, Noise())
    experts = ByTime((early, denoiser(FLOW)), (0.5,))
    x = rng(0, 1).normal((2, 2))
    assert bool(experts(x, torch.tensor([1.0, 0.2], dtype=DTYPE), None).parts["data"].isfinite().all())


def test_classes_start_late_by_their_own_gaussians():
    """Closed forms above an edge, any denoiser below it, guidance around both: exact when both are the same law."""
    truth = torch.arange(60) % 2
    data = rng(*range(60)).normal((60, 3)) + 3.0 * truth[:, None]
    law = MixtureData.fit(FLOW, data, truth, name="label")
    cond, x = labels(0, 1), rng(4, 5).normal((2, 3))
    grid = torch.linspace(1.0, 0.02, 9, dtype=DTYPE)

    def end(denoiser):
        return list(trajectory(FLOW, denoiser, Heun(), x, grid, cond=cond, rng=rng(0, 1)))[-1].x

    torch.testing.assert_close(end(CFG(ByTime((law, law), (0.6,)), 2.0)), end(CFG(law, 2.0)))
    other = gaussian(FLOW, dims=3)
    assert float((end(ByTime((other, law), (0.6,))) - end(law)).abs().max()) > 0.1


@pytest.mark.parametrize(("count", "edges", "message"), [(2, (), "one edge less"), (3, (0.7, 0.3), "increasing"),
                                                         (2, (1.5,), "increasing times")])  # fmt: skip
def test_experts_are_checked(count, edges, message):
    with pytest.raises(ValueError, match=message):
        ByTime((Constant(0.0),) * count, edges)
