"""Absorbing diffusion reproduces an enumerated joint; likelihoods equal closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws.cases import DTYPE, FLOW, gaussian, rng

from condiff.core import RowRng, log_likelihood, sample
from condiff.core.shapes import instant
from condiff.oracles import DataSetIdeal, TokenTable
from condiff.process import VP, Absorbing, Cosine, Flow, Gaussian, LogLinear, Student, Trig
from condiff.solvers import Jump

PROCESS = Absorbing(3)
SEQUENCES = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 1, 1], [0, 2, 2]])
P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=DTYPE)


@pytest.mark.parametrize("eta", [0.0, 0.3], ids=["ancestral", "remasking"])
def test_the_joint_is_reproduced(eta):
    count, steps = 3000, 64
    x = sample(
        PROCESS, TokenTable(PROCESS, SEQUENCES, P), Jump(eta), (count, 3), torch.linspace(1, 0, steps + 1),
        rng=RowRng(0, range(count)),
    )  # fmt: skip
    hits = (x.unsqueeze(1) == SEQUENCES).all(-1)
    share = hits.double().mean(0)
    # Two positions revealed in one step are drawn independently: a deviation of order 1 / steps besides the noise.
    torch.testing.assert_close(share, P, atol=4 * 0.5 / count**0.5 + 3 / steps, rtol=0.0)
    assert not bool((x == PROCESS.mask).any())
    assert float(hits.any(1).double().mean()) > 1 - 6 / steps


def test_marginals_of_the_reverse_step():
    """From t to s with the true token known, a position is masked with probability s, whatever eta."""
    data = torch.zeros(4000, 2, dtype=torch.int64)
    for eta in (0.0, 1.0):
        source = RowRng(1, range(4000))
        draw = PROCESS.draw(data, torch.tensor(0.7), rng=source)
        logits = torch.full((4000, 2, 3), -math.inf)
        logits[..., 0] = 0.0
        from condiff.core import Categorical

        x = PROCESS.reverse(draw.x, instant(0.7), instant(0.4), Categorical(logits), eta=eta, rng=source)
        masked = float((x == PROCESS.mask).double().mean())
        assert masked == pytest.approx(0.4, abs=4 * (0.24 / 8000) ** 0.5)


def test_time_runs_up_by_masking_more():
    data = torch.zeros(4000, 2, dtype=torch.int64)
    source = RowRng(2, range(4000))
    from condiff.core import Categorical

    x = PROCESS.draw(data, torch.tensor(0.2), rng=source).x
    up = PROCESS.reverse(x, instant(0.2), instant(0.6), Categorical(torch.zeros(4000, 2, 3)), eta=0.0, rng=source)
    assert bool((up[x == PROCESS.mask] == PROCESS.mask).all())
    assert float((up == PROCESS.mask).double().mean()) == pytest.approx(0.6, abs=4 * (0.24 / 8000) ** 0.5)


def test_table_posterior_by_hand():
    est = TokenTable(PROCESS, SEQUENCES, P)(torch.tensor([[0, 3, 3]]), torch.tensor(0.5), None)
    # Sequences that begin with 0: (0, 1, 2) of 0.4 and (0, 2, 2) of 0.1.
    torch.testing.assert_close(est.logits.exp()[0, 1], torch.tensor([0.0, 0.8, 0.2], dtype=DTYPE))
    torch.testing.assert_close(est.logits.exp()[0, 0], torch.tensor([1.0, 0.0, 0.0], dtype=DTYPE))


def test_categorical_draws_reach_the_tail_and_skip_the_impossible():
    """A category of probability 1e-6 is drawn about as often as it should be: a float32 Gumbel race would lose it."""
    count = 2_000_000
    logits = torch.tensor([0.0, math.log(1e-5), -math.inf]).expand(count, 3)
    from condiff.core import SharedRng

    drawn = torch.bincount(SharedRng(0).categorical(logits), minlength=3)
    assert int(drawn[2]) == 0
    assert abs(int(drawn[1]) - 20) < 4 * 20**0.5


@pytest.mark.parametrize("schedule", [Flow(), Trig(), Cosine(), VP(), LogLinear(0.002, 80.0)],
                         ids=["Flow", "Trig", "Cosine", "VP", "EDM"])  # fmt: skip
def test_log_likelihood_equals_the_closed_form(schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process)
    if schedule(1.0)[0] > 0.0:
        # The prior is sigma(1) * noise: what is left of the mean there (0.0066 of it on VP, 1/80 of sigma on EDM) is an
        # error of the model, not of the integration, so these two are tested on centred data.
        oracle = replace(oracle, mean=torch.zeros_like(oracle.mean))
    covariance = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    data = oracle.sample(4, rng=rng(*range(4)))
    exact = torch.distributions.MultivariateNormal(oracle.mean, covariance).log_prob(data)
    measured = log_likelihood(process, oracle, data, num_steps=60)
    assert float((measured - exact).abs().max()) / 4 < 1e-3


def test_hutchinson_is_unbiased():
    oracle = gaussian(FLOW)
    data = oracle.sample(1, rng=rng(0)).expand(400, 4)
    exact = float(log_likelihood(FLOW, oracle, data[:1], num_steps=20))
    guess = log_likelihood(FLOW, oracle, data, num_steps=20, rng=RowRng(0, range(400), dtype=DTYPE))
    assert float(guess.mean()) == pytest.approx(exact, abs=4 * float(guess.std()) / 20)


def test_a_likelihood_needs_normal_noise():
    process = Gaussian(Flow(), Student(5.0))
    with pytest.raises(TypeError, match="Normal"):
        log_likelihood(process, lambda x, t, cond: process.complete(x, t, x), torch.zeros(1, 2), num_steps=2)


def test_ideal_denoiser_of_two_points_is_their_posterior_mean():
    points = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=DTYPE)
    ideal = DataSetIdeal(FLOW, points, "label", torch.tensor([0, 1]))
    x = torch.tensor([[0.3, 0.1]], dtype=DTYPE)
    log_w = -(x - 0.5 * points).square().sum(1) / (2 * 0.25)
    expected = torch.softmax(log_w, 0) @ points
    torch.testing.assert_close(ideal(x, torch.tensor(0.5), None).parts["data"][0], expected)
    from laws.cases import labels

    torch.testing.assert_close(ideal(x, torch.tensor(0.5), labels(1)).parts["data"][0], points[1])
    torch.testing.assert_close(ideal(x, torch.tensor(0.5), labels(1).null()).parts["data"][0], expected)
