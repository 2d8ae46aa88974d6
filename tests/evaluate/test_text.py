"""Measures of text against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.data import Bytes, Characters
from condiff.evaluate import (
    bits_per_byte,
    bits_per_token,
    cross_entropy,
    known_words,
    token_bound,
    unigram_entropy,
    words_of,
)


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


def test_bits_a_byte_compare_tokens_of_any_kind():
    """Two rows of three tokens at 2 and 4 bits each: "ab" of two bytes and an end, "é" unknown and twice an end."""
    alphabet = Characters("ab")
    data = torch.tensor([[0, 1, 3], [2, 3, 3]])
    draws = torch.tensor([[1.0, 3.0], [3.0, 5.0]]).double()
    made = bits_per_byte(draws, data, alphabet)
    bits = 3 * 2.0 + 3 * 4.0 + math.log2(1_112_064 - 2)
    assert made.value == pytest.approx(bits / (2 + 3))  # the unknown character is spelled in three bytes
    assert made.details["bits_per_character"] == pytest.approx(bits / 3)
    assert made.interval[0] < made.value < made.interval[1]
    plain = torch.tensor([[104, 105, 106]] * 2)
    assert bits_per_byte(draws, plain, Bytes()).value == pytest.approx(3.0)
    assert bits_per_token(draws).value == pytest.approx(3.0)
    with pytest.raises(ValueError, match="no text"):
        bits_per_byte(draws, torch.full((2, 3), 256), Bytes())
