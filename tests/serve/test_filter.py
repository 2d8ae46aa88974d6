from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condiff.serve import Cosine, MeanSquare, SimilarityFilter
from condiff.serve.filter import Reference


class Fixed:
    def __init__(self, c: float) -> None:
        self.c = c

    def __call__(self, frame, reference):
        return self.c


FRAME = torch.ones(1, 2, 2)


@pytest.mark.parametrize("c", [0.981, 0.99, 0.999])
def test_a6_skips_as_often_as_the_formula_says(c):
    """P(skip) = 1 - (1 - c) / (1 - 0.98) for a fixed similarity, over 100,000 draws, within 3 standard errors."""
    chooser = SimilarityFilter(max_skip=10, similarity=Fixed(c))
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    skipped = sum(not chooser(FRAME, Reference(FRAME), one)[0] for one in u) / len(u)
    expected = 1 - (1 - c) / 0.02
    assert abs(skipped - expected) < 3 * math.sqrt(expected * (1 - expected) / len(u))


@given(c=st.floats(-1.0, 0.98), u=st.floats(0.0, 1.0, exclude_max=True))
def test_a6_never_skips_at_or_under_the_threshold(c, u):
    assert SimilarityFilter(similarity=Fixed(c))(FRAME, Reference(FRAME), u)[0]


@given(max_skip=st.integers(0, 5), u=st.floats(0.0, 1.0, exclude_max=True))
def test_a6_identical_frames_are_skipped_until_max_skip_then_made_once(max_skip, u):
    chooser, last, made = SimilarityFilter(max_skip=max_skip), Reference(), []
    for _ in range(2 * max_skip + 3):
        make, last = chooser(FRAME, last, u)
        made.append(make)
    period = [True] + [False] * max_skip
    assert made == (period * 9)[: len(made)]


def test_the_reference_is_the_last_frame_that_was_made():
    chooser = SimilarityFilter(similarity=MeanSquare())
    make, last = chooser(FRAME, Reference(), 0.0)
    assert make
    make, last = chooser(FRAME * 0.99, last, 0.0)
    assert not make
    assert last.frame is FRAME
    assert last.skipped == 1


def test_cosine_by_hand_and_its_blind_spot():
    """Two flat frames of one sign are equal to the cosine, not to the mean square; mid-grey is like itself alone."""
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert Cosine()(a, b) == pytest.approx(24 / 25)
    assert Cosine()(FRAME, 0.1 * FRAME) == pytest.approx(1.0)
    assert MeanSquare()(FRAME, 0.1 * FRAME) == pytest.approx(1 - 0.81 / 4)
    assert Cosine()(0 * FRAME, FRAME) == -1.0
    assert Cosine()(0 * FRAME, 0 * FRAME) == 1.0
    assert MeanSquare()(FRAME, -FRAME) == 0.0


def test_a_frame_of_another_size_is_made_and_a_threshold_of_one_makes_all():
    assert SimilarityFilter()(torch.ones(3), Reference(FRAME), 0.0)[0]
    assert SimilarityFilter(threshold=1.0)(FRAME, Reference(FRAME), 0.0)[0]
    with pytest.raises(ValueError, match="max_skip"):
        SimilarityFilter(max_skip=-1)
