"""A coupled loss: what it learns is the velocity of its pairs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from laws.cases import DTYPE, FLOW, denoiser, labels, rng
from torch import nn

from condiff.core import Condition, Moments, SharedRng
from condiff.objectives import Coupled, Denoising, Dropping
from condiff.process import (
    Brownian,
    Gibbs,
    Independent,
    Interpolant,
    MinibatchOT,
    Noise,
    Normal,
    Sinkhorn,
    Straight,
    UniformTime,
    Velocity,
)

PLAIN = Denoising(FLOW, Velocity())
X = rng(*range(64)).normal((64, 2))
COND = labels(*[k % 3 for k in range(64)])


def loss(objective, net=None, data=X, cond=COND, seed=0):
    return objective(net or denoiser(FLOW), data, cond, rng=SharedRng(seed, dtype=DTYPE))


def test_independent_pairs_are_the_plain_loss_bit_for_bit():
    assert torch.equal(loss(Coupled(PLAIN, FLOW, Independent())).rows, loss(PLAIN).rows)


def test_an_endless_temperature_is_the_plain_loss_with_its_gradient():
    grads, totals = [], []
    for objective in (PLAIN, Coupled(PLAIN, FLOW, Gibbs(1e9)), Coupled(PLAIN, FLOW, Gibbs(1e9, reference=0.0))):
        net = denoiser(FLOW)
        total = loss(objective, net).total()
        total.backward()
        totals.append(total.detach())
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    for total, grad in zip(totals[1:], grads[1:], strict=True):
        torch.testing.assert_close(total, totals[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(grad, grads[0], rtol=1e-6, atol=1e-9)


def test_weights_multiply_the_rows_and_carry_no_gradient():
    gibbs = Gibbs(0.4)
    noise = FLOW.noise.draw(X.shape, _after_times())
    rows = loss(Coupled(PLAIN, FLOW, gibbs)).rows
    torch.testing.assert_close(rows, loss(PLAIN).rows * gibbs.couple(X, noise, None, rng=rng(0))[1])
    data = X.clone().requires_grad_()
    assert not gibbs.couple(data, noise, None, rng=rng(0))[1].requires_grad


def _after_times():
    source = SharedRng(0, dtype=DTYPE)
    source.uniform((64,))
    return source


def test_the_loss_of_fixed_weights_does_not_know_the_batch_size():
    """W-CFM's weight belongs to the pair: the loss of 64 rows is the mean over any cut of it. OT's is not."""
    noise, t = rng(*range(64), seed=1).normal((64, 2)), torch.linspace(0.05, 0.95, 64, dtype=DTYPE)

    def mean_loss(coupling, size):
        parts = []
        for first in range(0, 64, size):
            here = slice(first, first + size)
            paired, weight = coupling.couple(X[here], noise[here], None, rng=rng(0))
            draw = FLOW.draw(X[here], t[here], rng=rng(0), noise=paired)
            rows = PLAIN(denoiser(FLOW), X[here], None, rng=rng(0), draw=draw).rows
            parts.append((rows if weight is None else rows * weight).mean())
        return float(torch.stack(parts).mean().detach())

    fixed = Gibbs(0.4, reference=1.0)
    assert mean_loss(fixed, 8) == pytest.approx(mean_loss(fixed, 64), rel=1e-12)
    assert mean_loss(Gibbs(0.4), 8) != pytest.approx(mean_loss(Gibbs(0.4), 64), rel=1e-3)
    assert mean_loss(MinibatchOT(), 8) != pytest.approx(mean_loss(MinibatchOT(), 64), rel=1e-3)


@dataclass(frozen=True)
class At:
    """Every time the same."""

    value: float

    def quantile(self, u, schedule):
        return torch.full_like(u, self.value)

    def weight(self, t):
        return None


@dataclass(frozen=True)
class Every:
    """All 16 pairs of four noise atoms with four data atoms, weighted."""

    atoms: torch.Tensor
    gibbs: Gibbs

    def couple(self, data, noise, cond, *, rng):
        return self.gibbs.couple(data, self.atoms, cond, rng=rng)


class Table(nn.Module):
    """A velocity for every state that occurs, free to be anything."""

    def __init__(self, states, values):
        super().__init__()
        self.states, self.values = states, nn.Parameter(values.clone())

    def forward(self, x, t, cond):
        at = (x - self.states).abs().argmin(1)
        return FLOW.infer(x, t, self.values[at][:, None], Velocity())


def test_the_minimiser_is_the_weighted_mean_velocity_by_enumeration():
    noise = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=DTYPE).repeat_interleave(4)[:, None]
    data = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=DTYPE).repeat(4)[:, None]
    gibbs = Gibbs(0.9)
    x = (0.5 * (noise + data))[:, 0]
    states = x.unique()
    weight = torch.exp(-(noise - data).abs()[:, 0] / 0.9)
    velocity = (noise - data)[:, 0]
    share = (x[:, None] == states).double()
    exact = (share * (weight * velocity)[:, None]).sum(0) / (share * weight[:, None]).sum(0)
    plain = (share * velocity[:, None]).sum(0) / share.sum(0)
    objective = Coupled(Denoising(FLOW, Velocity(), At(0.5)), FLOW, Every(noise, gibbs))
    slopes = []
    for values in (exact, plain):
        net = Table(states, values)
        objective(net, data, None, rng=SharedRng(0, dtype=DTYPE)).total().backward()
        slopes.append(float(net.values.grad.abs().max()))
    assert slopes[0] < 1e-12
    assert slopes[1] > 1e-3


@pytest.mark.parametrize("coupling", [MinibatchOT(), Sinkhorn(0.5)], ids=["OT", "Sinkhorn"])
def test_labels_stay_with_their_data(coupling):
    """The data row, its label and its weight never move; only the noise does."""
    seen = []

    def spy(x, t, cond):
        seen.append((x, t, cond))
        return Moments({"data": torch.zeros_like(x), "noise": torch.zeros_like(x)})

    data = torch.arange(64, dtype=DTYPE)[:, None] * 1000.0
    cond = labels(*range(64))
    Coupled(PLAIN, FLOW, coupling)(spy, data, cond, rng=SharedRng(0, dtype=DTYPE))
    x, t, kept = seen[0]
    assert torch.equal(((x[:, 0] / (1 - t)) / 1000.0).round().long()[t < 0.9], kept.values["label"][t < 0.9])


def test_dropping_goes_around_it_and_injected_draws_pass_through():
    dropped = loss(Dropping(Coupled(PLAIN, FLOW, MinibatchOT()), {"label": 0.5})).rows
    assert not torch.equal(dropped, loss(Coupled(PLAIN, FLOW, MinibatchOT())).rows)
    draw = FLOW.draw(X, torch.full((64,), 0.5, dtype=DTYPE), rng=SharedRng(3, dtype=DTYPE))
    for objective in (PLAIN, Coupled(PLAIN, FLOW, Gibbs(0.1))):
        rows = objective(denoiser(FLOW), X, COND, rng=SharedRng(0), draw=draw).rows
        torch.testing.assert_close(rows, PLAIN(denoiser(FLOW), X, COND, rng=SharedRng(0), draw=draw).rows)


def test_a_bridge_is_coupled_by_its_source():
    """Exact transport on the line pairs in order of size, whatever order the sources came in."""
    process, seen = Interpolant(Straight(), "input"), []

    def spy(x, t, cond):
        seen.append((x, t))
        return process.infer(x, t, {"velocity": torch.zeros_like(x)})

    data = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=DTYPE)
    cond = Condition.of(input=torch.tensor([[30.0], [10.0], [40.0], [20.0]], dtype=DTYPE))
    objective = Coupled(Denoising(process, Velocity()), process, MinibatchOT())
    rows = objective(spy, data, cond, rng=rng(0, 1, 2, 3)).rows
    source = torch.tensor([[10.0], [20.0], [30.0], [40.0]], dtype=DTYPE)
    torch.testing.assert_close(rows, (source - data).square()[:, 0])
    x, t = seen[0]
    torch.testing.assert_close(x, (1 - t[:, None]) * data + t[:, None] * source)


def test_a_schroedinger_bridge_has_its_spread_and_its_pairs():
    """Given the pair, x_t has mean (1 - t) data + t source and std sigma sqrt(t (1 - t)); pairs are the plan's."""
    sigma, count = 0.5, 4000
    process = Interpolant(Straight(Brownian(sigma**2)), source=Normal())
    seen = []

    def spy(x, t, cond):
        seen.append((x, t))
        return Moments({"data": torch.zeros_like(x), "source": torch.zeros_like(x), "noise": torch.zeros_like(x)})

    @dataclass(frozen=True)
    class Kept:
        inner: Sinkhorn

        def couple(self, data, noise, cond, *, rng):
            paired, weight = self.inner.couple(data, noise, cond, rng=rng)
            seen.append(paired)
            return paired, weight

    data = SharedRng(1, dtype=DTYPE).normal((count, 2)) * 0.3
    objective = Coupled(
        Denoising(process, Noise(), UniformTime(0.2, 0.8)), process, Kept(Sinkhorn(2 * sigma**2, chunk=400))
    )
    objective(spy, data, None, rng=SharedRng(0, dtype=DTYPE))
    source, (x, t) = seen
    t = t[:, None]
    spread = (x - (1 - t) * data - t * source) / (sigma * (t * (1 - t)).sqrt())
    assert float(spread.std()) == pytest.approx(1.0, abs=0.04)
    assert float(spread.mean()) == pytest.approx(0.0, abs=0.04)
    assert float((source * data).sum(1).mean()) > 0.2  # independent pairs have 0, exact transport 0.6
