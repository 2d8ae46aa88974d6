"""The byte n-gram against sums by hand and by brute force; its perplexity always has an entropy beside it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from condiff.evaluate import NGram, generative_perplexity


def test_two_orders_by_hand():
    """ "abab", "b": a twice, b three times of five, two kinds; after a always b, after b once a."""
    made = NGram.fit([b"abab", b"b"], 2)
    one = {"a": (2 + 2 / 256) / 7, "b": (3 + 2 / 256) / 7, "z": (0 + 2 / 256) / 7}
    found = made.bits([b"ab", b"bz", b"zz", b""])
    expected = [
        [one["a"], (2 + 1 * one["b"]) / 3],
        [one["b"], (0 + 1 * one["z"]) / 2],
        [one["z"], one["z"]],  # nothing ever followed a z
        [],
    ]
    for row, chances in zip(found, expected, strict=True):
        assert row.tolist() == pytest.approx([-math.log2(p) for p in chances])


def brute(texts, context, byte, order):
    chance = 1 / 256
    for k in range(min(order - 1, len(context)) + 1):
        before = context[len(context) - k :]
        after = Counter(t[i + k] for t in texts for i in range(len(t) - k) if t[i : i + k] == before)
        if after:
            total, kinds = sum(after.values()), len(after)
            chance = (after[byte] + kinds * chance) / (total + kinds)
    return chance


def test_every_context_is_a_distribution_and_equals_counting_one_by_one():
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(0, 4, size).astype(np.uint8)) for size in (0, 1, 30, 50)]
    made = NGram.fit(texts, 4)
    probe = bytes(rng.integers(0, 5, 20).astype(np.uint8))
    for i in range(len(probe)):
        found = np.array([row[-1] for row in made.bits([probe[:i] + bytes([b]) for b in range(256)])])
        assert np.exp2(-found).sum() == pytest.approx(1.0)
        for b in range(5):
            assert 2.0 ** -found[b] == pytest.approx(brute(texts, probe[:i], b, 4))
    together = made.bits([probe, texts[2], probe])  # neighbours in the list do not lend each other context
    assert together[0].tolist() == together[2].tolist() == made.bits([probe])[0].tolist()


def test_more_context_judges_real_text_better_and_repetition_shows_in_the_entropy():
    prose = b"the quick brown fox jumps over the lazy dog; a dog ran over the hill and the fox sat down. " * 30
    held = [b"the lazy fox ran down the hill", b"a quick dog jumps over the fox"]
    bits = [float(np.concatenate(NGram.fit([prose], order).bits(held)).mean()) for order in (1, 2)]
    assert bits[0] > bits[1] + 1.0
    scorer = NGram.fit([prose], 2)
    good = generative_perplexity(held, scorer, entropy=4.1, of="samples")
    assert good.value == pytest.approx(2.0 ** good.details["bits_per_byte"])
    assert good.details["bits_per_byte"] == pytest.approx(float(np.concatenate(scorer.bits(held)).mean()))
    assert good.details["entropy"] == 4.1
    assert good.interval[0] < good.value < good.interval[1]
    babble = generative_perplexity([b"the the the the", b"the the the the the"], scorer, entropy=2.0, of="samples")
    assert babble.value < good.value  # likely, and yet bad: so the entropy is never left out
    with pytest.raises(TypeError, match="entropy"):
        generative_perplexity(held, scorer, of="samples")


def test_what_cannot_be_counted_is_one_line():
    with pytest.raises(ValueError, match="1 to 7 bytes"):
        NGram.fit([b"a"], 8)
    with pytest.raises(ValueError, match="no text"):
        NGram.fit([b""])
    with pytest.raises(ValueError, match="in 1 texts"):
        generative_perplexity([b"a", b""], NGram.fit([b"a"]), entropy=0.0, of="samples")
