"""CtrlDiff's exact oracle 5: guidance of tokens by a classifier."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from condiff.core import Categorical, RowRng
from condiff.guidance import CFG, BestTokens, Classified, EveryToken, Taylor
from condiff.oracles import TokenTable
from condiff.process import Absorbing
from condiff.solvers import Gained, Jump

G = torch.Generator().manual_seed(0)
JOINT = torch.rand(2, 3, 3, 3, generator=G, dtype=torch.float64)
JOINT = JOINT / JOINT.sum()
PROCESS = Absorbing(3)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=3)))
DENOISER = TokenTable(PROCESS, EVERY, JOINT.sum(0).flatten())
MASK = 3
NONE = torch.empty(1, 0, dtype=torch.int64)
T = torch.tensor(0.5, dtype=torch.float64)


def judge(hot):
    """Exact log p(y = 1 | visible tokens)."""
    ids = hot.argmax(-1)
    agrees = ((EVERY[None] == ids[:, None]) | (ids[:, None] == MASK)).all(-1).double()
    both = agrees @ JOINT.flatten(1).T
    return (both[:, 1] / both.sum(1)).log()


def guided(**kw):
    return Classified(DENOISER, PROCESS, judge, **kw)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a5_one_token_a_step_has_the_law_given_the_class(order):
    """Exact classifier, scale 1: the product of the guided conditionals is p(x | y), for all six orders."""
    wanted = JOINT[1].flatten() / JOINT[1].sum()
    found = []
    for text in EVERY:
        ids, chance = torch.full((1, 3), MASK), 1.0
        for place in order:
            est = guided()(ids, T, None)
            chance *= float(est.logits[0, place].exp()[text[place]])
            ids = ids.clone()
            ids[0, place] = text[place]
        found.append(chance)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, atol=1e-7, rtol=1e-6)


def test_a5_no_scale_is_no_guidance():
    ids = torch.tensor([[MASK, 1, MASK]])
    torch.testing.assert_close(guided(scale=0.0)(ids, T, None).logits, DENOISER(ids, T, None).logits)


def test_a5_the_chance_of_staying_masked_is_kept_at_scale_one_and_falls_above():
    """sum_v p(v) p(y | i := v) = p(y | x): gain 1 at scale 1; by convexity more above."""
    ids = torch.tensor([[MASK, MASK, MASK], [MASK, 2, MASK]])
    one = guided()(ids, T, None).aux["gain"]
    torch.testing.assert_close(one, torch.zeros_like(one), atol=1e-6, rtol=0)
    gains = [guided(scale=scale)(ids, T, None).aux["gain"][ids == MASK] for scale in (2.0, 4.0)]
    assert bool((gains[0] > 0).all())
    assert bool((gains[1] > gains[0]).all())


def test_a5_a_linear_classifier_makes_taylor_exact():
    weight = torch.randn(3, 4, generator=G)

    def linear(hot):
        return (hot * weight).sum((1, 2))

    ids = torch.tensor([[MASK, 1, MASK], [MASK, MASK, MASK]])
    exact, first = (Classified(DENOISER, PROCESS, linear, 1.5, how)(ids, T, None) for how in (EveryToken(), Taylor()))
    torch.testing.assert_close(exact.logits, first.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exact.aux["gain"], first.aux["gain"], atol=1e-5, rtol=1e-5)


def test_a5_taylor_is_only_correlated_where_the_classifier_is_not_linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))

    def judged(hot):
        return net(hot)[:, 0]

    ids = torch.full((1, 3), MASK)
    where, logits = ids == MASK, torch.zeros(3, 3)
    with torch.no_grad():
        exact = EveryToken()(judged, ids, where, logits, NONE)
    first = Taylor()(judged, ids, where, logits, NONE)
    both = torch.corrcoef(torch.stack([exact.flatten(), first.flatten()]))
    assert 0.3 < float(both[0, 1]) < 0.9999


def test_best_tokens_are_asked_and_the_others_stay():
    ids = torch.full((1, 3), MASK)
    logits = DENOISER(ids, T, None).logits[ids == MASK]
    exact = EveryToken(rows=4)(judge, ids, ids == MASK, logits, NONE)
    two = BestTokens(2, rows=3)(judge, ids, ids == MASK, logits, NONE)
    best = logits.topk(2, -1).indices
    torch.testing.assert_close(two.gather(-1, best).double(), exact.gather(-1, best).double(), atol=1e-6, rtol=0)
    assert int((two == 0).sum()) == 3
    torch.testing.assert_close(
        BestTokens(9)(judge, ids, ids == MASK, logits, NONE).double(), exact.double(), atol=1e-6, rtol=0
    )


def test_visible_tokens_and_other_positions_are_left_alone():
    ids = torch.tensor([[0, 1, MASK]])
    est = guided(scale=3.0)(ids, T, None)
    assert est.logits[0, 0].tolist() == [0.0, -torch.inf, -torch.inf]
    assert est.aux["gain"][0, :2].tolist() == [0.0, 0.0]


def test_the_gained_step_has_the_law_of_the_tilted_step():
    """Chance of staying masked: (1 - c) / (1 - c + c g), against 6,000 steps; without gain it is Jump."""
    rows, t, s = 6_000, torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    c, gain = 0.3 / 0.8, 0.9

    def denoise(x, t):
        return Categorical(torch.zeros(*x.shape, 3), {"gain": torch.full(x.shape, gain)})

    x = torch.full((rows, 1), MASK)
    done = Gained().step(PROCESS, denoise, Gained().init(x, t), t, s, RowRng(0, range(rows))).x
    g = float(torch.tensor(gain).exp())
    stays = (1 - c) / (1 - c + c * g)
    share = float((done == MASK).double().mean())
    assert abs(share - stays) < 3.5 * (stays * (1 - stays) / rows) ** 0.5
    plain = (
        Gained()
        .step(
            PROCESS,
            lambda x, t: Categorical(torch.zeros(*x.shape, 3)),
            Gained().init(x, t),
            t,
            s,
            RowRng(0, range(rows)),
        )
        .x
    )
    assert torch.equal(
        plain,
        Jump()
        .step(
            PROCESS, lambda x, t: Categorical(torch.zeros(*x.shape, 3)), Jump().init(x, t), t, s, RowRng(0, range(rows))
        )
        .x,
    )
    end = (
        Gained()
        .step(PROCESS, denoise, Gained().init(x, t), t, torch.tensor(0.0, dtype=torch.float64), RowRng(0, range(rows)))
        .x
    )
    assert not bool((end == MASK).any())


def test_classifier_free_limits():
    """gamma = 1 conditional, 0 unconditional; with a uniform null it is temperature 1 / gamma."""
    from condiff.core import Condition

    def denoise(x, t, cond):
        logits = torch.tensor([[0.5, -1.0, 2.0]]).expand(len(x), 1, 3)
        return Categorical(
            torch.where(cond.present["label"][:, None, None], torch.log_softmax(logits, -1), torch.zeros(()))
        )

    cond, ids = Condition.of(label=torch.tensor([1])), torch.full((1, 1), MASK)
    for scale in (0.0, 1.0, 2.5):
        est = torch.log_softmax(CFG(denoise, scale)(ids, T, cond).logits, -1)
        torch.testing.assert_close(est[0, 0], torch.log_softmax(scale * torch.tensor([0.5, -1.0, 2.0]), -1))


@pytest.mark.parametrize("how", [EveryToken(), BestTokens(3), Taylor()])
def test_the_classifier_reads_what_is_finished_before_the_block(how):
    """A block after two finished tokens is tilted as the last place of the whole text is."""
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))

    def curved(hot):
        return (hot * weight).sum((1, 2)).square()

    whole = torch.tensor([[2, 0, MASK], [1, 1, MASK]])
    logits = torch.randn(2, 3, generator=G)
    here = torch.tensor([[False, False, True]]).expand(2, 3)
    all_at_once = how(curved, whole, here, logits, NONE.expand(2, 0))
    block = how(curved, whole[:, 2:], torch.ones(2, 1, dtype=torch.bool), logits, whole[:, :2])
    torch.testing.assert_close(block, all_at_once)
    assert float((all_at_once[0] - all_at_once[1]).abs().max()) > 1e-3
