"""The loss of diffusion on vectors of tokens: its least value, its gradient, collapse, and self-conditioning."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from process.test_embedded import FIRST, PROCESS, STEPS, Half, oracle

from condiff.core import Condition, SharedRng, instant
from condiff.nn import EmbeddingSpace
from condiff.objectives import Denoising, EmbeddingDenoising, SelfConditioned
from condiff.process import (
    AdaptiveTimes,
    Data,
    Embedded,
    LossAware,
    Positionwise,
    Recalling,
    Rounding,
    UniformTime,
)


def drawn_ids(exact, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(exact.chances, count, replacement=True, generator=generator)[:, None]


@pytest.mark.parametrize("step", [1, 20, 150])
def test_loss_with_the_exact_denoiser_is_the_analytic_minimum(step):
    """E Var(z | x), plus prior and anchor terms, by quadrature on a line; 40,000 draws are good to 2 %."""
    exact = oracle(1)
    only = UniformTime((step - 0.9) / STEPS, (step - 0.1) / STEPS)
    objective = EmbeddingDenoising(exact.process, STEPS, only)
    ids = drawn_ids(exact, 40_000)
    rng = SharedRng(1, "loss")
    draw = objective.draw(exact.space, ids, rng=rng)
    assert draw.t.unique().tolist() == [step / STEPS]
    loss = float(objective(exact, ids, None, rng=rng, draw=draw).rows.mean())
    alpha, sigma = PROCESS.schedule(step / STEPS)
    vectors, v = exact.space.table.weight[:, 0], alpha**2 * FIRST**2 + sigma**2
    x = torch.linspace(-8.0, 8.0, 40_001, dtype=torch.float64)
    density = (exact.chances * torch.exp(-0.5 * (x[:, None] - alpha * vectors).square() / v)).sum(1)
    density = density / density.sum()
    log_p, mean, variance = exact.posterior(x[:, None, None], instant(step / STEPS))
    mean, p = mean[:, 0, :, 0], log_p[:, 0].exp()
    best = (p * mean).sum(1)
    if step == 1:  # what is estimated is the vector itself there, not z about it
        expected = (density * (p * (vectors - best[:, None]).square()).sum(1)).sum()
    else:
        expected = (density * ((p * mean.square()).sum(1) - best.square() + variance.squeeze())).sum()
    z = vectors + FIRST * torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64)[:, None]
    normal = torch.exp(-0.5 * torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64).square())
    normal = (normal / normal.sum())[:, None]
    nats = -torch.log_softmax(exact.space.logits(z[..., None]), -1).diagonal(dim1=1, dim2=2)
    rest = (exact.chances * (normal * (nats + PROCESS.schedule(1.0)[0] ** 2 * z.square())).sum(0)).sum()
    assert loss == pytest.approx(float(expected + rest), rel=0.02)

    class Shifted:
        space = exact.space

        def predict(self, x, t, cond):
            est = exact.predict(x, t, cond)
            return exact.process.infer(x, t, est.parts["data"] + 0.3, Data())

    # At the first step z is noise about the target, so the exact mean of z is not quite the best guess of the target.
    assert float(objective(Shifted(), ids, None, rng=rng, draw=draw).rows.mean()) > loss + 0.08


def test_gradient_reaches_the_vectors_through_state_target_anchor_and_prior():
    """By finite differences, in float64: of all terms, and of anchor and prior alone."""
    net = Half().double()
    denoiser = Rounding(net, Embedded(PROCESS, 3, 5))
    ids = torch.tensor([[0, 4, 2], [1, 1, 3]])
    objective = EmbeddingDenoising(denoiser.process, STEPS)

    def all_terms():
        return objective(denoiser, ids, None, rng=SharedRng(0, "gradient", dtype=torch.float64)).rows.mean()

    def two_terms():
        z = net.space.lift(ids, FIRST, SharedRng(0, "gradient", dtype=torch.float64))
        return (net.space.anchor(z, ids) + net.space.prior(z, 0.3)).mean()

    for function in (all_terms, two_terms):
        net.space.zero_grad()
        function().backward()
        for weight in (net.space.table.weight, net.space.bias):
            gradient = weight.grad.clone()
            with torch.no_grad():
                for place in [(0,) * weight.ndim, tuple(size - 1 for size in weight.shape)]:
                    old, value, eps = gradient[place], float(weight[place]), 1e-5
                    ends = []
                    for shift in (eps, -eps):
                        weight[place] = value + shift
                        ends.append(float(function()))
                    weight[place] = value
                    assert (ends[0] - ends[1]) / (2 * eps) == pytest.approx(float(old), rel=1e-5, abs=1e-8)


def test_without_the_anchor_vectors_shrink_and_with_it_they_have_a_size():
    """The collapse, shown: with the exact denoiser of each size, same draws."""
    exact = oracle(2)
    ids = drawn_ids(exact, 4000)
    factors = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 40.0)

    def losses(anchor):
        out = []
        for factor in factors:
            sized = exact.scaled(factor)
            objective = EmbeddingDenoising(sized.process, STEPS, anchor=anchor)
            out.append(float(objective(sized, ids, None, rng=SharedRng(2, "size")).rows.mean()))
        return out

    bare, anchored = losses(0.0), losses(1.0)
    assert all(a < b for a, b in pairwise(bare))
    best = anchored.index(min(anchored))
    assert 0 < best < len(factors) - 1
    assert anchored[0] > anchored[best] + 0.1
    assert anchored[-1] > anchored[best] + 0.1


def test_padding_can_be_left_out_of_the_mean():
    net = Half()
    denoiser = Rounding(net, Embedded(PROCESS, 3, 5))
    ids = torch.tensor([[0, 3, 4, 4]])
    rng = SharedRng(0, "pad")
    objective = EmbeddingDenoising(denoiser.process, STEPS)
    draw = objective.draw(net.space, ids, rng=rng)
    assert not torch.equal(objective.draw(net.space, ids, rng=rng).x, draw.x)
    both = [
        EmbeddingDenoising(denoiser.process, STEPS, ignored=pad)(denoiser, ids, None, rng=rng, draw=draw).rows
        for pad in (None, 4)
    ]
    parts = [
        EmbeddingDenoising(denoiser.process, STEPS, ignored=pad)(denoiser, ids, None, rng=rng, draw=draw).rows
        for pad in (0, 3)
    ]
    # Leaving 0 out counts 3, 4 and 4; leaving 3 out counts 0, 4 and 4.
    every = [4 * both[0], 2 * both[1], 3 * parts[0], 3 * parts[1]]
    torch.testing.assert_close(every[2] + every[3] - every[0], every[0] - every[1])


def test_it_asks_for_vectors():
    with pytest.raises(TypeError, match="space"):
        EmbeddingDenoising(Embedded(PROCESS, 3, 5), 10)(
            lambda x, t, c: x, torch.zeros(1, 2).long(), None, rng=SharedRng(0)
        )


def test_times_that_learn_are_told_the_losses_while_training_only():
    law, adaptive = LossAware(4, memory=2), AdaptiveTimes(3, bins=4)
    net = Half()
    denoiser = Rounding(net, Embedded(Positionwise(PROCESS, adaptive), 3, 5), law, adaptive)
    assert {"learned.0.losses", "learned.1.table"} <= denoiser.state_dict().keys()
    objective = EmbeddingDenoising(denoiser.process, STEPS, law)
    ids = torch.zeros(16, 3).long()
    with torch.no_grad():
        objective(denoiser, ids, None, rng=SharedRng(0, "held"))
    assert int(law.seen.sum()) == 0
    rows = objective(denoiser, ids, None, rng=SharedRng(0, "train"))
    assert int(law.seen.sum()) == 16
    assert int(adaptive.count.sum()) == 48
    assert int(adaptive.step) == 1
    assert rows.rows.requires_grad


def test_importance_weights_scale_the_squared_error_alone():
    net = Half()
    law = LossAware(4, memory=1)
    law.note((torch.arange(4) + 0.5) / 4, torch.tensor([1.0, 1.0, 1.0, 3.0]))
    denoiser = Rounding(net, Embedded(PROCESS, 3, 5), law)
    ids = torch.arange(64).remainder(5)[:, None]
    plain, weighed = EmbeddingDenoising(denoiser.process, STEPS), EmbeddingDenoising(denoiser.process, STEPS, law)
    with torch.no_grad():
        draw = weighed.draw(net.space, ids, rng=SharedRng(0, "law"))
        bare = {**draw.latents}
        weight = bare.pop("weight")
        assert sorted(set(weight.round(decimals=3).tolist())) == [0.5, 1.499]
        one = weighed(denoiser, ids, None, rng=SharedRng(0), draw=draw).rows
        other = plain(denoiser, ids, None, rng=SharedRng(0), draw=type(draw)(draw.x, draw.t, bare)).rows
        z = draw.latents["data"]
        last = float(PROCESS.schedule(1.0)[0])
        rest = (net.space.prior(z, last) + net.space.anchor(z, ids)).mean(1)
    torch.testing.assert_close(one - rest, weight.float() * (other - rest), rtol=1e-4, atol=1e-5)


def test_some_rows_are_told_their_first_estimate_and_no_gradient_runs_through_it():
    net = Half(recalls=True)
    recalling = Recalling(PROCESS)
    denoiser = Rounding(net, Embedded(recalling, 3, 5))
    inner = EmbeddingDenoising(denoiser.process, STEPS)
    ids = torch.arange(40).remainder(5).reshape(20, 2)
    draw = inner.draw(net.space, ids, rng=SharedRng(0, "told"))
    for share, calls in ((0.0, 1), (0.5, 2), (1.0, 2)):
        net.seen.clear()
        told = SelfConditioned(inner, recalling, share)
        rows = told(denoiser, ids, Condition.of(n=torch.arange(20)), rng=SharedRng(1, "told"), draw=draw).rows
        assert len(net.seen) == calls
        last = net.seen[-1][..., 3:]
        some = (last != 0).flatten(1).any(1)
        if share == 0.5:
            assert 3 < int(some.sum()) < 17
            assert len(net.seen[0]) == int(some.sum())
            assert torch.equal(net.seen[0][..., 3:], torch.zeros_like(net.seen[0][..., 3:]))
        else:
            assert bool((some == (share == 1.0)).all())
        torch.testing.assert_close(last[some], 0.5 * draw.x[some][..., :3].detach())
        assert not last.requires_grad or last.grad_fn is not None
    # Told, the estimate is 0.5 x + 0.05 x; what is recalled counts as a constant.
    with torch.no_grad():
        z, x = draw.latents["data"], draw.x[..., :3]
        first = (draw.latents["step"] == 1)[:, None, None]
        error = (0.55 * x - torch.where(first, net.space(ids), z)).square().mean(-1)
        rest = net.space.prior(z, float(PROCESS.schedule(1.0)[0])) + net.space.anchor(z, ids)
    torch.testing.assert_close(rows.detach(), (error + rest).mean(1))
    with pytest.raises(ValueError, match="share"):
        SelfConditioned(inner, recalling, 1.5)


def test_self_conditioning_goes_around_any_gaussian_system():
    """The plain squared error of pictures too: only the state is twice as wide."""

    class Recalled(torch.nn.Module):
        calls = 0

        def forward(self, x, t, cond):
            self.calls += 1
            first, last = process.parts(x)
            return process.infer(x, t, 0.5 * first + last, Data())

    process = Recalling(PROCESS, axis=1)
    data = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    net = Recalled()
    objective = Denoising(process, Data())
    draw = objective.corrupt(data, None, rng=SharedRng(0, "pictures"))
    rows = SelfConditioned(objective, process, 1.0)(net, data, None, rng=SharedRng(1), draw=draw).rows
    torch.testing.assert_close(rows, (draw.x[:, :2] - data).square().flatten(1).mean(1))
    assert net.calls == 2


def test_exact_loss_of_equal_vectors_is_the_entropy():
    """With all vectors one, denoising is free and the anchor is ln V, whatever the time."""
    space = EmbeddingSpace(5, 3)
    with torch.no_grad():
        space.table.weight.zero_()
    z = space.lift(torch.zeros(4, 2).long(), 0.2, SharedRng(0))
    torch.testing.assert_close(space.anchor(z, torch.zeros(4, 2).long()), torch.full((4, 2), math.log(5)))


@pytest.mark.parametrize("recalls", [False, True])
def test_rows_are_told_beginnings_or_any_places_without_noise(recalls):
    net = Half(recalls=recalls)
    process = Embedded(Recalling(PROCESS) if recalls else PROCESS, 3, 5)
    denoiser, ids = Rounding(net, process), torch.arange(4000 * 8).remainder(5).reshape(4000, 8)
    objective = EmbeddingDenoising(process, STEPS, given=0.5)
    draw = objective.draw(net.space, ids, rng=SharedRng(0, "told"))
    known, clean = draw.latents["known"], net.space(ids)
    parts = draw.x.chunk(2, -1) if recalls else (draw.x,)
    for part in parts:
        assert torch.equal(part[known], clean[known])
    assert not torch.isclose(parts[0][~known], clean[~known]).all(-1).any()
    if recalls:
        assert not parts[1][~known].any()
    told = known.any(1)
    count = known.sum(1)
    begins = told & (known.cumprod(1).sum(1) == count)
    # No token is told in 1/8 of the beginnings, and in 1/9 of the rows with any places, at a uniform share.
    assert float(told.double().mean()) == pytest.approx(0.25 * 7 / 8 + 0.25 * 8 / 9, abs=0.03)
    # Any places look like a beginning too now and then: mean over k of 1 / binomial(8, k), k = 1 to 8.
    chance = sum(1 / math.comb(8, k) for k in range(1, 9)) / 9
    assert float(begins.double().mean()) == pytest.approx(0.25 * 7 / 8 + 0.25 * chance, abs=0.03)
    assert int(count[begins & (count < 8)].max()) == 7
    assert bool(objective(denoiser, ids, None, rng=SharedRng(0)).rows.isfinite().all())
    with pytest.raises(ValueError, match="given must lie"):
        EmbeddingDenoising(process, STEPS, given=1.5)
