"""Diffusion on vectors of tokens: exact denoiser, schedule, rounding, clamping, recall."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.core import Condition, RowRng, SharedRng, instant, sample
from condiff.guidance import CFG
from condiff.nn import EmbeddingSpace
from condiff.oracles import EmbeddedTokens
from condiff.process import Embedded, Gaussian, Recalling, Rounding, Table, Uniform
from condiff.solvers import Jump

STEPS = 200
PROCESS = Gaussian(Table.square_root(STEPS))
FIRST = PROCESS.schedule(1.0 / STEPS)[1]


def oracle(width=2, chances=(0.5, 0.2, 0.2, 0.1), dtype=torch.float64):
    space = EmbeddingSpace(len(chances), width).to(dtype).requires_grad_(False)
    angle = torch.arange(len(chances), dtype=dtype) * 1.3
    vectors = torch.stack([angle.cos(), 1.5 * angle.sin(), angle / 4.0], 1)[:, :width]
    with torch.no_grad():
        space.table.weight.copy_(vectors)
    return EmbeddedTokens(Embedded(PROCESS, width, len(chances)), space, torch.tensor(chances, dtype=dtype), FIRST)


def test_square_root_table_is_the_formula_at_its_steps():
    table = Table.square_root(STEPS)
    abar = [1.0 - math.sqrt(k / STEPS + 1e-4) for k in range(STEPS + 1)]
    for k in (1, 2, 50, 199):
        alpha, sigma = table(k / STEPS)
        assert alpha**2 == pytest.approx(abar[k] / abar[0], rel=1e-9)
        assert alpha**2 + sigma**2 == pytest.approx(1.0, rel=1e-12)
    # The formula is below zero at the last step; beta is cut at 0.999 there.
    assert table(1.0)[0] ** 2 == pytest.approx(1e-3 * abar[199] / abar[0], rel=1e-9)
    assert table(0.0) == (1.0, 0.0)


def test_posterior_mean_coefficients_sum_rule_and_limits():
    """`posterior_mean` of DDPM, and that a state without noise stays on its way: c_data + c_x alpha_t = alpha_s."""
    for k in (2, 3, 100, 200):
        t, s = instant(k / STEPS), instant((k - 1) / STEPS)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = PROCESS.schedule(k / STEPS), PROCESS.schedule((k - 1) / STEPS)
        beta = 1.0 - (alpha_t / alpha_s) ** 2
        c_data, c_x = alpha_s * beta / sigma_t**2, (alpha_t / alpha_s) * sigma_s**2 / sigma_t**2
        row = PROCESS.jump(t, s, eta=1.0)
        data, x = 0.7, -1.1
        noise = (x - alpha_t * data) / sigma_t
        assert row["data"] * data + row["noise"] * noise == pytest.approx(c_data * data + c_x * x, rel=1e-9)
        assert row["fresh"] ** 2 == pytest.approx(beta * sigma_s**2 / sigma_t**2, rel=1e-9)
        assert c_data + c_x * alpha_t == pytest.approx(alpha_s, rel=1e-9)
    last = PROCESS.jump(instant(1 / STEPS), instant(0.0), eta=1.0)
    assert (last["data"], last["noise"], last["fresh"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_exact_denoiser_is_the_posterior_mean(t):
    """E[z | x] against the integral over z, on a line; mean and variance given the token against it too."""
    exact = oracle(1)
    x = torch.tensor([[[-1.3]], [[0.2]], [[0.9]]], dtype=torch.float64)
    alpha, sigma = PROCESS.schedule(t)
    z = torch.linspace(-6.0, 6.0, 48_001, dtype=torch.float64)
    vectors = exact.space.table.weight[:, 0]
    log_prior = torch.logsumexp(exact.chances.log()[:, None] - (z - vectors[:, None]).square() / (2 * FIRST**2), 0)
    weight = torch.softmax(log_prior - (x[:, 0] - alpha * z).square() / (2 * sigma**2), 1)
    expected = (weight * z).sum(1)
    torch.testing.assert_close(exact(x, instant(t), None).parts["data"][:, 0, 0], expected, rtol=1e-7, atol=1e-9)
    log_p, mean, variance = exact.posterior(x, instant(t))
    square = (log_p.exp() * (mean[..., 0].square() + variance)).sum(-1)[:, 0]
    torch.testing.assert_close(square, (weight * z.square()).sum(1), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_chain_with_the_exact_denoiser_draws_the_token_prior(eta):
    """TV < 0.02 at T = 200 and 20,000 samples; the error of counting alone is about 0.005."""
    exact = oracle(dtype=torch.float32)
    rng = SharedRng(3, "chain")
    ids = sample(exact.process, exact, Jump(eta), (20_000, 1), Uniform()(PROCESS.schedule, STEPS), rng=rng)
    assert ids.shape == (20_000, 1)
    assert ids.dtype == torch.int64
    share = torch.bincount(ids.flatten(), minlength=4) / len(ids)
    assert float((share - exact.chances).abs().sum()) / 2 < 0.02


def test_space_rounds_clamps_and_anchors():
    space = EmbeddingSpace(5, 3).double()
    ids = torch.tensor([[0, 4, 2], [1, 1, 3]])
    z = space(ids) + 0.01
    assert torch.equal(space.nearest(z), ids)
    assert torch.equal(space.clamp(z), space(ids))
    away = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_distance = torch.cdist(away.flatten(0, 1), space.table.weight).argmin(1).reshape(7, 2)
    assert torch.equal(space.nearest(away), by_distance)
    with torch.no_grad():
        space.bias.copy_(torch.linspace(-1.0, 1.0, 5))
    logits = away @ space.table.weight.T + space.bias
    torch.testing.assert_close(space.logits(away), logits)
    assert torch.equal(space.round(away), logits.argmax(-1))
    nats = -torch.log_softmax(space.logits(z), -1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(space.anchor(z, ids), nats)
    torch.testing.assert_close(space.prior(z, 0.1), 0.01 * z.square().mean(-1))
    many = space.lift(ids.repeat(4000, 1), 0.3, SharedRng(0, "lift"))
    torch.testing.assert_close((many - space(ids.repeat(4000, 1))).std(), torch.tensor(0.3).double(), atol=3e-3, rtol=0)


class Half(torch.nn.Module):
    """A net that halves what it sees of the noisy vectors and adds a tenth of what it recalls."""

    def __init__(self, recalls=False):
        super().__init__()
        self.space = EmbeddingSpace(5, 3)
        self.recalls = recalls
        self.seen = []

    def forward(self, x, t, cond):
        self.seen.append(x)
        first, last = x.chunk(2, -1) if self.recalls else (x, torch.zeros_like(x))
        return 0.5 * first + 0.1 * last


def test_at_the_end_the_state_is_read_without_another_call():
    net = Half()
    process = Embedded(PROCESS, 3, 5)
    denoiser = Rounding(net, process)
    ids = torch.tensor([[0, 4, 2], [1, 1, 3]])
    x = 3.0 * net.space(ids)
    assert torch.equal(process.finish(x, lambda x, t: denoiser(x, t, None)), net.space.round(x))
    assert not net.seen
    # At any other time the network is asked, and names nothing.
    est = denoiser(x, instant(0.5), None)
    torch.testing.assert_close(est.parts["data"], 0.5 * x)
    assert not est.aux


def test_clamping_starts_at_its_time_and_spares_training():
    net = Half()
    denoiser = Rounding(net, Embedded(PROCESS, 3, 5), clamp=0.6)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    vectors = net.space.clamp(0.5 * x)
    assert not torch.equal(vectors, 0.5 * x)
    torch.testing.assert_close(denoiser(x, instant(0.6), None).parts["data"], vectors)
    torch.testing.assert_close(denoiser(x, instant(0.59), None).parts["data"], 0.5 * x)
    mixed = denoiser(x, torch.tensor([0.7, 0.1]), None).parts["data"]
    torch.testing.assert_close(mixed, torch.stack([vectors[0], 0.5 * x[1]]))
    torch.testing.assert_close(denoiser.predict(x, instant(0.9), None).parts["data"], 0.5 * x)
    alpha, sigma = PROCESS.schedule(0.6)
    noise = denoiser(x, instant(0.6), None).parts["noise"]
    torch.testing.assert_close(noise, (x - alpha * vectors) / sigma, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="clamp is a time"):
        Rounding(net, Embedded(PROCESS, 3, 5), clamp=1.5)


def test_what_was_estimated_is_recalled_in_the_next_step():
    """prev = last prediction, zeros first; the noisy half moves as it would alone."""
    net = Half(recalls=True)
    process = Embedded(Recalling(PROCESS), 3, 5)
    x = process.start((2, 4), rng=RowRng(0, range(2)))
    assert x.shape == (2, 4, 6)
    assert torch.equal(x[..., 3:], torch.zeros(2, 4, 3))
    denoiser = Rounding(net, process)
    t, s = instant(0.8), instant(0.5)
    first = process.reverse(x, t, s, denoiser(x, t, None), eta=0.0, rng=RowRng(0, range(2)))
    torch.testing.assert_close(first[..., 3:], 0.5 * x[..., :3])
    alone = Embedded(PROCESS, 3, 5)
    plain = Rounding(Half(), alone)(x[..., :3], t, None)
    torch.testing.assert_close(first[..., :3], alone.reverse(x[..., :3], t, s, plain, eta=0.0, rng=RowRng(0, range(2))))
    denoiser(first, s, None)
    torch.testing.assert_close(net.seen[-1][..., 3:], 0.5 * x[..., :3])
    data = torch.randn(2, 4, 3)
    draw = process.draw(data, torch.tensor([0.2, 0.9]), rng=RowRng(1, range(2)))
    assert torch.equal(draw.x[..., 3:], torch.zeros_like(data))
    pictures = Recalling(PROCESS, axis=1)
    assert pictures.start((2, 3, 4, 5), rng=RowRng(0, range(2))).shape == (2, 6, 4, 5)


def test_guidance_in_one_batch_is_guidance_in_two_calls_where_the_state_recalls():
    class Told(Half):
        def forward(self, x, t, cond):
            return super().forward(x, t, cond) * (1.0 + cond.values["n"] * cond.present["n"])[:, None, None]

    process = Embedded(Recalling(PROCESS), 3, 5)
    denoiser, cond = Rounding(Told(recalls=True), process), Condition.of(n=torch.tensor([1.0, 2.0]))
    x, t = process.draw(torch.randn(2, 4, 3), instant(0.4), rng=RowRng(0, range(2))).x, instant(0.4)
    apart = denoiser(x, t, cond.null()).lerp(denoiser(x, t, cond), 1.5)
    joint = CFG(denoiser, 1.5)(x, t, cond)
    for name in ("data", "noise"):
        torch.testing.assert_close(joint.parts[name], apart.parts[name])
    ends = [process.reverse(x, t, instant(0.2), est, eta=0.0, rng=RowRng(1, range(2))) for est in (apart, joint)]
    torch.testing.assert_close(*ends)


def test_what_depends_on_the_condition_alone_is_made_once():
    class Costly(Half):
        cacheable = True
        made = 0

        def encode(self, cond):
            self.made += 1
            return cond.adding(kept=cond.values["input"] + 1)

        def forward(self, x, t, cond):
            assert torch.equal(cond.values["kept"], cond.values["input"] + 1)
            return super().forward(x, t, cond)

    net = Costly()
    process = Embedded(PROCESS, 3, 5)
    cond = Condition.of(input=torch.arange(2))
    grid = Uniform()(PROCESS.schedule, 5)
    ids = sample(process, Rounding(net, process), Jump(), (2, 4), grid, cond=cond, rng=RowRng(0, range(2)))
    assert ids.shape == (2, 4)
    assert net.made == 1
    assert len(net.seen) == 5
