"""CDCD's exact oracles: the limits of the step term, of lambda, of negatives, and the gradients of both forms."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.core import Categorical, Condition, RowRng, SharedRng
from condiff.core.estimate import Moments
from condiff.core.process import Draw
from condiff.guidance import TopP
from condiff.objectives import (
    AnyOrder,
    CleanError,
    CleanNats,
    Contrastive,
    Denoising,
    Difference,
    InfoNCE,
    Listed,
    OtherRows,
    Shuffled,
    StepBound,
    StepNats,
)
from condiff.process import (
    Absorbing,
    Flow,
    Gaussian,
    Importance,
    LinearMasking,
    MaskAndReplace,
    UniformTime,
    Velocity,
    draw_times,
)

K, L, B, T = 4, 8, 6, 50
PROCESS = MaskAndReplace(K, T)
G = torch.Generator().manual_seed(0)
TABLE = torch.randn(L, K, generator=G, dtype=torch.float64)
DATA = torch.randint(0, K, (B, L), generator=G)
COND = Condition.of(label=torch.tensor([0, 0, 1, 1, 2, 2]))


def denoiser(table=TABLE):
    return lambda x, t, cond: Categorical(torch.log_softmax(table, -1).expand(len(x), L, K))


def contrastive(**kw):
    kw = {"score": StepNats(PROCESS, T), "negatives": OtherRows("label", 3), **kw}
    return Contrastive(StepBound(PROCESS), **kw)


def rows(objective, data=DATA, cond=COND, table=TABLE, seed=0):
    return objective(denoiser(table), data, cond, rng=SharedRng(seed)).rows


def test_a3_absorbing_limit_of_the_step_term():
    """Without replacing, the KL at a mask is u_t (-log p), 0 at visible tokens; so step = sample up to u_t."""
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.98, 1.0], dtype=torch.float64)
    pure = MaskAndReplace(K, T, replaced=0.0)
    x = torch.where(torch.rand(B, L, generator=G) < 0.5, K, DATA)
    est = denoiser()(x, t, None)
    nats = -torch.log_softmax(TABLE, -1).expand(B, L, K).gather(-1, DATA[..., None])[..., 0]
    keep, before = pure.levels(t)[0], pure.levels(t - 1 / T)[0]
    u = (before - keep) / (1 - keep)
    expected = u * torch.where(x == K, nats, 0.0).sum(1)
    torch.testing.assert_close(StepNats(pure, T)(x, t, est, DATA), expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(expected, u * CleanNats(K)(x, t, est, DATA))
    # The same from the posteriors themselves, by Bayes' rule and the definition of KL.
    certain = torch.where(torch.arange(K) == DATA[..., None], 0.0, -torch.inf).double()
    truth, guess = (pure.posterior(x, t, t - 1 / T, one) for one in (certain, est.logits))
    whole = torch.where(truth > -torch.inf, truth.exp() * (truth - guess), 0.0).sum((1, 2))
    torch.testing.assert_close(whole, expected, atol=1e-10, rtol=1e-8)
    # The trace of replacing changes masks by about its own size only. (At a visible token it asks of the estimate, which
    # here does not look, that it be sure of it.)
    hidden = torch.full_like(x, K)
    found = StepNats(PROCESS, T)(hidden, t, est, DATA)
    torch.testing.assert_close(found, u * CleanNats(K)(hidden, t, est, DATA), atol=1e-3, rtol=1e-3)


def test_a3_the_absorbing_process_has_the_same_term():
    t = torch.linspace(0.1, 1.0, B, dtype=torch.float64)
    process = Absorbing(K, LinearMasking())
    x = torch.where(torch.rand(B, L, generator=G) < 0.5, K, DATA)
    found = StepNats(process, T)(x, t, denoiser()(x, t, None), DATA)
    torch.testing.assert_close(found, CleanNats(K)(x, t, denoiser()(x, t, None), DATA) / (t * T))


def test_without_replacing_gradients_are_finite_and_a_negative_against_what_is_visible_counts_at_masks_only():
    pure = MaskAndReplace(K, T, replaced=0.0)
    table = TABLE.clone().requires_grad_()
    x, t = torch.where(torch.arange(L) % 2 == 0, K, DATA), torch.full((B,), 0.5, dtype=torch.float64)
    draw = Draw(x, t, {"data": DATA})
    objective = Contrastive(StepBound(pure), StepNats(pure, T), OtherRows("label", 3), InfoNCE())
    objective(denoiser(table), DATA, COND, rng=SharedRng(0), draw=draw).rows.sum().backward()
    assert bool(table.grad.isfinite().all())
    assert bool((table.grad[::2] != 0.0).any())
    changed = torch.where(x == K, DATA, (DATA + 1) % K)
    est = denoiser()(x, t, None)
    assert torch.equal(StepNats(pure, T)(x, t, est, changed), StepNats(pure, T)(x, t, est, DATA))


def test_the_bound_is_the_cross_entropy_of_an_estimate_without_context():
    """num_steps x mean + prior = -log p(x_0) for a network that ignores x: the terms of a bound telescope."""
    process = MaskAndReplace(K, T, replaced=0.0)
    data, total = DATA[:1], torch.zeros((), dtype=torch.float64)
    nats = -torch.log_softmax(TABLE, -1).gather(-1, data[0][:, None])[:, 0]
    for i in range(1, T + 1):
        # The expectation over masks: a position is masked with chance c~, and counts u then.
        t = torch.full((1,), i / T, dtype=torch.float64)
        x = torch.full((1, L), K)
        total += float(process.levels(t)[2]) * StepNats(process, T)(x, t, denoiser()(x, t, None), data)[0]
    first = process.levels(torch.full((1,), 1.0, dtype=torch.float64))[0]
    # u_i c~_i = a~_(i-1) - a~_i sums to 1 - a~_T.
    assert float(total) == pytest.approx(float(nats.sum() * (1 - first)), rel=1e-9)


def test_importance_times_keep_the_bound_and_each_step_its_own_weight():
    """E over times of weight x term is the plain mean over steps, whatever density the steps are drawn with."""
    steps = 4
    process = MaskAndReplace(K, steps, replaced=0.0)
    law = Importance((1.0, 5.0, 2.0, 8.0))

    def est(x, t, cond):
        return Categorical(torch.log_softmax(TABLE * t[:, None, None], -1).expand(len(x), L, K))

    def term(i, times):
        t = torch.tensor([i / steps], dtype=torch.float64)
        draw = Draw(torch.full((1, L), K), t, {"data": DATA[:1]})
        return float(StepBound(process, times=times)(est, DATA[:1], None, rng=SharedRng(0), draw=draw).rows[0])

    chance = torch.tensor(law.density, dtype=torch.float64) / sum(law.density)
    plain = sum(term(i, UniformTime()) for i in range(1, steps + 1)) / steps
    weighed = sum(float(chance[i - 1]) * term(i, law) for i in range(1, steps + 1))
    assert weighed == pytest.approx(plain, rel=1e-12)
    drawn = draw_times(law, (40_000,), schedule=Flow(), rng=SharedRng(0))
    share = torch.bincount((drawn * steps).ceil().long(), minlength=steps + 1)[1:] / 40_000
    assert (share - chance).abs().max() < 0.01


def test_truncation_keeps_the_top_mass_and_the_posterior_stays_normal():
    """VQ-Diffusion's top-r: a token outside of the smallest set that holds r of the mass is never written."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    cut = TopP(lambda x, t, cond: Categorical(p.log().expand(len(x), 1, K)), 0.86)
    hidden, t = torch.full((2000, 1), K), torch.tensor(1.0, dtype=torch.float64)
    est = cut(hidden, t, None)
    made = PROCESS.reverse(hidden, t, torch.zeros_like(t), est, eta=0.0, rng=SharedRng(0))
    assert set(made.flatten().tolist()) == {0, 1, 2}
    found = PROCESS.posterior(hidden[:1], t, t / 2, torch.log_softmax(est.logits[:1], -1)).exp()[0, 0]
    assert float(found.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found[:3] / found[:3].sum(), p[:3] / p[:3].sum(), atol=1e-6, rtol=0)
    # The trace of replacing, 1e-6 in all, is all that is left of it.
    assert float(found[3]) < 1e-6


def test_a4_no_weight_is_the_base_bit_for_bit():
    assert torch.equal(rows(contrastive(weight=0.0)), rows(StepBound(PROCESS)))


def test_a4_equal_negatives_are_one():
    few, many = (contrastive(negatives=_Same(1, n), form=Difference(), weight=0.1) for n in (1, 5))
    torch.testing.assert_close(rows(few), rows(many))


class _Same:
    """n copies of the batch rolled by k rows."""

    def __init__(self, k, n):
        self.k, self.n = k, n

    def __call__(self, data, cond, *, rng):
        return data.roll(self.k, 0).expand(self.n, *data.shape)


def test_a4_the_truth_as_negative_takes_the_bound_away():
    """negative = positive gives (1 - lambda (1 + t)) L_vb."""
    bare = StepBound(PROCESS, auxiliary=0.0)
    objective = Contrastive(bare, StepNats(PROCESS, T), _Same(0, 3), Difference(), weight=0.2)
    t = torch.full((B,), 0.5, dtype=torch.float64)
    draw = PROCESS.draw(DATA, t, rng=SharedRng(3))
    found = objective(denoiser(), DATA, COND, rng=SharedRng(0), draw=draw).rows
    base = bare(denoiser(), DATA, COND, rng=SharedRng(0), draw=draw).rows
    torch.testing.assert_close(found, (1 - 0.2 * 1.5) * base)


def test_a5_shuffled_pieces_are_whole_and_never_in_order():
    """A permutation of whole pieces; the order as it was is drawn again; what does not divide stays at the end."""
    data = torch.arange(11).expand(2, 11)
    seen = set()
    for seed in range(200):
        for one in Shuffled(2, 2)(data, None, rng=SharedRng(seed)):
            assert sorted(one[0].tolist()) == list(range(11))
            assert one[0].tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10]
        three = Shuffled(3, 1)(data, None, rng=SharedRng(seed))[0]
        assert torch.equal(three[0], three[1])
        pieces = three[0, :9].reshape(3, 3)
        assert all(piece.tolist() == list(range(piece[0], piece[0] + 3)) for piece in pieces)
        assert three[0, 9:].tolist() == [9, 10]
        seen.add(tuple(three[0, ::3].tolist()))
    assert len(seen) == 5
    with pytest.raises(ValueError, match="at least as many tokens"):
        Shuffled(12)(data, None, rng=SharedRng(0))


def test_other_rows_are_of_another_condition_and_all_of_them_come():
    data = torch.arange(B)[:, None]
    made = torch.stack([OtherRows("label", 4)(data, COND, rng=SharedRng(s)) for s in range(50)]).flatten(0, 1)[..., 0]
    labels = COND.values["label"]
    assert bool((labels[made] != labels).all())
    assert all(set(made[:, b].tolist()) == {k for k in range(B) if labels[k] != labels[b]} for b in range(B))
    alone = OtherRows("label", 2)(data, Condition.of(label=torch.zeros(B, dtype=torch.int64)), rng=SharedRng(0))
    assert torch.equal(alone[0], data)
    with pytest.raises(ValueError, match="'label'"):
        OtherRows("label")(data, None, rng=SharedRng(0))


def test_listed_negatives_come_with_the_data_and_the_network_does_not_see_them():
    wrong = torch.randint(0, K, (B, 2, L), generator=G)
    seen = []

    def watched(x, t, cond):
        seen.append(set(cond.values))
        return denoiser()(x, t, cond)

    objective = contrastive(negatives=Listed(), form=Difference(), weight=0.1)
    found = objective(watched, DATA, COND.adding(negatives=wrong), rng=SharedRng(0)).rows
    assert seen == [{"label"}]

    class Given:
        def __call__(self, data, cond, *, rng):
            return wrong.transpose(0, 1)

    torch.testing.assert_close(found, rows(contrastive(negatives=Given(), form=Difference(), weight=0.1)))
    with pytest.raises(ValueError, match="negatives"):
        rows(objective)


@pytest.mark.parametrize("form", [Difference(), InfoNCE()])
def test_a6_gradients_of_both_forms(form):
    """grad = grad L_vb - lambda w/J sum grad D_j for the difference; softmax weights in place of 1/J for InfoNCE."""
    table = TABLE.clone().requires_grad_()
    t = torch.full((B,), 0.6, dtype=torch.float64)
    draw = PROCESS.draw(DATA, t, rng=SharedRng(5))
    wrong = torch.stack([DATA.roll(1, 0), DATA.roll(2, 0), DATA.flip(1)])
    score = CleanNats()

    class Given:
        def __call__(self, data, cond, *, rng):
            return wrong

    def gradient(value):
        return torch.autograd.grad(value, table, retain_graph=True)[0]

    objective = Contrastive(StepBound(PROCESS, 0.0), score, Given(), form, weight=0.3)
    found = gradient(objective(denoiser(table), DATA, COND, rng=SharedRng(0), draw=draw).rows.sum())
    est = denoiser(table)(draw.x, t, None)
    base = gradient(StepBound(PROCESS, 0.0)(denoiser(table), DATA, COND, rng=SharedRng(0), draw=draw).rows.sum())
    truth, others = score(draw.x, t, est, DATA), [score(draw.x, t, est, one) for one in wrong]
    if isinstance(form, Difference):
        expected = base - 0.3 * 1.6 / L * sum(gradient(one.sum()) for one in others) / 3
    else:
        share = torch.softmax(torch.stack([-truth, *(-one for one in others)]), 0).detach()
        parts = (1 - share[0]) * truth - sum(share[j + 1] * one for j, one in enumerate(others))
        expected = base + 0.3 * 1.6 / L * gradient(parts.sum())
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_a6_infonce_weighs_one_negative_by_a_half_when_it_is_as_likely_and_by_nothing_when_it_is_far():
    for gap, expected in ((0.0, 0.5), (30.0, 0.0)):
        wrong = torch.tensor([[1.0 + gap]], dtype=torch.float64, requires_grad=True)
        InfoNCE()(torch.tensor([1.0], dtype=torch.float64), wrong).sum().backward()
        assert float(-wrong.grad) == pytest.approx(expected, abs=1e-12)
    assert float(InfoNCE()(torch.zeros(1), torch.zeros(3, 1))) == pytest.approx(math.log(4))


def test_a7_the_difference_is_unbounded_and_infonce_is_not():
    """Free logits, one fixed negative: the difference drives it to the floor at no cost, InfoNCE stops."""
    ends = {}
    for name, form in (("difference", Difference()), ("floor", Difference(12.0)), ("nce", InfoNCE())):
        table = torch.zeros(1, K, requires_grad=True)
        optimizer = torch.optim.Adam([table], 0.3)
        for _ in range(600):
            log_p = torch.log_softmax(table, -1).clamp_min(-70.0)
            term = form(-log_p[:, 0], -log_p[None, :, 1])
            optimizer.zero_grad()
            (-log_p[0, 0] + 0.01 * term.sum()).backward()
            optimizer.step()
        log_p = torch.log_softmax(table, -1)
        ends[name] = log_p[0, :2].tolist()
    assert ends["difference"][1] < -69.0
    assert ends["difference"][0] > -1e-3
    assert -25.0 < ends["floor"][1]
    assert -25.0 < ends["nce"][1]


def test_a_gaussian_system_has_the_contrast_too():
    """score = |target - data|^2: by hand, with one negative."""
    process = Gaussian(Flow())
    data = torch.randn(B, 3, generator=G, dtype=torch.float64)
    objective = Contrastive(Denoising(process, Velocity()), CleanError(2.0), _Same(1, 1), Difference(), weight=0.1)

    def guess(x, t, cond):
        return process.complete(x, t, 0.5 * x)

    t = torch.full((B,), 0.5, dtype=torch.float64)
    draw = process.draw(data, t, rng=RowRng(0, range(B), dtype=torch.float64))
    found = objective(guess, data, COND, rng=SharedRng(0), draw=draw).rows
    base = Denoising(process, Velocity())(guess, data, COND, rng=SharedRng(0), draw=draw).rows
    distance = (data.roll(1, 0) - 0.5 * draw.x).square().sum(1)
    torch.testing.assert_close(found, base - 0.1 * 1.5 * distance / 2.0 / 3)
    assert isinstance(guess(draw.x, t, None), Moments)


def test_an_objective_of_several_calls_is_refused():
    class Twice:
        def __call__(self, denoiser, data, cond, *, rng, draw=None):
            AnyOrder(Absorbing(K))(denoiser, data, cond, rng=rng)
            return AnyOrder(Absorbing(K))(denoiser, data, cond, rng=rng)

    with pytest.raises(ValueError, match="made 2 calls"):
        rows(Contrastive(Twice(), CleanNats(), OtherRows("label")))
