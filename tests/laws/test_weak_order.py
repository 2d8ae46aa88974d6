"""Stochastic solvers, without Monte Carlo: for Gaussian data a step is x A + b + sum_k z_k C_k, and A, b, C_k are read
off by feeding it unit vectors. Mean and covariance then follow exactly, and so does the weak order of convergence."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from laws.cases import BRIDGES, DTYPE, gaussian

from condiff.core import instant
from condiff.oracles import Mixture, MixtureBridge
from condiff.process import VP, Flow, Gaussian, Interpolant, LogLinear, Trig
from condiff.solvers import SDE, Anderson, Bump, Constant, Corrected, Jump, Langevin, Proportional

D = 2
STRETCHES = {
    "VP": (VP(), 0.9, 0.1), "VE": (LogLinear(0.02, 10.0), 0.9, 0.1), "Flow": (Flow(), 0.9, 0.1),
    "Trig": (Trig(), 0.9, 0.1),
}  # fmt: skip


class Fed:
    """Hands out unit vectors instead of noise: draw k is e_i on the rows that belong to (k, i), and 0 elsewhere."""

    def __init__(self, draws):
        self.draws, self.at = draws, 0

    def normal(self, shape):
        noise = torch.zeros(tuple(shape), dtype=DTYPE)
        assert self.at < self.draws, "the step draws more noise than it was fed"
        first = 1 + D + self.at * D
        noise[first : first + D] = torch.eye(D, dtype=DTYPE)
        self.at += 1
        return noise


def moved(process, oracle, solver, mean, cov, t, s, draws=1):
    """Return mean and covariance after one step."""
    x = torch.zeros(1 + D + draws * D, D, dtype=DTYPE)
    x[1 : 1 + D] = torch.eye(D, dtype=DTYPE)
    t, s = instant(t), instant(s)
    out = solver.step(process, lambda x, t: oracle(x, t, None), solver.init(x, t), t, s, Fed(draws)).x
    shift = out[0]
    linear, noises = out[1 : 1 + D] - shift, out[1 + D :] - shift
    return mean @ linear + shift, linear.T @ cov @ linear + noises.T @ noises


def marginal(oracle, t):
    alpha, sigma = oracle.process.schedule(t)
    covariance = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    return alpha * oracle.mean, alpha**2 * covariance + sigma**2 * torch.eye(D, dtype=DTYPE)


def errors(process, solver, start, end, steps):
    oracle = gaussian(process, dims=D)
    mean, cov = marginal(oracle, start)
    grid = torch.linspace(start, end, steps + 1, dtype=DTYPE).tolist()
    for t, s in pairwise(grid):
        mean, cov = moved(process, oracle, solver, mean, cov, t, s)
    true_mean, true_cov = marginal(oracle, end)
    return float((mean - true_mean).norm()), float((cov - true_cov).norm())


@pytest.mark.parametrize("stretch", STRETCHES.values(), ids=STRETCHES)
@pytest.mark.parametrize(
    "solver", [Jump(1.0), Jump(0.5), SDE(Anderson()), SDE(Anderson(0.4)), SDE(Proportional(0.7))],
    ids=["DDPM", "HalfEta", "Anderson", "WeakAnderson", "Proportional"],
)  # fmt: skip
def test_weak_order_is_one(solver, stretch):
    schedule, start, end = stretch
    coarse, fine = (errors(Gaussian(schedule), solver, start, end, steps) for steps in (200, 400))
    for a, b in zip(coarse, fine, strict=True):
        # A mean error of 1e-12 is rounding (VE has nothing to move the mean by).
        assert b < 1e-9 or 0.85 < math.log2(a / b) < 1.2, f"errors {a:.3g}, {b:.3g}"


def stationary(oracle, t, snr):
    """Covariance that x <- x + eps * score + sqrt(2 eps) z keeps: C (1 - eps C^-1 / 2)^-1, eps = (snr sigma)^2."""
    _, cov = marginal(oracle, t)
    eps = (snr * oracle.process.schedule(t)[1]) ** 2
    return cov @ torch.linalg.inv(torch.eye(D, dtype=DTYPE) - 0.5 * eps * torch.linalg.inv(cov))


@pytest.mark.parametrize("solver", [Langevin(2, 0.5), Corrected(Jump(), 2, 0.5)], ids=["Langevin", "Corrected"])
@pytest.mark.parametrize("stretch", STRETCHES.values(), ids=STRETCHES)
def test_langevin_settles_at_its_stationary_law(solver, stretch):
    schedule, s = stretch[0], 0.6
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=D)
    wrong = 2.0 * torch.eye(D, dtype=DTYPE)
    mean, cov = moved(process, oracle, solver, torch.ones(D, dtype=DTYPE), wrong, 0.7, s, draws=2)
    for _ in range(300):  # held at one level: the slowest direction loses 4 % a correction
        mean, cov = moved(process, oracle, solver, mean, cov, s, s, draws=2)
    torch.testing.assert_close(mean, marginal(oracle, s)[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(cov, stationary(oracle, s, 0.5), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Flow(), Trig()], ids=["Flow", "Trig"])
def test_langevin_rescales_to_the_level_of_unit_data(schedule):
    """Between levels the state is scaled by the ratio of sqrt(alpha^2 + sigma^2); one correction follows there."""
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=D)
    t, s, snr = 0.7, 0.4, 0.2
    _, cov = moved(process, oracle, Langevin(1, snr), torch.zeros(D, dtype=DTYPE), torch.eye(D, dtype=DTYPE), t, s)
    norm_t, norm_s = (math.hypot(*schedule(u)) for u in (t, s))
    eps, inverse = (snr * schedule(s)[1]) ** 2, torch.linalg.inv(marginal(oracle, s)[1])
    step = torch.eye(D, dtype=DTYPE) - eps * inverse
    expected = (norm_s / norm_t) ** 2 * step @ step.T + 2 * eps * torch.eye(D, dtype=DTYPE)
    torch.testing.assert_close(cov, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_single_point_is_sampled_exactly_at_any_eta(eta):
    """For data at one point every estimate is exact, so each jump keeps the marginal to rounding, however long."""
    oracle = gaussian(Gaussian(VP()), dims=D)
    point = type(oracle)(oracle.process, oracle.mean, oracle.basis, torch.zeros(D, dtype=DTYPE))
    mean, cov = marginal(point, 0.9)
    for t, s in ((0.9, 0.5), (0.5, 0.1)):
        mean, cov = moved(point.process, point, Jump(eta), mean, cov, t, s)
    true_mean, true_cov = marginal(point, 0.1)
    torch.testing.assert_close(mean, true_mean)
    torch.testing.assert_close(cov, true_cov)


@pytest.mark.parametrize("diffusion", [Constant(0.4), Proportional(0.7), Bump(0.5)], ids=repr)
@pytest.mark.parametrize("name", ["Straight", "Trigonometric", "EncodingDecoding"])
def test_weak_order_on_bridges_is_one(name, diffusion):
    """Between two Gaussians every field is affine: mean and covariance of the SDE's states tend to the exact ones."""
    process = Interpolant(BRIDGES[name])
    data = Mixture(torch.ones(1), torch.tensor([[1.0, -0.5]]).double(), torch.tensor([[0.3, 0.6]]).double())
    source = Mixture(torch.ones(1), torch.tensor([[-0.4, 0.8]]).double(), torch.tensor([[0.5, 0.2]]).double())
    oracle = MixtureBridge(process, data, source)

    def exact(t):
        alpha, beta, gamma = process.bridge(t)
        variance = alpha**2 * data.variances[0] + beta**2 * source.variances[0] + gamma**2
        return alpha * data.means[0] + beta * source.means[0], torch.diag(variance)

    found = []
    for steps in (100, 200):
        mean, cov = exact(0.9)
        for t, s in pairwise(torch.linspace(0.9, 0.2, steps + 1, dtype=DTYPE).tolist()):
            mean, cov = moved(process, oracle, SDE(diffusion), mean, cov, t, s)
        found.append([float((a - b).norm()) for a, b in zip((mean, cov), exact(0.2), strict=True)])
    for coarse, fine in zip(*found, strict=True):
        # The mean of a straight bridge is straight: Euler follows it to rounding.
        assert fine < 1e-12 or 0.8 < math.log2(coarse / fine) < 1.25, found
