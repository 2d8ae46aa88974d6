"""Minimum Bayes risk among answers."""

from __future__ import annotations

import pytest
import torch

from condiff.core.rng import key
from condiff.evaluate import in_place, rouge_l
from condiff.recipes import radd
from condiff.tasks.choose import MBR, smoothed_bleu, write_best
from condiff.tasks.text import joined, write


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


def test_the_best_of_several_texts_is_one_of_those_that_write_gives():
    """Each text is chosen among its own answers; the first seed is the caller's; one answer is `write` itself."""
    torch.manual_seed(0)
    system = radd(length=12, width=32, depth=1)
    for weight in system.denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    alone = joined(write(system, num_samples=3, seed=4))
    assert write_best(system, 1, num_samples=3, seed=4) == alone
    seeds = [4, key(4, "answer", 1), key(4, "answer", 2)]
    answers = [joined(write(system, num_samples=3, seed=seed)) for seed in seeds]
    shortest = MBR(lambda one, other: float(-len(one.encode())))
    found = write_best(system, 3, shortest, num_samples=3, seed=4)
    groups = list(zip(*answers, strict=True))
    assert found == [group[shortest.choose(group)] for group in groups]
    assert any(len(set(group)) > 1 for group in groups)
    with pytest.raises(ValueError, match="at least 1"):
        write_best(system, 0)
