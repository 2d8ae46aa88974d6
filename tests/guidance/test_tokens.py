"""Memo, expected calls (RADD's oracle 7), temperature and tails."""

from __future__ import annotations

import pytest
import torch

from condiff.core import Categorical, Condition, RowRng, sample
from condiff.guidance import CFG, Memo, Temperature, TopK, TopP, expected_calls, expected_changes
from condiff.oracles import TokenTable
from condiff.process import Absorbing
from condiff.solvers import Jump

PROCESS = Absorbing(3)
TABLE = TokenTable(PROCESS, torch.tensor([[0, 1, 2], [2, 2, 0], [1, 1, 1]]), torch.tensor([0.5, 0.3, 0.2]))
HALF = torch.tensor(0.5)


def fixed(*p):
    return lambda x, t, cond: Categorical(torch.tensor(p).log().expand(*x.shape, len(p)))


@pytest.mark.parametrize(
    ("steps", "length", "changes"), [(8, 16, 7.06), (64, 64, 40.64), (256, 64, 56.72), (4096, 1024, 906.13)]
)
def test_the_formula_gives_the_published_numbers(steps, length, changes):
    assert expected_changes(steps, length) == pytest.approx(changes, abs=0.01)
    assert 0.0 < expected_calls(steps, length) - expected_changes(steps, length) < 1.0


@pytest.mark.parametrize(("steps", "length"), [(8, 16), (64, 20)])
def test_measured_calls_are_the_expected_ones(steps, length):
    rows = 400
    memo = Memo(lambda x, t, cond: Categorical(torch.zeros(*x.shape, 3)))
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sample(PROCESS, memo, Jump(), (rows, length), grid, rng=RowRng(0, range(rows)))
    assert memo.rows / rows == pytest.approx(expected_calls(steps, length), abs=0.35)
    assert memo.calls == steps


class Counting:
    """Logits that name the token at each position, and a record of what was asked."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, t, cond):
        self.seen.append(x.tolist())
        shift = 0 if cond is None else cond.values["label"][:, None, None]
        return Categorical(torch.nn.functional.one_hot(x, 4).float()[..., :3] + shift)


def test_a_memo_asks_only_rows_that_changed_and_gathers_from_old_answers():
    inner = Counting()
    memo = Memo(inner)
    a = torch.tensor([[0, 3, 3], [3, 3, 1], [3, 2, 3]])
    first = memo(a, HALF, None)
    assert torch.equal(first.logits, Counting()(a, HALF, None).logits)
    inner.seen.clear()
    b = a.clone()
    b[1, 0] = 2
    second = memo(b, HALF, None)
    assert inner.seen == [[[2, 3, 1]]]
    assert torch.equal(second.logits, Counting()(b, HALF, None).logits)
    c = b.clone()
    c[2, 0] = 1
    c[0, 1] = 0
    third = memo(c, HALF, None)
    assert inner.seen[1:] == [[[0, 0, 3], [1, 2, 3]]]
    whole = Counting()(c, HALF, None).logits
    for where in (c == 3, torch.ones_like(c, dtype=torch.bool), torch.zeros_like(c, dtype=torch.bool)):
        assert torch.equal(third.at(where), whole[where])
    assert torch.equal(first.logits, Counting()(a, HALF, None).logits)  # what was returned stays as it was
    assert memo(c, HALF, None).logits.shape == whole.shape
    assert (memo.calls, memo.rows) == (3, 6)


def test_another_condition_or_shape_is_asked_anew():
    inner = Counting()
    memo = Memo(inner)
    x = torch.tensor([[0, 3], [3, 3]])
    one, two = (Condition.of(label=torch.tensor(v)) for v in ([0, 0], [1, 5]))
    a = memo(x, HALF, one).logits
    b = memo(x, HALF, two).logits
    assert torch.equal(b - a, torch.tensor([1.0, 5.0])[:, None, None].expand_as(a))
    changed = x.clone()
    changed[1, 0] = 1
    c = memo(changed, HALF, two)
    assert torch.equal(c.logits[1], Counting()(changed, HALF, two).logits[1])
    memo(x[:1], HALF, two.rows(torch.tensor([0])))
    assert len(inner.seen) == 4


def test_estimates_are_asked_where_needed_through_guidance():
    """lerp, map and halves of a deferred estimate give at some positions what they give at all."""
    asked = []

    def make(where):
        asked.append(where)
        every = torch.arange(24.0).reshape(4, 2, 3) % 5
        return every if where is None else every[where]

    where = torch.tensor([[True, False], [False, True]])
    for weight in (1.5, torch.tensor([0.5, 2.0])):
        null, given = Categorical.deferred(make).halves(torch.zeros(2, 2))
        mixed = null.lerp(given, weight)
        some = mixed.at(where)
        assert all(one is not None and int(one.sum()) == 2 for one in asked)
        torch.testing.assert_close(some, mixed.logits[where])
        asked.clear()
    doubled = given.map(lambda logits: 2 * logits)
    torch.testing.assert_close(doubled.at(where), doubled.logits[where])
    torch.testing.assert_close(doubled.logits, 2 * make(None)[2:])


def test_guided_tokens_through_a_memo_equal_plain():
    x = torch.tensor([[3, 1, 3], [3, 3, 0]])
    cond = Condition.of(label=torch.tensor([0, 1]))
    plain = CFG(TABLE, 1.7)(x, HALF, cond)
    torch.testing.assert_close(plain.logits, Memo(CFG(TABLE, 1.7))(x, HALF, cond).logits)


def test_temperature_sharpens():
    est = Temperature(fixed(0.8, 0.2), 0.5)(torch.zeros(1, 1), HALF, None)
    torch.testing.assert_close(est.logits.softmax(-1)[0, 0], torch.tensor([0.64, 0.04]) / 0.68)


@pytest.mark.parametrize(
    ("shaped", "expected"),
    [
        (lambda d: TopK(d, 2), [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        (lambda d: TopK(d, 9), [0.5, 0.3, 0.15, 0.05]),
        (lambda d: TopP(d, 0.49), [1, 0, 0, 0]),
        (lambda d: TopP(d, 0.51), [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        (lambda d: TopP(d, 1.0), [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_tails_are_cut_by_rank_and_by_mass(shaped, expected):
    est = shaped(fixed(0.5, 0.3, 0.15, 0.05))(torch.zeros(2, 3), HALF, None)
    torch.testing.assert_close(est.logits.softmax(-1)[1, 2], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    "make",
    [lambda: TopK(TABLE, 0), lambda: TopP(TABLE, 0.0), lambda: TopP(TABLE, 1.1), lambda: Temperature(TABLE, 0.0)],
)
def test_unusable_numbers_are_refused(make):
    with pytest.raises(ValueError, match="needs|must"):
        make()
