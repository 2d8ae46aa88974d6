"""CtrlDiff's exact oracles 3 and 4: costs, dynamic programming, exact gradients and their estimates."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import nn

from condiff.core import Categorical, Condition, RowRng, SharedRng
from condiff.process import Absorbing
from condiff.process.absorbing import reveal
from condiff.tasks.partition import (
    EntropySize,
    FixedSize,
    LearnedSize,
    PartitionMDP,
    before,
    greedy_cost,
    learn,
    one_shot_nats,
    proximal,
    reinforce,
    step_nats,
)

SIZES = (1, 2, 4)
L = 7
G = torch.Generator().manual_seed(0)
COST = torch.rand(L, 3, generator=G, dtype=torch.float64)
LOGITS = torch.randn(L, 3, generator=G, dtype=torch.float64)


def partitions(length):
    """All ways to cut a text, as tuples of sizes."""
    if length == 0:
        yield ()
    for size in SIZES:
        if size <= length:
            yield from ((size, *rest) for rest in partitions(length - size))


def cost_of(cut, cost=COST):
    places = [0, *itertools.accumulate(cut)]
    return sum(cost[p, SIZES.index(k)] for p, k in zip(places, cut, strict=False))


def chance_of(cut, log_pi):
    places = [0, *itertools.accumulate(cut)]
    return sum(log_pi[p, SIZES.index(k)] for p, k in zip(places, cut, strict=False)).exp()


def test_a4_expected_cost_and_gradient_equal_enumeration():
    mdp = PartitionMDP(COST, SIZES)
    logits = LOGITS.clone().requires_grad_()
    found = mdp.expected(logits)
    everything = sum(chance_of(cut, mdp.log_policy(logits)) * cost_of(cut) for cut in partitions(L))
    torch.testing.assert_close(found, everything, atol=1e-14, rtol=0)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, everything))
    torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)


def test_a4_dynamic_programming_equals_brute_force_and_bounds_every_policy():
    mdp = PartitionMDP(COST, SIZES)
    best, choice = mdp.optimal()
    assert float(best) == pytest.approx(min(float(cost_of(cut)) for cut in partitions(L)))
    p, cut = 0, ()
    while p < L:
        cut += (SIZES[int(choice[p])],)
        p += cut[-1]
    assert float(cost_of(cut)) == pytest.approx(float(best))
    for seed in range(20):
        logits = torch.randn(L, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert float(mdp.expected(logits)) >= float(best) - 1e-12


def test_a4_a_policy_sure_of_one_size_is_the_fixed_size():
    mdp = PartitionMDP(COST, SIZES)
    for a, size in enumerate(SIZES):
        # Sure of it, and of the largest that fits where it does not.
        logits = torch.arange(3.0, dtype=torch.float64).expand(L, 3) * 1e3
        logits = logits.masked_fill(torch.arange(3) > a, -1e6)
        torch.testing.assert_close(mdp.expected(logits), mdp.fixed(size))
    assert float(mdp.fixed(1)) == pytest.approx(float(COST[:, 0].sum()))
    with pytest.raises(ValueError, match="none of"):
        mdp.fixed(3)


def test_a4_reinforce_agrees_with_the_exact_gradient():
    """100 groups of 60 draws at once: every entry within 4 standard errors, and 1 / G for 1 / (G - 1) is seen."""
    one, many = PartitionMDP(COST, SIZES), PartitionMDP(COST.expand(60, L, 3), SIZES)
    logits = LOGITS.clone().requires_grad_()
    exact = torch.autograd.grad(one.expected(logits), logits)[0]
    draws = []
    for k in range(100):
        loss = reinforce(many.rollout(logits.expand(60, L, 3), 4, rng=SharedRng(k)))
        draws.append(torch.autograd.grad(loss, logits)[0])
    stack = torch.stack(draws)
    error = (stack.mean(0) - exact) / (stack.std(0) / len(draws) ** 0.5 + 1e-12)
    assert float(error.abs().max()) < 4.0
    size = float((stack.mean(0) * exact).sum() / exact.square().sum())
    assert 0.9 < size < 1.1


def test_a4_the_groups_spread_scales_the_gradient():
    mdp = PartitionMDP(10.0 * COST.expand(1, L, 3), SIZES)
    plain = PartitionMDP(COST.expand(1, L, 3), SIZES)
    logits = LOGITS[None].clone().requires_grad_()

    def gradient(which, **kw):
        return torch.autograd.grad(reinforce(which.rollout(logits, 4, rng=SharedRng(1)), **kw), logits)[0]

    torch.testing.assert_close(gradient(mdp), 10.0 * gradient(plain))
    torch.testing.assert_close(gradient(mdp, normalise=True), gradient(plain, normalise=True))
    with pytest.raises(ValueError, match="at least 2"):
        reinforce(plain.rollout(logits, 1, rng=SharedRng(1)))


def test_a4_ppo_begins_at_reinforce_and_is_clipped():
    """At the old policy the gradient is REINFORCE's times (G - 1) / G; far from it, it is 0 where it is clipped."""
    mdp = PartitionMDP(COST.expand(1, L, 3), SIZES)
    logits = LOGITS[None].clone().requires_grad_()
    drawn = mdp.rollout(logits, 4, rng=SharedRng(3))
    ours = torch.autograd.grad(proximal(mdp, logits, drawn, bonus=0.0), logits)[0]
    theirs = torch.autograd.grad(reinforce(drawn), logits, retain_graph=True)[0]
    torch.testing.assert_close(ours, theirs * 3 / 4)
    # What was better than the mean is taken ten times as often already, what was worse a hundredth: both are clipped.
    good = drawn.cost < drawn.cost.mean()
    shift = torch.where(good, math.log(10.0), -math.log(100.0))
    far = type(drawn)(drawn.cost, (drawn.log_p - shift).detach(), drawn.entropy, drawn.choices)
    assert float(torch.autograd.grad(proximal(mdp, logits, far, bonus=0.0), logits)[0].abs().max()) == 0.0
    # The other way round nothing is, and the ratio itself is the factor.
    near = type(drawn)(drawn.cost, (drawn.log_p + shift).detach(), drawn.entropy, drawn.choices)
    ahead = drawn.cost - drawn.cost.mean()
    expected = torch.autograd.grad(((drawn.log_p - near.log_p).exp() * ahead).mean(), logits, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(proximal(mdp, logits, near, bonus=0.0), logits)[0], expected)
    # The bonus rewards a spread-out policy.
    spread, plain = (proximal(mdp, logits, drawn, bonus=bonus).detach() for bonus in (0.1, 0.0))
    assert spread < plain


def test_rollouts_are_partitions_with_their_own_cost_and_chance():
    mdp = PartitionMDP(COST.expand(3, L, 3), SIZES)
    drawn = mdp.rollout(LOGITS.expand(3, L, 3), 50, rng=RowRng(0, range(3)))
    log_pi = mdp.log_policy(LOGITS)
    seen = set()
    for row, cost, log_p in zip(drawn.choices.flatten(0, 1), drawn.cost.flatten(), drawn.log_p.flatten(), strict=True):
        cut = tuple(SIZES[int(a)] for a in row if a >= 0)
        assert sum(cut) == L
        assert float(cost) == pytest.approx(float(cost_of(cut)))
        assert float(log_p.exp()) == pytest.approx(float(chance_of(cut, log_pi)))
        seen.add(cut)
    assert len(seen) > 10


def test_a4_price_of_a_call_chooses_the_size():
    """beta -> 0 picks blocks of one token, beta -> inf the largest."""
    quality = torch.tensor([1.0, 2.2, 5.0], dtype=torch.float64).expand(8, 3)
    for beta, size in ((0.0, 1), (0.5, 2), (100.0, 4)):
        best, choice = PartitionMDP(quality + beta, SIZES).optimal()
        assert SIZES[int(choice[0])] == size
        torch.testing.assert_close(best, PartitionMDP(quality + beta, SIZES).fixed(size))


class TwoRegimes:
    """Exact one-shot conditionals of 16 tokens of 8 kinds: 8 that are i.i.d., then a walk, each the last one +-1 mod 8."""

    kinds, half, length = 8, 8, 16
    process = Absorbing(kinds)

    def texts(self, num, seed):
        """Draw texts (num, 16)."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(0, self.kinds, (num, self.half), generator=generator)
        steps = 2 * torch.randint(0, 2, (num, self.length - self.half), generator=generator) - 1
        return torch.cat([first, (first[:, -1:] + steps.cumsum(1)) % self.kinds], 1)

    def ahead(self, steps):
        """Return the law of a walk after a number of steps from 0, (8,)."""
        law = torch.eye(self.kinds, dtype=torch.float64)[0]
        for _ in range(steps):
            law = (law.roll(1) + law.roll(-1)) / 2
        return law

    def law(self, place, begin, last):
        """Return the law (8,) of the token at a place, for a block begun at `begin` after the token `last`."""
        if place < self.half or begin < self.half:  # the walk's own begin is hidden too
            return torch.full((self.kinds,), 1 / self.kinds, dtype=torch.float64)
        return self.ahead(place - begin + 1).roll(last)

    def remember(self, cond, x):
        return Condition.of(text=x)

    def beside(self, x, blocks, memory):
        text = memory.values["text"]
        begin = [int((blocks[0] == number).nonzero()[0]) for number in blocks[0]]
        rows = [[self.law(i, p, int(row[p - 1])) for i, p in enumerate(begin)] for row in text]
        return Categorical(torch.stack([torch.stack(row) for row in rows]).log())

    def mean_cost(self):
        """Return what a block costs on average, (16, A): entropies, known exactly."""
        cost = torch.full((self.length, len(SIZES)), torch.inf, dtype=torch.float64)
        for p in range(self.length):
            for a, size in enumerate(SIZES):
                if p + size <= self.length:
                    cost[p, a] = sum(torch.special.entr(self.law(i, p, 0)).sum() for i in range(p, p + size))
        return cost


def test_a4_two_regime_toy_policy_is_within_two_percent_of_value_iteration():
    """First half i.i.d. tokens, second half a walk whose tokens depend on each other: large blocks, then small ones.

    The policy sees regime and remaining length and learns from the one-shot costs of 200 texts; the optimum is that of
    value iteration over both, for the exact mean costs.
    """
    toy = TwoRegimes()
    exact = toy.mean_cost()
    quality = one_shot_nats(toy, toy.texts(200, 0), SIZES).double()
    fits = torch.isfinite(exact)
    torch.testing.assert_close(quality.mean(0)[fits], exact[fits], atol=0.15, rtol=0.0)
    assert torch.equal(torch.isfinite(quality[0]), fits)
    exact, quality = (torch.where(fits, cost, 0.0) for cost in (exact, quality))
    place = torch.arange(toy.length)
    states = torch.stack([(place >= toy.half).float(), (toy.length - place) / toy.length], 1)
    for price, sizes in ((0.2, [4, 4] + [1] * 8), (0.5, [4, 4, 2, 2, 2, 2])):
        mdp = PartitionMDP(exact + price, SIZES)
        best, choice = mdp.optimal()
        cut = []
        while sum(cut) < toy.length:
            cut.append(SIZES[int(choice[sum(cut)])])
        assert cut == sizes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = LearnedSize(2, SIZES)
        learn(policy, PartitionMDP((quality + price).float(), SIZES), states, steps=300, learning_rate=2e-2)
        found = float(mdp.expected(policy(states, mdp.remaining()).double()).detach())
        assert float(best) <= found <= 1.02 * float(best)
        assert found < min(float(mdp.fixed(size)) for size in SIZES)


class Table(nn.Module):
    """Exact conditionals of a joint law of 3 tokens of 3 kinds, for any blocks."""

    def __init__(self, p):
        super().__init__()
        self.p, self.process = p, Absorbing(3)
        self.conditional = functools.cache(self.conditional)

    def conditional(self, ids):
        p = self.p
        for axis, value in enumerate(ids):
            if value < 3:
                p = p.index_select(axis, torch.tensor([value]))
        out = []
        for axis in range(3):
            rest = tuple(k for k in range(3) if k != axis)
            marginal = p.sum(rest)
            out.append(marginal / marginal.sum() if ids[axis] == 3 else torch.ones(3, dtype=p.dtype) / 3)
        return torch.stack(out)

    def remember(self, cond, x):
        return Condition.of(text=x)

    def beside(self, x, blocks, memory):
        return self.paired(x, memory.values["text"], blocks, None)

    def paired(self, x, data, blocks, cond):
        logits = torch.zeros(*x.shape, 3, dtype=torch.float64)
        for b in range(len(x)):
            for i in range(3):
                ids = tuple(
                    int(data[b, j])
                    if blocks[b, j] < blocks[b, i]
                    else int(x[b, j])
                    if blocks[b, j] == blocks[b, i]
                    else 3
                    for j in range(3)
                )
                logits[b, i] = self.conditional(ids)[i].log()
        return Categorical(reveal(logits, x, 3))


P = torch.rand(3, 3, 3, generator=G, dtype=torch.float64)
P = P / P.sum()
EVERY = torch.tensor(list(itertools.product(range(3), repeat=3)))


def test_a3_one_shot_cost_is_the_product_of_marginals_and_its_excess_is_the_total_correlation():
    nats = one_shot_nats(Table(P), EVERY, (1, 2)).double()
    first, pair = P.sum((1, 2)), P.sum(2)
    a, b, c = EVERY.T
    torch.testing.assert_close(nats[:, 0, 1], -(first[a].log() + P.sum((0, 2))[b].log()), atol=1e-5, rtol=1e-5)
    given = pair[a] / first[a, None]
    last = P[a, b] / pair[a, b, None]
    torch.testing.assert_close(nats[:, 1, 0], -given[torch.arange(27), b].log(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(nats[:, 2, 0], -last[torch.arange(27), c].log(), atol=1e-5, rtol=1e-5)
    assert torch.isinf(nats[:, 2, 1]).all()
    weight = P[a, b, c]
    excess = (weight * (nats[:, 0, 1] + pair[a, b].log())).sum()
    correlation = (pair * (pair.log() - first.log()[:, None] - P.sum((0, 2)).log()[None])).sum()
    assert float(excess) == pytest.approx(float(correlation), abs=1e-6)
    assert float(correlation) > 0


def test_a4_a_bound_in_steps_falls_to_the_likelihood_like_one_over_them():
    """With exact conditionals: one step is the one-shot cost, and each doubling about halves what is above -log p."""
    near = torch.eye(3, dtype=torch.float64) + 0.15
    joint = near[:, :, None] * near[None]
    joint = joint / joint.sum()
    table, a, b, c = Table(joint), *EVERY.T
    exact = -(joint[a, b, c] * joint[a, b, c].log()).sum()

    class Even:
        """Uniform numbers spread evenly over the cube, the same for every text: no luck in so few draws."""

        def uniform(self, shape):
            return torch.quasirandom.SobolEngine(3).draw(shape[0] // 27).repeat_interleave(27, 0).double()

    def mean(size, steps, draws=16):
        nats = step_nats(table, EVERY.repeat(draws, 1), (size,), steps, rng=Even())
        return nats[..., 0].double().unflatten(0, (draws, 27)).mean(0)

    torch.testing.assert_close(mean(3, 1), one_shot_nats(table, EVERY, (3,))[..., 0].double())
    gaps = {steps: float((mean(3, steps)[:, 0] * joint[a, b, c]).sum() - exact) for steps in (1, 2, 4)}
    assert gaps[1] > 0.5
    for steps in (1, 2):
        assert 0.35 < gaps[2 * steps] / gaps[steps] < 0.7, gaps
    torch.testing.assert_close(mean(1, 4), one_shot_nats(table, EVERY, (1,))[..., 0].double(), atol=0.02, rtol=0.0)
    with pytest.raises(ValueError, match="at least one step"):
        step_nats(table, EVERY, (3,), 0, rng=Even())


def test_policies_by_hand():
    state, entropy = torch.zeros(3, 2), torch.tensor([0.1, 1.0, 3.0])
    assert FixedSize(4).size(state, entropy, 3).tolist() == [3, 3, 3]
    chooser = EntropySize((1, 2, 4), (2.0, 0.5))
    assert chooser.size(state, entropy, 9).tolist() == [4, 2, 1]
    assert chooser.size(state, entropy, 2).tolist() == [2, 2, 1]
    with pytest.raises(ValueError, match="falling"):
        EntropySize((1, 2, 4), (0.5, 2.0))
    learned = LearnedSize(2, SIZES)
    with torch.no_grad():
        learned.out.weight.zero_()
        learned.out.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert learned.size(state, entropy, 9).tolist() == [4, 4, 4]
    assert learned.size(state, entropy, 3).tolist() == [2, 2, 2]
    assert before(torch.arange(6.0).reshape(1, 3, 2))[0].tolist() == [[0, 0], [0, 1], [2, 3]]


def test_a_policy_begins_as_the_best_fixed_size_and_keeps_what_is_best_on_texts_held_out():
    """Costs that its states say nothing of can only be learned by heart: then the fixed size is kept."""
    generator = torch.Generator().manual_seed(4)
    cost = torch.rand(60, 8, 3, generator=generator) + torch.tensor([1.0, 1.2, 3.0])
    states = torch.randn(60, 8, 5, generator=generator)
    own, held = (PartitionMDP(part, SIZES) for part in (cost[:8], cost[8:]))
    best = min(SIZES, key=lambda size: float(own.fixed(size).mean()))
    torch.manual_seed(0)
    fresh = learn(LearnedSize(5, SIZES), own, states[:8], steps=0)
    torch.testing.assert_close(greedy_cost(fresh, held, states[8:]), held.fixed(best))
    learned = learn(LearnedSize(5, SIZES), own, states[:8], steps=200, learning_rate=3e-2)
    assert float(greedy_cost(learned, own, states[:8]).mean()) < 0.95 * float(own.fixed(best).mean())
    stopped = learn(LearnedSize(5, SIZES), own, states[:8], held=(held, states[8:]), steps=200, learning_rate=3e-2)
    assert float(greedy_cost(stopped, held, states[8:]).mean()) <= float(held.fixed(best).mean()) + 1e-5  # rounding
    assert float(greedy_cost(learned, held, states[8:]).mean()) > float(held.fixed(best).mean())


def test_the_cost_of_the_likeliest_sizes_is_that_of_walking_along_them():
    mdp = PartitionMDP(COST.float().expand(2, L, 3), SIZES)
    states = torch.randn(2, L, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    policy = LearnedSize(4, SIZES)
    torch.nn.init.normal_(policy.left.weight)
    for b, found in enumerate(greedy_cost(policy, mdp, states)):
        p, total = 0, 0.0
        while p < L:
            k = int(policy.size(states[b, p][None], torch.zeros(1), L - p)[0])
            total, p = total + float(COST[p, SIZES.index(k)]), p + k
        assert float(found) == pytest.approx(total, rel=1e-5)


def test_wrong_problems_are_refused():
    with pytest.raises(ValueError, match="rise from 1"):
        PartitionMDP(COST, (2, 4, 8))
    with pytest.raises(ValueError, match="expected"):
        PartitionMDP(COST, (1, 2))
