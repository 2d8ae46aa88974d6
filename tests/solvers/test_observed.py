"""Self-guidance against the closed-form posterior of a Gaussian series, its stability bound, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from laws.cases import DTYPE, Linear

from condiff.core import RowRng, instant, trajectory
from condiff.core.drivers import sample as run
from condiff.core.estimate import Moments
from condiff.core.shapes import shared
from condiff.guidance import FLAGS, LEVEL, OBSERVED, Guided, Pinball, SquaredError
from condiff.oracles import GaussianData
from condiff.process import Gaussian, Noise, Preconditioned, Table, Uniform
from condiff.solvers import Jump, SelfGuided

PROCESS = Gaussian(Table.linear(100, 1e-4, 0.1))
GRID = Uniform()(PROCESS.schedule, 100)
LENGTH, SEEN, RHO = 24, 16, 0.9


def covariance(length, rho=RHO):
    step = torch.arange(length, dtype=DTYPE)
    return rho ** (step[:, None] - step).abs()


@dataclass(frozen=True)
class Handing:
    """A denoiser that hands on what is observed, as `nn.Observing` makes a network do."""

    denoiser: object
    observed: torch.Tensor
    flags: torch.Tensor
    level: torch.Tensor | None = None

    def __call__(self, x, t, cond):
        est = self.denoiser(x, t, cond)
        aux = {OBSERVED: self.observed.expand_as(x), FLAGS: self.flags.expand_as(x)}
        if self.level is not None:
            aux[LEVEL] = self.level
        return Moments(est.parts, {**est.aux, **aux})


def draw(denoiser, solver, rows=500, length=LENGTH, seed=0):
    return run(PROCESS, denoiser, solver, (rows, length), GRID, rng=RowRng(seed, range(rows), dtype=DTYPE))


def ar1():
    """The oracle, an observed series, its flags, and mean and deviation of what follows."""
    cov = covariance(LENGTH)
    oracle = GaussianData.of(PROCESS, torch.zeros(LENGTH, dtype=DTYPE), cov)
    series = torch.linalg.cholesky(cov) @ RowRng(3, [0], dtype=DTYPE).normal((1, LENGTH))[0]
    series = series + 1.2 - series[SEEN - 1] + 0.4  # ends well away from the mean
    flags = (torch.arange(LENGTH) < SEEN).to(DTYPE)
    gain = cov[SEEN:, :SEEN] @ torch.linalg.inv(cov[:SEEN, :SEEN])
    spread = cov[SEEN:, SEEN:] - gain @ cov[:SEEN, SEEN:]
    return oracle, series * flags, flags, gain @ series[:SEEN], spread.diagonal().sqrt()


@dataclass(frozen=True)
class Exact:
    """log N(observed; H f, H C_t H^T), C_t the covariance of the data given the state."""

    observed: torch.Tensor

    def __call__(self, x, t, est, cond):
        alpha, sigma = (float(c) for c in PROCESS.coefficients(t))
        cov = covariance(LENGTH)
        left = sigma**2 * torch.linalg.solve(alpha**2 * cov + sigma**2 * torch.eye(LENGTH, dtype=DTYPE), cov)
        gap = self.observed[:SEEN] - est.parts["data"][:, :SEEN]
        return -0.5 * (gap * torch.linalg.solve(left[:SEEN, :SEEN], gap.T).T).sum(1)


def test_exact_posterior_of_a_gradient():
    """Works when 1: the ancestral sampler under the true likelihood's gradient draws the true posterior."""
    oracle, observed, _, mean, spread = ar1()
    made = draw(Guided(oracle, PROCESS, Exact(observed)), Jump(1.0), rows=2000)
    assert float((made[:, :SEEN] - observed[:SEEN]).square().mean().sqrt()) < 5e-3
    ahead = made[:, SEEN:]
    assert float((ahead.mean(0) - mean).square().mean().sqrt()) < 0.04
    assert abs(float((ahead.std(0) / spread).mean()) - 1.0) < 0.05


def distances(solver, level=None, rows=400):
    oracle, observed, flags, mean, spread = ar1()
    made = draw(Handing(oracle, observed, flags, level), solver, rows)
    return (
        float((made[:, :SEEN] - observed[:SEEN]).square().mean().sqrt()),
        float((made[:, SEEN:].mean(0) - mean).square().mean().sqrt()),
        float((made[:, SEEN:].std(0) / spread).mean()),
    )


def test_square_guidance_on_the_oracle():
    """Works when 2, MS: what was observed is met ever better, and the future's mean is near the true one."""
    found = [distances(SelfGuided(SquaredError(), scale)) for scale in (0.5, 1.0, 2.0, 4.0, 8.0)]
    seen = [seen for seen, _, _ in found]
    assert all(a > b for a, b in pairwise(seen)), seen
    for value, measured in zip(seen, (0.49, 0.41, 0.33, 0.26, 0.19), strict=True):
        assert abs(value - measured) < 0.05, seen
    assert max(found[0][1], found[1][1]) < 0.2, found


def test_quantile_guidance_on_the_oracle():
    """Works when 2, Q: levels spread over the draws; the fit grows and the spread of the future falls to the true one."""
    level = ((torch.arange(400) % 100 + 1) / 101.0).to(DTYPE)[:, None]
    found = [distances(SelfGuided(Pinball(), scale), level) for scale in (1.0, 4.0, 16.0)]
    for (seen, _, ratio), (fit, spread) in zip(found, ((0.96, 1.3), (0.63, 1.1), (0.37, 0.96)), strict=True):
        assert abs(seen - fit) < 0.12, found
        assert abs(ratio - spread) < 0.15, found


def test_before_and_after_agree():
    """Works when 2: the paper's order and the code's differ by a step's length only."""
    level = ((torch.arange(400) % 100 + 1) / 101.0).to(DTYPE)[:, None]
    for energy, scale, levels in ((SquaredError(), 2.0, None), (Pinball(), 4.0, level)):
        one = distances(SelfGuided(energy, scale, "before"), levels)
        two = distances(SelfGuided(energy, scale, "after"), levels)
        assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 0.06, (one, two)
        assert one != two


def strong(scale, energy, size, **settings):
    """Relative error of what was observed along three strong directions of variance `size`."""
    length = 48
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(length, 3, generator=generator, dtype=DTYPE)).Q
    cov = covariance(length) + size * basis @ basis.T
    oracle = GaussianData.of(PROCESS, torch.zeros(length, dtype=DTYPE), cov)
    series = (size**0.5 * basis).sum(1)
    flags = (torch.arange(length) < 32).to(DTYPE)
    made = draw(Handing(oracle, series * flags, flags), SelfGuided(energy, scale, **settings), 64, length)
    return float((made[:, :32] - series[:32]).square().mean().sqrt() / series[:32].square().mean().sqrt())


def test_stability_bound_of_square_guidance():
    """Works when 2, both sides of the bound: s < min over t of 1 / (v J^2), J the slope of the clean estimate."""

    def bound(size):
        least = math.inf
        for t, s in pairwise(GRID):
            alpha, sigma = (float(c) for c in PROCESS.coefficients(t))
            fresh = float(PROCESS.jump(t, s, eta=1.0)["fresh"])
            slope = alpha * size / (alpha**2 * size + sigma**2)
            least = min(least, 1.0 / (fresh**2 * slope**2) if fresh else math.inf)
        return least

    for size, value in ((1, 55), (10, 5.3), (100, 0.42), (1000, 0.078), (1e12, 0.056)):
        assert bound(size) == pytest.approx(value, rel=0.05)
    assert strong(1.0, SquaredError(), 100.0) < 0.15
    assert strong(1.0, SquaredError(), 1000.0) > 100.0
    assert strong(0.1, SquaredError(), 1000.0) < 0.2
    assert strong(4.0, Pinball(), 1000.0) < 0.1
    assert strong(1.0, SquaredError(), 1000.0, cap=0.5) < 0.2


def stepped(denoiser, rows):
    """Ancestral sampling one step after the other; a plan of all steps has the same numbers to rounding only."""
    source = RowRng(0, range(rows), dtype=DTYPE)
    state = Jump(1.0).init(PROCESS.start((rows, LENGTH), rng=source), GRID[0])
    with torch.no_grad():
        for t, s in pairwise(shared(GRID.tolist())):
            state = Jump(1.0).step(PROCESS, lambda x, t: denoiser(x, t, None), state, t, s, source)
    return state.x


@pytest.mark.parametrize("order", ["before", "after"])
def test_no_scale_and_no_observation_are_the_unguided_sampler(order):
    """Works when 3: bit for bit under one seed, for a network too."""
    net = Preconditioned(Linear(LENGTH), PROCESS, Noise())
    _, observed, flags, _, _ = ar1()
    plain = stepped(net, 3)
    blind = draw(Handing(net, observed, torch.zeros_like(flags)), SelfGuided(Pinball(), 4.0, order), 3)
    assert torch.equal(blind, plain)
    assert torch.equal(draw(Handing(net, observed, flags), SelfGuided(SquaredError(), 0.0, order), 3), plain)
    assert torch.equal(draw(net, SelfGuided(SquaredError(), 4.0, order), 3), plain)
    assert not torch.equal(draw(Handing(net, observed, flags), SelfGuided(SquaredError(), 4.0, order), 3), plain)


def test_rows_do_not_depend_on_their_batch():
    oracle, observed, flags, _, _ = ar1()
    level = torch.tensor([[0.1], [0.5], [0.9]], dtype=DTYPE)
    solver = SelfGuided(Pinball(), 4.0)
    whole = draw(Handing(oracle, observed, flags, level), solver, 3)
    alone = run(
        PROCESS, Handing(oracle, observed, flags, level[2:]), solver, (1, LENGTH), GRID, rng=RowRng(0, [2], dtype=DTYPE)
    )
    torch.testing.assert_close(alone, whole[2:], atol=1e-12, rtol=0)


def test_the_gradient_of_pinball():
    """Works when 4: -k above the estimate, 1 - k below; half of L1 at the median; levels add up to N / 2 of L1."""
    data = torch.tensor([[0.0, 0.0, 0.0]], dtype=DTYPE, requires_grad=True)
    aux = {OBSERVED: torch.tensor([[2.0, -3.0, 5.0]], dtype=DTYPE), FLAGS: torch.tensor([[1.0, 1.0, 0.0]], dtype=DTYPE)}

    def slope(level):
        est = Moments({"data": data}, {**aux, LEVEL: torch.tensor([[level]], dtype=DTYPE)})
        return torch.autograd.grad(-Pinball()(data, torch.tensor(0.5), est, None).sum(), data)[0]

    assert slope(0.3).tolist() == [[-0.3, 0.7, 0.0]]
    assert slope(0.5).tolist() == [[-0.5, 0.5, 0.0]]
    levels = [k / 8 for k in range(1, 8)]
    torch.testing.assert_close(sum(slope(level) for level in levels), torch.tensor([[-3.5, 3.5, 0.0]], dtype=DTYPE))
    est = Moments({"data": data.detach()}, aux)
    assert float(Pinball()(data, torch.tensor(0.5), est, None)) == -2.5
    assert float(SquaredError()(data, torch.tensor(0.5), est, None)) == -13.0


def test_generalised_ddim_at_both_ends():
    """Works when 5: eta = 1 over all steps is the ancestral step in mean and variance, eta = 0 draws nothing."""
    abar = torch.cumprod(1.0 - torch.linspace(1e-4, 0.1, 100, dtype=DTYPE), 0)
    for k in (99, 50, 1):
        t, s, beta = instant((k + 1) / 100), instant(k / 100), 1.0 - abar[k] / abar[k - 1]
        row = PROCESS.jump(t, s, eta=1.0)
        assert float(row["fresh"]) ** 2 == pytest.approx(float(beta * (1 - abar[k - 1]) / (1 - abar[k])), rel=1e-9)
        x, data = 0.7, -1.3
        noise = (x - abar[k].sqrt() * data) / (1 - abar[k]).sqrt()
        mean = (abar[k - 1].sqrt() * beta * data + (abar[k] / abar[k - 1]).sqrt() * (1 - abar[k - 1]) * x) / (
            1 - abar[k]
        )
        made = float(row["x"]) * x + float(row["data"]) * data + float(row["noise"]) * float(noise)
        assert made == pytest.approx(float(mean), rel=1e-9)
    oracle = ar1()[0]
    start = RowRng(0, range(2), dtype=DTYPE).normal((2, LENGTH))
    ends = []
    for seed in (1, 2):
        source = RowRng(seed, range(2), dtype=DTYPE)
        *_, last = trajectory(PROCESS, oracle, Jump(0.0), start, GRID, rng=source)
        ends.append(last.x)
    assert torch.equal(*ends)


def test_wrong_settings_are_refused():
    for settings in ({"order": "during"}, {"scale": -1.0}, {"eta": 2.0}, {"cap": 0.0}):
        with pytest.raises(ValueError, match="order|need scale"):
            SelfGuided(Pinball(), **settings)
