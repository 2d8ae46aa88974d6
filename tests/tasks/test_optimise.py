"""Optimising by asking: exact where data are Gaussian and the reward linear, honest about where the reach ends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from laws.cases import DTYPE

from condiff.codecs import Identity
from condiff.core import SharedRng, System, Vector
from condiff.data.batch import Dataset
from condiff.nn import Ridge
from condiff.objectives import Denoising
from condiff.oracles import GaussianData
from condiff.process import EDM, Gaussian, Karras, LogLinear, Ratio, Times
from condiff.solvers import Heun
from condiff.tasks.optimise import ascend, optimize

NU = 0.2


@dataclass(frozen=True)
class Conditional:
    """The exact denoiser of x | theta . x + NU z = reward, for Gaussian x, reward in standard units."""

    process: Gaussian
    basis: torch.Tensor
    theta: torch.Tensor
    mean: float
    std: float

    def __call__(self, x, t, cond):
        covariance = (self.basis @ self.basis.T).to(x)
        target = cond.values["reward"][0, 0].to(x) * self.std + self.mean
        theta = self.theta.to(x)
        q = theta @ covariance @ theta + NU**2
        along = covariance @ theta
        law = GaussianData.of(self.process, along * target / q, covariance - torch.outer(along, along) / q)
        return law(x, t, None)


def made(labels=1000):
    """Data on a plane of 3 in 8 dimensions, a reward along it, and its exact conditional sampler."""
    draw = SharedRng(0, dtype=DTYPE)
    basis = torch.linalg.qr(draw.normal((8, 3))).Q
    theta = basis @ torch.tensor([2.0, -1.0, 0.5], dtype=DTYPE)
    x = draw.normal((2000, 3)) @ basis.T
    y = x @ theta + NU * draw.normal((2000,))
    mean, std = float(y[:labels].mean()), float(y[:labels].std())
    present = torch.arange(2000) < labels
    standard = torch.where(present, (y - mean) / std, 0.0)[:, None].float()
    facts = {"conditions": {"reward": {"kind": "vector", "mean": [mean], "std": [std]}}}
    data = Dataset(x.float(), {"reward": standard}, {"reward": present}, name="plane", kind="vectors", meta=facts)
    process = Gaussian(LogLinear.edm())
    system = System(
        process,
        Conditional(process, basis, theta, mean, std),
        Denoising(process, EDM(1.0)),
        Heun(Ratio()),
        Identity(),
        Times(Karras(), process.schedule),
        (8,),
        schema={"reward": Vector(1)},
        num_steps=40,
        data={"meta": facts},
    )
    reward = Ridge(8)
    reward.solve(data.data[present], standard[present][:, 0])
    return system, reward, data, theta


@pytest.mark.parametrize("labels", [20, 100, 1000])
def test_the_mean_reward_is_the_closed_form(labels):
    """a (q - nu^2) / q in the file's units, whatever few labels taught the reward model: a linear world extrapolates."""
    system, reward, data, theta = made(labels)
    samples, report = optimize(
        system, reward, [3.0, 10.0], data, num_samples=400, rank=3, true=lambda x: x.double() @ theta, num_steps=40
    )
    q = float(theta @ theta) + NU**2
    for row in report.rows:
        # 4 standard errors of the mean of the conditional law, and the solver's own error
        near = 4 * NU / 400**0.5 + 0.01 * row.target
        assert row.true == pytest.approx(row.target * (q - NU**2) / q, abs=near)
        assert row.off_support < 1e-2
        assert row.predicted == pytest.approx(row.true, abs=0.1 * row.target + 3 * row.error)
    assert report.rows[1].error > report.rows[0].error
    assert samples.shape == (400, 8)
    assert float((samples.double() @ theta).mean()) == pytest.approx(report.rows[1].true)
    assert report.calls == 4 * (2 * 39 + 1)
    assert report.end == 10.0


def test_the_reach_ends_at_the_first_target_that_is_missed():
    system, reward, data, _ = made()
    worth = iter([3.0, 2.0, 6.0, 9.0])  # of what was asked 3, 4, 6, 9: the second falls short by 2, the others do not

    def true(x):
        return torch.full((len(x),), next(worth))

    _, report = optimize(system, reward, [9.0, 3.0, 4.0, 6.0], data, num_samples=20, rank=3, true=true)
    assert [row.target for row in report.rows] == [3.0, 4.0, 6.0, 9.0]
    assert report.end == 3.0
    assert "the data reach to a reward of 3" in report.lines()[-1]
    assert report.to_json()["rows"][1]["true"] == 2.0
    _, none = optimize(system, reward, 3.0, data, num_samples=20, rank=3, true=lambda x: torch.zeros(len(x)))
    assert none.end is None
    assert none.lines()[-1] == "no target was reached"


def test_samples_off_the_plane_end_the_reach_whatever_their_reward():
    system, reward, data, _ = made()
    narrow = Dataset(data.data[:, :], data.conditions, data.present, name="x", kind="vectors", meta=data.meta)
    far = lambda x: torch.full((len(x),), 1e9)  # noqa: E731 - a reward that is never short
    _, inside = optimize(system, reward, 8.0, narrow, num_samples=20, rank=3, true=far, excess=1e9)
    _, outside = optimize(system, reward, 8.0, narrow, num_samples=20, rank=2, true=far)
    assert inside.end == 8.0
    assert outside.end is None  # the plane of 2 leaves a direction out that the reward points along
    assert outside.rows[0].off_support > 1.5 * outside.off_support


def test_gradient_ascent_ends_where_the_model_predicts_the_target():
    _, reward, data, _ = made()
    x = data.data[:5]
    moved = ascend(reward, x, 4.0)
    torch.testing.assert_close(reward(moved), torch.full((5,), 4.0), atol=1e-4, rtol=0.0)
    step = moved - x
    assert float(torch.nn.functional.cosine_similarity(step, reward.theta[None], dim=1).abs().min()) > 0.9999


def test_what_cannot_be_asked_is_refused():
    system, reward, data, _ = made(20)
    with pytest.raises(ValueError, match="at least one target"):
        optimize(system, reward, [], data)
    other = Ridge(8, "profit")
    with pytest.raises(ValueError, match="no condition 'profit'"):
        optimize(system, other, 1.0, data)
