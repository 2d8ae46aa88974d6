"""Guidance by a linear reward is Bayes' rule for Gaussian data; two near misses are told from it."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, rng

from condiff.core import RowRng, instant, trajectory
from condiff.guidance import Guided, LinearReward
from condiff.oracles import GaussianData
from condiff.process import VP, Flow, FlowClock, Gaussian
from condiff.solvers import Adams

D, K, NOISE, TARGET = 8, 3, 0.3, 4.0


def setting(schedule):
    """Data on a 3-dimensional subspace of 8, a reward along it, and the exact conditional law."""
    process = Gaussian(schedule)
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(D, K, generator=generator, dtype=DTYPE)).Q
    variances = torch.tensor([2.0, 1.0, 0.3], dtype=DTYPE)
    mean = torch.zeros(D, dtype=DTYPE)
    data = GaussianData(process, mean, basis, variances)
    theta = basis @ torch.tensor([1.0, -0.7, 0.5], dtype=DTYPE)
    covariance = basis @ torch.diag(variances) @ basis.T
    return process, data, theta, covariance


def conditional(process, theta, covariance, target=TARGET):
    """x | y = target ~ N(S theta a / q, S - S theta theta^T S / q), q = theta^T S theta + noise^2."""
    q = theta @ covariance @ theta + NOISE**2
    along = covariance @ theta
    return GaussianData.of(process, along * target / q, covariance - torch.outer(along, along) / q), float(q)


def score(est, sigma):
    return -est.parts["noise"] / sigma


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("schedule", [VP(1e-9, 2.0), VP(), Flow()], ids=["OU-like", "VP", "Flow"])
def test_unconditional_score_and_exact_guidance_are_the_conditional_score(schedule, t):
    process, data, theta, covariance = setting(schedule)
    exact, _ = conditional(process, theta, covariance)
    alpha, sigma = schedule(t)
    x = rng(*range(50)).normal((50, D))
    x = alpha * data.sample(50, rng=rng(*range(50, 100))) + sigma * x
    energy = LinearReward(process, theta, TARGET, NOISE)
    guided = score(Guided(data, process, energy)(x, instant(t), None), sigma)
    wanted = score(exact(x, instant(t), None), sigma)
    # 4e-15 of the scores' size; at t = 0.1 the two parts, each of the size of 1 / sigma^2 = 100, leave more rounding
    assert float((guided - wanted).norm() / wanted.norm()) < (4e-15 if t > 0.1 else 2e-14)
    # the reward's part alone, so that the large common part of both scores hides nothing
    part = wanted - score(data(x, instant(t), None), sigma)
    assert float((guided - wanted).norm() / part.norm()) < 1e-12


def wrong(process, data, theta, x, t, *, spread, noisy):
    """The two near misses: no covariance term, and the reward read off the noisy state."""

    class Energy:
        def __call__(self, x, time, est, cond):
            reward = (x if noisy else est.parts["data"]) @ theta
            return -0.5 * (TARGET - reward).square() / (NOISE**2 + spread)

    return Guided(data, process, Energy())(x, instant(t), None)


def test_without_the_covariance_term_the_pull_is_far_too_strong():
    process, data, theta, covariance = setting(VP())
    t = 0.5
    alpha, sigma = process.schedule(t)
    x = alpha * data.sample(200, rng=rng(*range(200))) + sigma * rng(*range(200, 400)).normal((200, D))
    exact, _ = conditional(process, theta, covariance)
    base = score(data(x, instant(t), None), sigma)
    part = score(exact(x, instant(t), None), sigma) - base
    bare = score(wrong(process, data, theta, x, t, spread=0.0, noisy=False), sigma) - base
    assert float((bare - part).norm() / part.norm()) > 1.0
    # the same direction: only the size is wrong
    assert float(torch.nn.functional.cosine_similarity(bare, part, dim=1).abs().min()) == pytest.approx(1.0, abs=1e-9)


def test_a_reward_on_the_noisy_state_points_off_the_subspace():
    """theta with a part off the data's subspace: the data never show it, the noisy state does."""
    process, data, theta, covariance = setting(VP())
    off = torch.linalg.qr(torch.cat([data.basis, torch.eye(D, dtype=DTYPE)], 1)).Q[:, K]
    theta = theta + 2.0 * off
    t = 0.5
    alpha, sigma = process.schedule(t)
    x = alpha * data.sample(200, rng=rng(*range(200))) + sigma * rng(*range(200, 400)).normal((200, D))
    exact, _ = conditional(process, theta, covariance)
    base = score(data(x, instant(t), None), sigma)

    def outside(part):
        return float((part - (part @ data.basis) @ data.basis.T).square().sum() / part.square().sum()) ** 0.5

    part = score(exact(x, instant(t), None), sigma) - base
    noisy = score(wrong(process, data, theta, x, t, spread=0.0, noisy=True), sigma) - base
    ours = score(Guided(data, process, LinearReward(process, theta, TARGET, NOISE))(x, instant(t), None), sigma) - base
    assert outside(part) < 1e-12
    assert outside(ours) < 1e-12
    assert outside(noisy) > 0.6
    assert float((noisy - part).norm() / part.norm()) > 1.0


def test_guided_sampling_reaches_the_closed_form_reward_on_the_subspace():
    """Mean reward a (q - noise^2) / q, spread and off-support norm those of the conditional law, by linear maps."""
    process, data, theta, covariance = setting(Flow())
    _, q = conditional(process, theta, covariance)
    guided = Guided(data, process, LinearReward(process, theta, TARGET, NOISE))
    x = torch.cat([torch.zeros(1, D, dtype=DTYPE), torch.eye(D, dtype=DTYPE)])
    grid = torch.linspace(1.0, 0.0, 201, dtype=DTYPE)
    states = trajectory(process, guided, Adams(3, FlowClock()), x, grid, rng=RowRng(0, range(D + 1), dtype=DTYPE))
    ends = list(states)[-1].x
    reward = ends[0] @ theta  # of the start 0, which is the mean of the samples
    assert float(reward) == pytest.approx(TARGET * (q - NOISE**2) / q, abs=1e-3)
    matrix = ends[1:] - ends[0]
    spread = theta @ (matrix.T @ matrix) @ theta
    assert float(spread) == pytest.approx((q - NOISE**2) * NOISE**2 / q, rel=1e-2)
    outside = ends - (ends @ data.basis) @ data.basis.T
    assert float(outside.abs().max()) < 1e-12


def test_the_pure_noise_end_is_left_alone():
    process, data, theta, _ = setting(Flow())
    x = rng(0, 1).normal((2, D))
    guided = Guided(data, process, LinearReward(process, theta, TARGET, NOISE))
    for t in (instant(1.0), torch.ones(2, dtype=DTYPE)):
        torch.testing.assert_close(guided(x, t, None).parts["data"], data(x, t, None).parts["data"])


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="noise > 0"):
        LinearReward(Gaussian(Flow()), torch.ones(2), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"theta \(D,\)"):
        LinearReward(Gaussian(Flow()), torch.ones(2, 2), 1.0, 0.1)
