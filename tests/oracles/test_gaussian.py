"""Exact maps of whole Gaussians: sampling is linear there, so no Monte Carlo is needed."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, SCHEDULES, gaussian, mixture, rng

from condiff.core import log_likelihood, trajectory
from condiff.oracles import GaussianData
from condiff.process import VP, Cosine, Flow, FlowClock, Gaussian, LogLinear, Trig
from condiff.solvers import Adams, Heun, Multistep, UniPC

SETTINGS = {"Flow": (Flow(), 1.0, 0.0), "Trig": (Trig(), 1.0, 0.0), "Cosine": (Cosine(), 1.0, 0.0),
            "VP": (VP(), 1.0, 1e-3), "EDM": (LogLinear.edm(), 1.0, 0.0)}  # fmt: skip


@pytest.mark.parametrize("solver", [Adams(2), Adams(3), Heun(FlowClock()), Multistep(2), UniPC()],
                         ids=["AB2", "AB3", "Heun", "2M", "UniPC"])  # fmt: skip
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_map_from_noise_to_data_is_the_exact_one(setting, solver):
    schedule, start, end = setting
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=3)
    x = torch.cat([torch.zeros(1, 3, dtype=DTYPE), schedule(start)[1] * torch.eye(3, dtype=DTYPE)])
    # Equal steps in flow time, where the field is smooth at both ends of every schedule.
    taus = torch.linspace(process.flow_frame(torch.tensor(start))[1], process.flow_frame(torch.tensor(end))[1], 301)
    grid = torch.stack([process.flow_time(float(tau)) for tau in taus])
    grid[0], grid[-1] = start, end
    for state in trajectory(process, oracle, solver, x, grid, rng=rng(*range(4))):
        made = state.x
    exact = oracle.flow(x, grid[0], grid[-1])
    torch.testing.assert_close(made, exact, atol=2e-3, rtol=2e-3)
    if end == 0.0 and schedule(1.0)[0] == 0.0:  # the linear part squared is the covariance of the samples
        matrix = made[1:] - made[0]
        covariance = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
        torch.testing.assert_close(matrix.T @ matrix, covariance, atol=4e-3, rtol=4e-3)
        torch.testing.assert_close(made[0], oracle.mean, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_estimate_is_the_score_of_the_density(schedule):
    """Tweedie: noise = -sigma * d log p / dx; one letter wrong in either closed form breaks it."""
    process = Gaussian(schedule)
    t = torch.tensor([0.15, 0.6], dtype=DTYPE)
    for oracle, dims in ((gaussian(process), 4), (mixture(process, None), 2)):
        x = rng(0, 1).normal((2, dims)).requires_grad_()
        (score,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
        sigma = schedule(t)[1].unsqueeze(1)
        torch.testing.assert_close(oracle(x, t, None).parts["noise"], -sigma * score, atol=1e-9, rtol=1e-9)


def test_a_density_is_that_of_torch():
    process = Gaussian(Flow())
    oracle, x = gaussian(process), rng(0, 1).normal((2, 4))
    covariance = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    eye = torch.eye(4, dtype=DTYPE)
    law = torch.distributions.MultivariateNormal(0.6 * oracle.mean, 0.36 * covariance + 0.16 * eye)
    torch.testing.assert_close(oracle.log_density(x, torch.tensor(0.4, dtype=DTYPE)), law.log_prob(x))
    thin = GaussianData(process, oracle.mean, oracle.basis[:, :2], oracle.variances[:2])
    kept = thin.basis @ torch.diag(thin.variances) @ thin.basis.T
    law = torch.distributions.MultivariateNormal(0.6 * oracle.mean, 0.36 * kept + 0.16 * eye)
    torch.testing.assert_close(thin.log_density(x, torch.tensor(0.4, dtype=DTYPE)), law.log_prob(x))


def test_fit_measures_mean_and_covariance():
    data = rng(*range(40)).normal((40, 2, 2)) @ torch.tensor([[1.0, 0.4], [0.0, 0.3]], dtype=DTYPE)
    fitted = GaussianData.fit(Gaussian(Flow()), data)
    torch.testing.assert_close(fitted.mean, data.mean(0))
    covariance = fitted.basis @ torch.diag(fitted.variances) @ fitted.basis.T
    torch.testing.assert_close(covariance, torch.cov(data.flatten(1).T, correction=0))


def test_samples_come_from_the_fitted_law():
    oracle = gaussian(Gaussian(Flow()), dims=2)
    drawn = oracle.sample(4000, rng=rng(*range(4000)))
    exact = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    torch.testing.assert_close(torch.cov(drawn.T), exact, atol=6 * float(exact.max()) / 4000**0.5, rtol=0.0)
    two = mixture(Gaussian(Flow()), None)
    share = float((two.sample(4000, rng=rng(*range(4000)))[:, 0] < 0).double().mean())
    phi = torch.distributions.Normal(0.0, 1.0).cdf
    exact_share = float(0.3 * phi(torch.tensor(1 / 0.3)) + 0.7 * phi(torch.tensor(-1 / 0.5)))
    assert share == pytest.approx(exact_share, abs=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("schedule", [Flow(), Trig(), Cosine(), VP(), LogLinear(0.002, 80.0)],
                         ids=["Flow", "Trig", "Cosine", "VP", "EDM"])  # fmt: skip
def test_a_likelihood_is_the_prior_carried_along_the_exact_flow(schedule):
    """The model's own density, its prior's mismatch included: log N(x_1; 0, sigma_1^2) + log |dx_1 / dx_0|."""
    process = Gaussian(schedule)
    oracle = gaussian(process)
    data = oracle.sample(4, rng=rng(*range(4)))
    zero, one = torch.tensor(0.0, dtype=DTYPE), torch.tensor(1.0, dtype=DTYPE)
    (a0, s0), (a1, s1) = schedule(0.0), schedule(1.0)
    stretch = ((s1**2 + a1**2 * oracle.variances) / (s0**2 + a0**2 * oracle.variances)).log().sum() / 2
    end = oracle.flow(data, zero, one)
    exact = -0.5 * (end / s1).square().sum(1) - 4 * math.log(s1 * math.sqrt(2 * math.pi)) + stretch
    measured = log_likelihood(process, oracle, data, num_steps=60)
    assert float((measured - exact).abs().max()) / 4 < 1e-3


@pytest.mark.parametrize("steps", [20, 40])
def test_a_likelihood_converges_with_the_square_of_the_steps(steps):
    oracle = gaussian(Gaussian(Flow()))
    data = oracle.sample(4, rng=rng(*range(4)))
    exact = oracle.log_density(data, torch.tensor(0.0, dtype=DTYPE))
    coarse, fine = (
        float((log_likelihood(oracle.process, oracle, data, num_steps=n) - exact).abs().max())
        for n in (steps, 2 * steps)
    )
    assert 1.7 < math.log2(coarse / fine) < 2.4


def test_oracles_are_checked():
    process = Gaussian(Flow())
    with pytest.raises(ValueError, match="basis"):
        GaussianData(process, torch.zeros(3), torch.eye(2), torch.ones(2))
    with pytest.raises(ValueError, match="variances >= 0"):
        GaussianData(process, torch.zeros(2), torch.eye(2), -torch.ones(2))
    with pytest.raises(ValueError, match="times of shape"):
        gaussian(process)(torch.zeros(2, 4, dtype=DTYPE), torch.zeros(2, 4), None)
