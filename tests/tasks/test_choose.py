"""Minimum Bayes risk among answers."""

from __future__ import annotations

import pytest
import torch

from condiff.evaluate import in_place, rouge_l
from condiff.tasks.choose import MBR, smoothed_bleu


def test_identical_answers_are_returned():
    assert MBR().choose(["the same words here now"] * 4) == 0
    assert MBR().choose(["one"]) == 0
    with pytest.raises(ValueError, match="no answer"):
        MBR().choose([])


def test_the_answer_nearest_to_the_others_wins_whatever_the_utility():
    answers = ["zzz", "in the beginning god made", "in the beginning god makes", "in the beginning god made it"]
    for utility in (smoothed_bleu, rouge_l, in_place):
        assert MBR(utility).choose(answers) == 1
    # By hand: letters in place. abc: 2/3 + 1/3, abz: 2/3 + 2/3, xbz: 1/3 + 2/3.
    matrix = MBR(in_place).matrix(["abc", "abz", "xbz"])
    torch.testing.assert_close(matrix * 3, torch.tensor([[0, 2, 1], [2, 0, 2], [1, 2, 0]], dtype=torch.float64))
    assert MBR(in_place).choose(["abc", "abz", "xbz"]) == 1


def test_a_symmetric_utility_has_a_symmetric_matrix_and_another_keeps_its_sides():
    answers = ["a b c d e", "a b c", "a b c d e"]
    matrix = MBR(rouge_l).matrix(answers)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.diagonal(), torch.zeros(3, dtype=torch.float64))
    bleu = MBR().matrix(answers)
    assert float(bleu[1, 0]) == smoothed_bleu("a b c", "a b c d e") != float(bleu[0, 1])
    longer = MBR(lambda one, other: float(len(one) - len(other)))
    assert longer.choose(["a", "bbb", "cc"]) == 1


def test_each_pair_is_asked_once():
    asked = []

    def utility(one, other):
        asked.append((one, other))
        return 0.0

    MBR(utility).matrix(["a", "b", "a", "b", "a"])
    assert sorted(asked) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
