"""Overlap of texts, against numbers worked out by hand and against the packages that others use."""

from __future__ import annotations

import math
import random

import pytest

from condiff.evaluate.overlap import (
    corpus_bleu,
    distinct,
    in_place,
    longest_common,
    overlap,
    rouge_l,
    self_bleu,
    sentence_bleu,
    split,
)

WORDS = "in the beginning god made heaven and earth".split()


def texts(count, seed=0, low=0, high=12):
    generator = random.Random(seed)
    return [[generator.choice(WORDS) for _ in range(generator.randint(low, high))] for _ in range(count)]


def test_words_and_marks_are_tokens():
    assert split("And God said, Let there be light: it's") == [
        "And", "God", "said", ",", "Let", "there", "be", "light", ":", "it", "'", "s",
    ]  # fmt: skip


def test_bleu_of_a_sentence_by_hand():
    # 3 of 4 words, 1 of 3 pairs (the cat), no run of three or four: ln(4) / 10 of 2 and ln(4) / 20 of 1.
    score = sentence_bleu("the cat sat here", ["the cat is here"])
    expected = (3 / 4 * 1 / 3 * math.log(4) / 10 / 2 * math.log(4) / 20 / 1) ** 0.25
    assert score == pytest.approx(expected, rel=1e-12)
    # Shorter than the reference by two of six: the penalty is exp(1 - 6 / 4).
    long = sentence_bleu("a b c d", ["a b c d e f"])
    assert long == pytest.approx(math.exp(-0.5), rel=1e-12)
    # A run counts at most as often as one reference has it: 2 of 7, and the nearest length is 6.
    assert sentence_bleu("the the the the the the the", ["the cat is on the mat"], max_order=1) == pytest.approx(2 / 7)
    assert sentence_bleu("x y", ["a b"]) == 0.0
    assert sentence_bleu("", ["a"]) == 0.0
    assert sentence_bleu("a b c d", ["a b c d", "x"]) == 1.0


def test_bleu_of_a_sentence_is_that_of_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction().method4
    for seed in range(5):
        for candidate, *references in zip(
            texts(60, seed), texts(60, seed + 10, 1), texts(60, seed + 20, 1), strict=True
        ):
            theirs = bleu.sentence_bleu(references, candidate, smoothing_function=smooth)
            if len(candidate) < 2:  # theirs takes a sentence of one word for a match of the longer runs too
                continue
            assert sentence_bleu(candidate, references) == pytest.approx(theirs, rel=1e-9)


def test_bleu_of_a_corpus_by_hand_and_as_sacrebleu_has_it():
    made = corpus_bleu(["a b c d e", "x y"], ["a b c d f", "x z"], max_order=2)
    # Words 5 of 7, pairs 3 of 5; lengths agree.
    assert made.value == pytest.approx(math.sqrt(5 / 7 * 3 / 5), rel=1e-12)
    assert made.interval[0] <= made.value <= made.interval[1]
    sacrebleu = pytest.importorskip("sacrebleu")
    for seed in range(3):
        candidates, references = texts(40, seed, 3), texts(40, seed + 7, 3)
        theirs = sacrebleu.corpus_bleu(
            [" ".join(row) for row in candidates],
            [[" ".join(row) for row in references]],
            smooth_method="none",
            tokenize="none",
        ).score
        assert corpus_bleu(candidates, references).value == pytest.approx(theirs / 100.0, rel=1e-9)


def test_longest_common_subsequence_and_rouge_by_hand():
    assert longest_common("abcbdab", "bdcaba") == 4
    assert longest_common("", "abc") == 0
    # police kill the gunman: police the gunman, 3 of 4 and 4.
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(2 / 4)
    assert rouge_l("a b", "a b c d e f") == pytest.approx(2 * 1.0 * (1 / 3) / (1.0 + 1 / 3))
    assert rouge_l("", "a") == 0.0


def test_rouge_is_that_of_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for candidate, reference in zip(texts(80, 1, 1), texts(80, 2, 1), strict=True):
        theirs = scorer.score(" ".join(reference), " ".join(candidate))["rougeL"].fmeasure
        assert rouge_l(candidate, reference) == pytest.approx(theirs, abs=1e-12)


def test_characters_in_place_by_hand():
    assert in_place("abcd", "abxd") == 0.75
    assert in_place("bcd", "abcd") == 0.0
    assert in_place("ab", "abcd") == 0.5
    assert in_place("", "") == 1.0


def test_distinct_runs_by_hand():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least 3 tokens"):
        distinct(["a b"], 3)


def test_self_bleu_by_hand():
    assert self_bleu(["a b c d", "a b c d", "a b c d"]) == 1.0
    assert self_bleu(["a b c d", "e f g h"]) == 0.0
    three = ["a b c d", "a b c d", "x y z w"]
    assert self_bleu(three) == pytest.approx(2 / 3)  # the third shares nothing with the others
    with pytest.raises(ValueError, match="at least 2"):
        self_bleu(["a"])


def test_all_measures_of_the_truth_are_one_and_say_what_they_are():
    rows = ["in the beginning God made", "and the earth was waste"]
    metrics = {metric.name: metric for metric in overlap(rows, rows, of="held-out text")}
    assert [metric.value for metric in metrics.values()] == [1.0, 1.0, 1.0]
    assert all("held-out text" in metric.definition for metric in metrics.values())
    with pytest.raises(ValueError, match="a reference for each, got 2 and 1"):
        overlap(rows, rows[:1], of="samples")
