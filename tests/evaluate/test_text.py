"""Measures of text against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.evaluate import cross_entropy, known_words, token_bound, unigram_entropy, words_of


def test_the_bound_is_in_bits_with_its_perplexity_and_spread():
    rows = torch.tensor([1.0, 3.0, 2.0, 2.0]) * math.log(2.0)
    bound = token_bound(lambda data, key: rows + (key % 2) * 0.5 * math.log(2.0), torch.zeros(4, 3), num_draws=2)
    assert bound.value == pytest.approx(2.25)
    assert bound.details["perplexity"] == pytest.approx(2.0**2.25)
    assert bound.details["spread"] == pytest.approx(0.5 / 2**0.5)
    assert bound.interval[0] < 2.25 < bound.interval[1]


def test_entropies_by_hand():
    rows = torch.tensor([[0, 0, 1, 2]])
    assert unigram_entropy(rows, 5) == pytest.approx(1.5)
    # Counts plus one of four tokens: (3, 2, 2, 1) of 8.
    expected = (2 * math.log2(8 / 3) + 2 * math.log2(8 / 2)) / 4
    assert cross_entropy(rows, torch.tensor([[0, 0, 1, 2]]), 4) == pytest.approx(expected)


def test_whole_long_words_are_looked_up_in_any_case():
    vocabulary = words_of(["cut In the Beginning God cu"])
    assert vocabulary == {"in", "the", "beginning", "god"}
    metric = known_words(["x God thx THE in y", "x beginning z", "x no words9 of three z"], vocabulary, of="tests")
    # 2 of 3, 1 of 1, and of "no words of three" the longer two are unknown.
    assert metric.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metric.n == 3
    with pytest.raises(ValueError, match="whole words in 0 texts"):
        known_words(["a b", ""], vocabulary, of="tests")
