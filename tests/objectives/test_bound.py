"""The variational view: every term of the bound against numerical or closed-form divergences, and the learned variance."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, Linear, gaussian, labels, rng

from condiff.core import Moments, RowRng, instant, log_likelihood, trajectory
from condiff.objectives import Bound, Denoising, Hybrid, step_divergence
from condiff.oracles import GaussianData
from condiff.process import (
    VP,
    Flow,
    Gaussian,
    LearnedVariance,
    LogLinear,
    LogSNR,
    Noise,
    Preconditioned,
    Student,
    Table,
    Uniform,
    VarianceHead,
)  # fmt: skip
from condiff.solvers import Jump

PATHS = {"VP": VP(), "Flow": Flow(), "VE": LogLinear.ve(), "DDPM": Table.linear()}
COUNT = 6
DATA = rng(*range(COUNT)).normal((COUNT, 2))


def source(seed=1):
    return rng(*range(COUNT), seed=seed)


def row(value):
    return torch.full((COUNT,), value, dtype=DTYPE)


def posterior(process, x, data, t, s):
    """Mean and variance of q(x_s | x_t, data) by the product of two Gaussians, with none of the package's formulas."""
    (a_t, s_t), (a_s, s_s) = process.schedule(t), process.schedule(s)
    ratio = a_t / a_s
    step = s_t**2 - ratio**2 * s_s**2
    precision = 1.0 / s_s**2 + ratio**2 / step
    return (a_s * data / s_s**2 + ratio * x / step) / precision, 1.0 / precision, step


def numerical(mean, var, other, other_var):
    """KL of two normals by the midpoint rule over 14 standard deviations."""
    std = var**0.5
    z = torch.linspace(-14.0, 14.0, 40001, dtype=DTYPE)
    log_p = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - math.log(std)
    y = mean + std * z
    log_q = -0.5 * (y - other) ** 2 / other_var - 0.5 * math.log(2 * math.pi * other_var)
    return float((log_p.exp() * (log_p - log_q)).sum() * (z[1] - z[0]) * std)


@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)
def test_per_step_divergence_is_that_of_two_gaussians_numerically(schedule, share):
    process, t, s = Gaussian(schedule), 0.61, 0.42
    draw = process.draw(DATA, row(t), rng=source())
    guess = DATA + 0.1
    aux = {} if share is None else {"variance": torch.full_like(DATA, share)}
    est = process.complete(draw.x, row(t), guess, aux)
    found = step_divergence(process, draw, est, row(s))
    x = draw.x[0, 0].item()
    mean, var, step = posterior(process, x, DATA[0, 0].item(), t, s)
    other, _, _ = posterior(process, x, guess[0, 0].item(), t, s)
    model = var if share is None else math.exp(share * math.log(step) + (1 - share) * math.log(var))
    assert float(found[0, 0]) == pytest.approx(numerical(mean, var, other, model), rel=1e-6, abs=1e-9)
    if share is None:
        (a_t, s_t), (a_s, s_s) = schedule(t), schedule(s)
        snr = 0.5 * ((a_s / s_s) ** 2 - (a_t / s_t) ** 2) * 0.01
        torch.testing.assert_close(found, torch.full_like(DATA, snr), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)
def test_the_eta_one_step_has_the_mean_and_variance_of_the_ddpm_posterior(schedule):
    """Mean by no noise, standard deviation by unit noise: both to rounding."""
    process, t, s = Gaussian(schedule), 0.61, 0.42
    x = process.draw(DATA, instant(t), rng=source()).x
    est = process.complete(x, instant(t), DATA)

    class Constant:
        def __init__(self, value):
            self.value = value

        def normal(self, shape):
            return torch.full(tuple(shape), self.value, dtype=DTYPE)

    quiet, loud = (process.reverse(x, instant(t), instant(s), est, eta=1.0, rng=Constant(v)) for v in (0.0, 1.0))
    mean, var, _ = posterior(process, x, DATA, t, s)
    torch.testing.assert_close(quiet, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((loud - quiet) ** 2, torch.full_like(x, var), rtol=1e-10, atol=1e-14)


def test_the_continuous_divergence_is_the_noise_error_per_log_snr():
    """-dSNR/dt / 2 |data error|^2 = |noise error|^2 |dlambda/dt|, lambda = log(alpha / sigma)."""
    process, t, h = Gaussian(VP()), 0.5, 1e-6
    draw = process.draw(DATA, row(t), rng=source())
    est = process.complete(draw.x, row(t), DATA + 0.1)
    rate = step_divergence(process, draw, est, row(t - h)) / h
    (a, s), (a2, s2) = process.schedule(t), process.schedule(t - h)
    pace = (math.log(a2 / s2) - math.log(a / s)) / h
    error = (est.parts["noise"] - draw.latents["noise"]).square()
    torch.testing.assert_close(rate, error * pace, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("schedule", [VP(), Flow()], ids=["VP", "Flow"])
def test_the_bound_is_above_the_exact_likelihood_and_tightens(schedule):
    """With the exact denoiser of Gaussian data the bound in expectation is their entropy, from above, as steps grow."""
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)
    many = 400
    data = oracle.sample(many, rng=rng(*range(many)))
    exact = float(-oracle.log_density(data, torch.tensor(0.0, dtype=DTYPE)).mean()) / 2
    gaps = []
    for steps in (10, 40, 160):
        bound = Bound(process, steps, LogSNR(kappa_min=0.01))
        gaps.append(float(bound.measure(oracle, data, None, rng=RowRng(5, range(many), dtype=DTYPE)).mean()) - exact)
    # First order in the step, and 2 % for the noise of 400 rows.
    assert gaps[0] > gaps[1] > gaps[2] > -0.02, gaps
    assert gaps[2] < 0.1 * gaps[0] + 0.02, gaps


def test_one_random_step_is_unbiased():
    process = Gaussian(VP())
    oracle = gaussian(process, dims=2)
    many = 4000
    data = oracle.sample(1, rng=rng(0)).expand(many, 2)
    bound = Bound(process, 20, Uniform(end=0.05))
    rows = bound(oracle, data, None, rng=rng(*range(many))).rows
    whole = bound.measure(oracle, data, None, rng=rng(*range(many), seed=2)).mean()
    assert float(rows.mean()) == pytest.approx(float(whole), abs=4 * float(rows.std()) / many**0.5)


def test_the_flow_and_the_bound_measure_the_same_density():
    """Likelihood by the bound and by the flow: nats a dimension of the same Gaussian."""
    process = Gaussian(VP())
    oracle = gaussian(process, dims=2)
    many = 200
    data = oracle.sample(many, rng=rng(*range(many)))
    flow = -float(log_likelihood(process, oracle, data, num_steps=40).mean()) / 2
    bound = Bound(process, 200).measure(oracle, data, None, rng=rng(*range(many), seed=3))
    # 200 steps cost about 0.14 nats; the law of large numbers 0.03.
    assert flow - 0.03 < float(bound.mean()) < flow + 0.2


def test_the_ends_of_the_bound():
    """KL of N(alpha d, sigma^2) to N(0, sigma^2), and the entropy of a Gaussian decoder."""
    process = Gaussian(Table.linear())
    bound = Bound(process, 10, Uniform(end=1e-2))
    alpha, sigma = process.schedule(1.0)
    expected = numerical(alpha * float(DATA[0, 0]), sigma**2, 0.0, sigma**2)
    expected += numerical(alpha * float(DATA[0, 1]), sigma**2, 0.0, sigma**2)
    assert float(bound.prior(DATA)[0]) == pytest.approx(expected / 2, rel=1e-4, abs=1e-10)
    alpha, sigma = process.schedule(1e-2)
    law = torch.distributions.Normal(torch.tensor(0.0, dtype=DTYPE), torch.tensor(sigma / alpha, dtype=DTYPE))
    assert bound.reconstruction() == pytest.approx(float(law.entropy()))


def net(seed=0):
    made = Preconditioned(VarianceHead(Linear(2, 4, seed)), FLOW, Noise())
    return made


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_learned_step_draws_with_the_variance_it_learned(share):
    t, s = 0.7, 0.4
    x = FLOW.draw(DATA, instant(t), rng=source()).x
    process = LearnedVariance(FLOW)

    def step(aux, made=process, **kw):
        est = FLOW.complete(x, instant(t), DATA, aux)
        return made.reverse(x, instant(t), instant(s), est, eta=1.0, rng=source(4))

    mean, var, noising = posterior(FLOW, x, DATA, t, s)
    made = step({"variance": torch.full_like(x, share)})
    expected = math.exp(0.5 * (share * math.log(noising) + (1 - share) * math.log(var)))
    torch.testing.assert_close(made - mean, expected * source(4).normal(x.shape), rtol=1e-9, atol=1e-12)
    if share == 0.0:
        torch.testing.assert_close(made, step({}, FLOW))
    with pytest.raises(KeyError, match="VarianceHead"):
        step({})


def test_learned_variance_samples_down_to_the_data():
    grid = torch.linspace(0.9, 0.0, 5, dtype=DTYPE)
    for state in trajectory(
        LearnedVariance(FLOW), net(), Jump(1.0), DATA, grid, cond=labels(*[0] * COUNT), rng=source()
    ):
        end = state.x
    assert bool(torch.isfinite(end).all())


def test_the_hybrid_trains_the_mean_by_the_simple_loss_only():
    simple, bound = Denoising(FLOW, Noise()), Bound(FLOW, 50)
    cond, made, alone = labels(*[0] * COUNT), net(), net()
    draw = bound.corrupt(DATA, rng=source())
    Hybrid(simple, bound)(made, DATA, cond, rng=source(), draw=draw).total().backward()
    simple(alone, DATA, cond, rng=source(), draw=draw).total().backward()
    # The class table writes straight into the outputs: its first half is the mean, its second the variance.
    hybrid, plain = (m.net.net.c.weight.grad for m in (made, alone))
    torch.testing.assert_close(hybrid[:, :2], plain[:, :2])
    assert float(plain[:, 2:].abs().max()) == 0.0
    assert float(hybrid[0, 2:].abs().max()) > 0.0


def test_the_best_variance_for_a_gaussian_is_learned():
    """For one Gaussian the exact reverse variance is known; the bound is least there and nowhere else."""
    process, t, s = Gaussian(VP()), 0.6, 0.3
    spread = 0.5
    oracle = GaussianData(
        process, torch.zeros(1, dtype=DTYPE), torch.eye(1, dtype=DTYPE), torch.tensor([spread]).double()
    )
    many = 20000
    data = oracle.sample(many, rng=rng(*range(many)))
    times = torch.full((many,), t, dtype=DTYPE)
    draw = process.draw(data, times, rng=rng(*range(many), seed=1))
    est = oracle(draw.x, times, None)
    (a_t, s_t), (a_s, s_s) = process.schedule(t), process.schedule(s)
    kept = (a_t * s_s / (a_s * s_t)) ** 2
    least = s_s**2 * (1 - kept)
    # Var(x_s | x_t) = posterior variance + c^2 Var(data | x_t)
    truth = least + (a_s * (1 - kept)) ** 2 * spread * s_t**2 / (a_t**2 * spread + s_t**2)
    best = math.log(truth / least) / math.log(s_t**2 / s_s**2)

    def error(share):
        told = Moments(est.parts, {"variance": torch.full_like(data, share)})
        return float(step_divergence(process, draw, told, torch.full_like(times, s)).mean())

    assert 0.05 < best < 0.95
    assert error(best) < min(error(best - 0.05), error(best + 0.05))


def test_a_bound_needs_noise_at_its_end_and_a_normal_law():
    nodes = Bound(FLOW, 10, Uniform()).nodes()
    assert (len(nodes), float(nodes[0]), float(nodes[-1])) == (10, 1.0, pytest.approx(0.1))
    with pytest.raises(ValueError, match="num_steps >= 2"):
        Bound(FLOW, 1, Uniform())
    with pytest.raises(TypeError, match="Normal"):
        Bound(Gaussian(Flow(), Student(4.0)), 10)
