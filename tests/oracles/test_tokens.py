"""Absorbing diffusion against enumeration: the law of a run with few steps is computed exactly, then sampled."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from condiff.core import SharedRng, sample
from condiff.oracles import TokenTable
from condiff.process import Absorbing
from condiff.solvers import Jump

PROCESS = Absorbing(3)
SEQUENCES = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 1, 1], [0, 2, 2]])
P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def exact_law(steps):
    """Law of the result: on a uniform grid each position is revealed at a uniform step, independently; positions of one
    step are drawn independently given what was revealed before. Written without the code under test."""
    data = [tuple(row) for row in SEQUENCES.tolist()]

    def marginal(seen, position):
        agree = [(p, seq) for p, seq in zip(P.tolist(), data, strict=True) if all(seq[i] == v for i, v in seen.items())]
        total = sum(p for p, _ in agree)
        return [sum(p for p, seq in agree if seq[position] == v) / total if agree else 1 / 3 for v in range(3)]

    law = dict.fromkeys(product(range(3), repeat=3), 0.0)
    for when in product(range(steps), repeat=3):
        partial = {(): 1.0}  # revealed (position, value) pairs -> probability
        for step in sorted(set(when)):
            grown = {}
            for seen, p in partial.items():
                new = [i for i in range(3) if when[i] == step]
                odds = [marginal(dict(seen), i) for i in new]
                for values in product(range(3), repeat=len(new)):
                    q = p
                    for value, odd in zip(values, odds, strict=True):
                        q *= odd[value]
                    if q:
                        key = (*seen, *zip(new, values, strict=True))
                        grown[key] = grown.get(key, 0.0) + q
            partial = grown
        for seen, p in partial.items():
            law[tuple(v for _, v in sorted(seen))] += p / steps**3
    return law


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_law_of_a_run_is_sampled(steps):
    count, law = 20000, exact_law(steps)
    assert sum(law.values()) == pytest.approx(1.0)
    x = sample(
        PROCESS, TokenTable(PROCESS, SEQUENCES, P), Jump(), (count, 3), torch.linspace(1, 0, steps + 1),
        rng=SharedRng(steps),
    )  # fmt: skip
    share = torch.bincount((x * torch.tensor([9, 3, 1])).sum(1), minlength=27).double() / count
    expected = torch.tensor([law[key] for key in product(range(3), repeat=3)], dtype=torch.float64)
    deviation = (share - expected).abs() / (expected * (1 - expected) / count).sqrt().clamp_min(1e-9)
    assert bool((share[expected == 0] == 0).all())
    assert float(deviation[expected > 0].max()) < 4.5


def test_a_table_is_checked():
    with pytest.raises(ValueError, match="sequences"):
        TokenTable(PROCESS, SEQUENCES, P[:2])
    with pytest.raises(ValueError, match="vocabulary of 3"):
        TokenTable(PROCESS, SEQUENCES + 1, P)
