"""The four forms of the token bound against enumeration, draw by draw and in expectation (RADD's oracles 1 to 4)."""

from __future__ import annotations

import math
from itertools import combinations, permutations, product
from math import comb

import pytest
import torch

from condiff.core import Categorical, Draw, SharedRng
from condiff.objectives import AnyOrder, MaskedTokens, ScoreEntropy, TimeCrossEntropy
from condiff.objectives.tokens import rate_and_weight
from condiff.oracles import TokenTable
from condiff.process import Absorbing, GeometricMasking, LinearMasking, UniformTime
from condiff.process.absorbing import reveal

V, L = 3, 4
PROCESS = Absorbing(V)
SUBSETS = [s for k in range(1, L + 1) for s in combinations(range(L), k)]


class Inconsistent:
    """A table of unrelated conditionals: one random distribution for each visible pattern and position."""

    def __init__(self, process: Absorbing = PROCESS) -> None:
        self.process = process
        generator = torch.Generator().manual_seed(0)
        self.table = 2.0 * torch.randn((V + 1) ** L, L, V, generator=generator, dtype=torch.float64)
        self.base = (V + 1) ** torch.arange(L)

    def __call__(self, x, t, cond):
        return Categorical(reveal(self.table[(x * self.base).sum(1)], x, self.process.mask))


def cross_entropy(denoiser, data, masked):
    """CE_S of one text and one set, from the definition."""
    x = data.clone()
    x[list(masked)] = V
    logits = denoiser(x[None], torch.tensor(0.5), None).logits[0]
    return -sum(float(torch.log_softmax(logits[i], -1)[data[i]]) for i in masked)


def draws(data, process, t):
    """Every set of masks as one batch, at one time each."""
    masked = torch.zeros(len(SUBSETS), L, dtype=torch.bool)
    for row, subset in zip(masked, SUBSETS, strict=True):
        row[list(subset)] = True
    rows = data.expand(len(SUBSETS), L)
    t = torch.full((len(SUBSETS),), t, dtype=torch.float64)
    return rows, Draw(rows.masked_fill(masked, V), t, {"data": rows, "masked": masked})


@pytest.fixture
def text():
    return torch.tensor([2, 0, 1, 1])


def test_sum_over_sets_is_the_average_over_orders_is_the_beta_integral(text):
    model = Inconsistent()
    entropy = {s: cross_entropy(model, text, s) for s in SUBSETS}
    over_sets = sum(entropy[s] / (len(s) * comb(L, len(s))) for s in SUBSETS)
    orders = list(permutations(range(L)))
    total = 0.0
    for order in orders:
        for j in range(L):
            hidden = tuple(sorted(order[j:]))
            x = text.clone()
            x[list(hidden)] = V
            log_p = torch.log_softmax(model(x[None], torch.tensor(0.5), None).logits[0, order[j]], -1)
            total -= float(log_p[text[order[j]]]) / len(orders)
    assert over_sets == pytest.approx(total, rel=1e-12)
    share = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    integral = sum(entropy[s] * float((share ** (len(s) - 1) * (1 - share) ** (L - len(s))).mean()) for s in SUBSETS)
    assert over_sets == pytest.approx(integral, rel=1e-7)
    # The objective itself, drawn: stratified shares of masks, many rows.
    rows = text.expand(40_000, L)
    drawn = MaskedTokens(PROCESS, UniformTime())(model, rows, None, rng=SharedRng(0)).rows * L
    assert float(drawn.mean()) == pytest.approx(over_sets, abs=4.5 * float(drawn.std()) / 200)
    orders_drawn = AnyOrder(PROCESS)(model, rows, None, rng=SharedRng(1)).rows * L
    assert float(orders_drawn.mean()) == pytest.approx(over_sets, abs=4.5 * float(orders_drawn.std()) / 200)
    assert float(orders_drawn.std()) < float(drawn.std())  # the exact number of masks takes noise away


def test_exact_conditionals_give_the_likelihood_of_every_text():
    generator = torch.Generator().manual_seed(1)
    every = torch.tensor(list(product(range(V), repeat=L)))
    p = torch.rand(len(every), generator=generator, dtype=torch.float64)
    p = p / p.sum()
    exact = TokenTable(PROCESS, every, p)
    for k in (0, 17, 80):
        bound = sum(cross_entropy(exact, every[k], s) / (len(s) * comb(L, len(s))) for s in SUBSETS)
        assert bound == pytest.approx(-float(p[k].log()), rel=1e-9)


@pytest.mark.parametrize("masking", [LinearMasking(), LinearMasking(1e-3), GeometricMasking()], ids=str)
@pytest.mark.parametrize("t", [0.1, 0.6, 0.97])
def test_the_forms_agree_draw_by_draw(text, masking, t):
    process = Absorbing(V, masking)
    model = Inconsistent(process)
    rows, draw = draws(text, process, t)
    found = {
        kind: kind(process)(model, rows, None, rng=SharedRng(0), draw=draw).rows * L
        for kind in (ScoreEntropy, TimeCrossEntropy, MaskedTokens, AnyOrder)
    }
    entropy = torch.tensor([cross_entropy(model, text, s) for s in SUBSETS], dtype=torch.float64)
    size = torch.tensor([len(s) for s in SUBSETS], dtype=torch.float64)
    rate, w = (float(v[0]) for v in rate_and_weight(process, draw.t))
    torch.testing.assert_close(found[ScoreEntropy], rate * w * entropy)
    if isinstance(masking, LinearMasking):
        assert rate * w == pytest.approx(1.0 / t)
    offset = -rate * w * size * math.log(w)
    torch.testing.assert_close(found[TimeCrossEntropy] - found[ScoreEntropy], offset, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[MaskedTokens], entropy / float(process.masked(draw.t)[0]))
    torch.testing.assert_close(found[AnyOrder], L / size * entropy)


def test_a_row_that_does_not_sum_to_one_is_seen_by_the_score_entropy_only(text):
    class Loose:
        def __call__(self, x, t, cond):
            return Categorical(torch.log_softmax(Inconsistent()(x, t, cond).logits, -1).clamp_min(-50.0) + 0.2)

    rows, draw = draws(text, PROCESS, 0.6)
    score, plain = (
        kind(PROCESS)(Loose(), rows, None, rng=SharedRng(0), draw=draw).rows for kind in (ScoreEntropy, MaskedTokens)
    )
    assert float((score - plain).abs().min()) > 1e-3


def test_gradients_of_both_time_forms_are_equal_and_stay_off_visible_positions_and_the_mask(text):
    rows, draw = draws(text, PROCESS, 0.6)
    grads = []
    for kind in (ScoreEntropy, TimeCrossEntropy, MaskedTokens):
        logits = torch.randn(
            len(SUBSETS), L, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        ).requires_grad_()
        loss = kind(PROCESS)(
            lambda x, t, cond, logits=logits: Categorical(reveal(logits, x, V)), rows, None, rng=SharedRng(0), draw=draw
        )
        loss.rows.sum().backward()
        assert logits.shape[-1] == V  # there is no column for the mask
        assert not bool(logits.grad[~draw.latents["masked"]].any())
        grads.append(logits.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(grads[0], grads[2], atol=1e-12, rtol=1e-9)


def test_a_padded_draw_never_divides_by_zero(text):
    rows = text.expand(64, L)
    none = torch.zeros(64, L, dtype=torch.bool)
    t = torch.full((64,), 1e-3)
    draw = Draw(rows, t, {"data": rows, "masked": none})
    for kind in (ScoreEntropy, TimeCrossEntropy, MaskedTokens, AnyOrder):
        loss = kind(PROCESS)(Inconsistent(), rows, None, rng=SharedRng(0), draw=draw).rows
        assert torch.equal(loss, torch.zeros_like(loss))


def test_strata_lower_the_variance(text):
    rows = text.expand(256, L)
    spread, plain = (
        torch.stack([law(Inconsistent(), rows, None, rng=SharedRng(k)).rows.mean() for k in range(60)]).var()
        for law in (MaskedTokens(PROCESS), MaskedTokens(PROCESS, UniformTime(low=1e-3)))
    )
    assert float(spread) < float(plain)
