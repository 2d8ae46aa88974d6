"""Mask-and-replace: its closed forms against products of its steps, its posterior against Bayes' rule."""

from __future__ import annotations

import itertools

import pytest
import torch

from condiff.core import Categorical, RowRng
from condiff.process import MaskAndReplace
from condiff.solvers import Jump

K, T = 5, 20
REAL = MaskAndReplace(K, T)
MIXED = MaskAndReplace(K, T, kept=0.9, replaced=0.05)
"""A process that replaces often, so that a wrong b would be seen."""


def at(i: float) -> torch.Tensor:
    return torch.tensor(i / T, dtype=torch.float64)


def matrix(process: MaskAndReplace, s: float, t: float) -> torch.Tensor:
    """Q[j, k] = q(x_t = j | x_s = k), (K + 1, K + 1)."""
    a, b, c = process.between(at(s), at(t))
    q = torch.zeros(K + 1, K + 1, dtype=torch.float64)
    q[:K, :K] = a * torch.eye(K, dtype=torch.float64) + b
    q[K, :K], q[K, K] = c, 1.0
    return q


@pytest.mark.parametrize("process", [REAL, MIXED], ids=["real", "mixed"])
def test_a1_the_product_of_the_steps_is_the_closed_form(process):
    """prod Q_s equals (a~, b~, c~) to 1e-13, columns sum to 1, and 1 - a~ - c~ stays `replaced` from step 1 on."""
    q = torch.eye(K + 1, dtype=torch.float64)
    for i in range(1, T + 1):
        step = matrix(process, i - 1, i)
        torch.testing.assert_close(step.sum(0), torch.ones(K + 1, dtype=torch.float64), atol=1e-14, rtol=0)
        q = step @ q
        a, b, c = process.levels(at(i))
        torch.testing.assert_close(q[:K, :K], a * torch.eye(K, dtype=torch.float64) + b, atol=1e-13, rtol=0)
        torch.testing.assert_close(q[K, :K], c.expand(K), atol=1e-13, rtol=0)
        assert float(1 - a - c) == pytest.approx(process.replaced, rel=1e-6)
    assert float(REAL.levels(at(1))[0]) == pytest.approx(0.99999)
    assert float(REAL.levels(at(T))[0]) == pytest.approx(9e-6)
    assert float(REAL.levels(at(1))[2]) == pytest.approx(9e-6)
    assert float(REAL.levels(at(T))[2]) == pytest.approx(0.99999)
    assert [float(level) for level in REAL.levels(at(0))] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("process", [REAL, MIXED], ids=["real", "mixed"])
@pytest.mark.parametrize(("s", "t"), [(0, 1), (3, 4), (5, 17), (19, 20)])
@pytest.mark.parametrize("soft", [False, True])
def test_a2_posterior_is_bayes(process, s, t, soft):
    """For x_t a mask and every visible token, x_0 known or a mixture; steps of any length."""
    g = torch.Generator().manual_seed(0)
    p = torch.rand(K, generator=g, dtype=torch.float64)
    p = p / p.sum() if soft else torch.nn.functional.one_hot(torch.tensor(2), K).double()
    whole, up, to_s = matrix(process, 0, t), matrix(process, s, t), matrix(process, 0, s)
    for x in range(K + 1):
        terms = torch.zeros(K + 1, dtype=torch.float64)
        for z in range(K):
            terms += p[z] * up[x] * to_s[:, z] / whole[x, z]
        found = process.posterior(torch.tensor([x]), at(t).expand(1), at(s).expand(1), p.log()[None])[0].exp()
        torch.testing.assert_close(found, terms, atol=1e-10, rtol=1e-7)
        assert float(found.sum()) == pytest.approx(1.0)


def test_the_chain_reproduces_the_data():
    """Sampling with the exact posterior of a known token's law gives that law back, by 1, 3 or 20 steps."""
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)

    def est(x):
        return Categorical(p.log().expand(len(x), 1, K))

    for nodes in ([20, 0], [20, 11, 4, 0], list(range(20, -1, -1))):
        x, rng = torch.full((20_000, 1), K), RowRng(1, range(20_000))
        if nodes == [20, 0]:
            x = REAL.start((20_000, 1), rng=rng)
        for t, s in itertools.pairwise(nodes):
            x = REAL.reverse(x, at(t), at(s), est(x), eta=0.0, rng=rng)
        share = torch.bincount(x.flatten(), minlength=K + 1)[:K] / 20_000
        # The state at T still holds a share of 1e-5 of real tokens; 3.5 standard errors.
        assert (share - p).abs().max() < 0.013
        assert not bool((x == K).any())


def test_draws_follow_the_levels():
    rng = RowRng(0, [0])
    x = MIXED.draw(torch.full((1, 200_000), 3), at(10).expand(1), rng=rng).x[0]
    a, b, c = (float(level) for level in MIXED.levels(at(10)))
    share = torch.bincount(x, minlength=K + 1) / 200_000
    expected = torch.tensor([b, b, b, a + b, b, c])
    assert (share - expected).abs().max() < 0.004


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="solver ddim"):
        Jump(0.5).step(
            REAL,
            lambda x, t: Categorical(torch.zeros(1, 1, K)),
            Jump().init(torch.zeros(1, 1, dtype=torch.int64), at(2)),
            at(2),
            at(1),
            RowRng(0, [0]),
        )
    with pytest.raises(ValueError, match="steps down"):
        REAL.reverse(
            torch.zeros(1, 1, dtype=torch.int64),
            at(1),
            at(2),
            Categorical(torch.zeros(1, 1, K)),
            eta=0.0,
            rng=RowRng(0, [0]),
        )
    with pytest.raises(ValueError, match="vocabulary >= 1"):
        MaskAndReplace(0)
    with pytest.raises(ValueError, match="replaced"):
        MaskAndReplace(5, kept=0.99, replaced=0.02)
    with pytest.raises(TypeError, match="no latents"):
        REAL.draw(
            torch.zeros(1, 1, dtype=torch.int64), at(1), rng=RowRng(0, [0]), masked=torch.ones(1, 1, dtype=torch.bool)
        )
