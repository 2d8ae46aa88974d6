"""How much is random. Every diffusion, eta and re-masking rate keeps the marginals, so these need their own formulas."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, gaussian, rng

from condiff.core import Categorical, SharedRng, instant
from condiff.guidance import Classifier, Guided
from condiff.process import VP, Absorbing, Gaussian, LogLinear
from condiff.solvers import Anderson, Proportional

TIMES = (0.2, 0.5, 0.9)


@pytest.mark.parametrize("t", TIMES)
def test_anderson_is_half_the_squared_diffusion_of_the_noising_sde(t):
    """g^2 = beta on VP and d sigma^2 / dt on VE (Song et al. 2021, eq. 9 and 11)."""
    beta = 0.1 + t * 19.9
    low, high = 0.02, 10.0
    ve = 2.0 * math.log(high / low) * (low * (high / low) ** t) ** 2
    for time in (instant(t), torch.tensor([t], dtype=DTYPE)):
        assert float(Anderson()(Gaussian(VP()), time)) == pytest.approx(beta / 2)
        assert float(Anderson(0.3)(Gaussian(VP()), time)) == pytest.approx(0.3 * beta / 2)
        assert float(Anderson()(Gaussian(LogLinear(low, high)), time)) == pytest.approx(ve / 2)
        assert float(Proportional(0.4)(FLOW, time)) == pytest.approx(0.4 * t)


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.0])
def test_the_fresh_noise_of_a_jump_is_that_of_ddim(eta):
    """Song et al. 2021 (DDIM), eq. 16: eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)."""
    schedule, t, s = VP(), 0.7, 0.4
    process = Gaussian(schedule)
    abar_t, abar_s = (schedule(u)[0] ** 2 for u in (t, s))
    spread = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
    x = rng(0, 1).normal((2, 4))
    oracle = gaussian(process)
    for a, b in ((instant(t), instant(s)), (torch.full((2,), t, dtype=DTYPE), torch.full((2,), s, dtype=DTYPE))):
        one, other = (
            process.reverse(x, a, b, oracle(x, a, None), eta=eta, rng=source) for source in (rng(5, 6), rng(7, 8))
        )
        expected = spread * (rng(5, 6).normal((2, 4)) - rng(7, 8).normal((2, 4)))
        torch.testing.assert_close(one - other, expected)


@pytest.mark.parametrize(("eta", "t", "s"), [(0.0, 0.7, 0.4), (0.3, 0.5, 0.2), (1.0, 0.5, 0.2), (1.0, 0.7, 0.6)])
def test_visible_tokens_are_masked_again_as_often_as_asked(eta, t, s):
    """Wang et al. 2025 (ReMDM): rate eta * min(1, s / (1 - t)) of the visible, and the rest follows from the marginal."""
    process, count = Absorbing(2), 20000
    x = torch.tensor([[0, process.mask]]).expand(count, 2)
    est = Categorical(torch.tensor([0.0, -math.inf]).expand(count, 2, 2))
    again = eta * min(1.0, s / (1 - t))
    reveal = ((1 - s) - (1 - again) * (1 - t)) / t
    out = process.reverse(x, instant(t), instant(s), est, eta=eta, rng=SharedRng(3)) == process.mask
    for share, expected in ((out[:, 0], again), (~out[:, 1], reveal)):
        slack = 4 * math.sqrt(expected * (1 - expected) / count)
        assert float(share.double().mean()) == pytest.approx(expected, abs=slack + 1e-12)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
def test_an_energy_counts_in_proportion_to_its_scale(scale):
    oracle, x, t = gaussian(FLOW), rng(0, 1).normal((2, 4)), instant(0.4)
    energy = Classifier(lambda x, t, cond: -0.5 * x.square().sum(1))
    moved = Guided(oracle, FLOW, energy, scale)(x, t, None)
    plain = oracle(x, t, None)
    # grad = -x; data + (sigma^2 / alpha) grad, noise - sigma grad
    torch.testing.assert_close(moved.parts["data"], plain.parts["data"] - scale * 0.16 / 0.6 * x)
    torch.testing.assert_close(moved.parts["noise"], plain.parts["noise"] + scale * 0.4 * x)
