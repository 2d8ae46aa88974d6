"""Overlap of texts: BLEU, ROUGE-L, characters in place, and how different texts are from one another.

Everything here counts tokens: words and single marks, as `split` cuts them, unless texts come cut already.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

from condiff.evaluate.metric import Metric, mean, quantiles, resample, stream

_TOKEN = re.compile(r"\w+|[^\w\s]")

Text = str | Sequence[str]
"""A text, or its tokens."""


def split(text: Text) -> list[str]:
    """Cut a text into words and single marks; tokens are returned as they are."""
    return _TOKEN.findall(text) if isinstance(text, str) else list(text)


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the runs of n tokens."""
    return Counter(tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1))


def _matches(candidate: Sequence[str], references: Sequence[Sequence[str]], n: int) -> tuple[int, int]:
    """Return how many n-grams of a candidate some reference has as often, and how many it has."""
    have = ngrams(candidate, n)
    allowed: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        allowed |= ngrams(reference, n)
    return (have & allowed).total(), have.total()


def _closest(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> int:
    """Return the length of the reference nearest in length, the shorter of two."""
    return min((abs(len(reference) - len(candidate)), len(reference)) for reference in references)[1]


def _brevity(length: int, reference: int) -> float:
    if length == 0:
        return 0.0
    return 1.0 if length > reference else math.exp(1.0 - reference / length)


def sentence_bleu(candidate: Text, references: Sequence[Text], *, max_order: int = 4) -> float:
    """Compute smoothed BLEU of one text, in [0, 1].

    BP exp(1/N sum_n log p_n), BP = min(1, exp(1 - r / c)); the k-th order without a match counts
    ln(c) / (5 * 2^k) matches, so that short texts are smoothed less; 0 if no token matches.

    Args:
        candidate: The text to judge.
        references: One or more; the brevity penalty goes by the one nearest in length.
        max_order: N.

    Raises:
        ValueError: If there is no reference.

    Source: Papineni et al. 2002; Chen and Cherry 2014, smoothing 4, with their K = 5.
    """
    if not references:
        raise ValueError("BLEU needs at least one reference")
    tokens, others = split(candidate), [split(reference) for reference in references]
    total, missed = 0.0, 0
    for n in range(1, max_order + 1):
        hits, have = _matches(tokens, others, n)
        share = float(hits)
        if hits == 0:
            if n == 1 or len(tokens) <= 1:
                return 0.0
            missed += 1
            share = math.log(len(tokens)) / (5.0 * 2.0**missed)
        total += math.log(share / max(1, have)) / max_order
    return _brevity(len(tokens), _closest(tokens, others)) * math.exp(total)


def corpus_bleu(
    candidates: Sequence[Text], references: Sequence[Text], *, max_order: int = 4, seed: int = 0, of: str = "texts"
) -> Metric:
    """Measure BLEU of a corpus, in [0, 1]: matches and lengths are summed over texts before anything is divided.

    Args:
        candidates: N >= 2 texts.
        references: The reference of each.
        max_order: Longest run of tokens.
        seed: Names the resampling of the interval.
        of: What the texts are, for the definition.

    Returns: Metric "bleu"; 0 where an order has no match at all, as published.

    Raises:
        ValueError: If there are fewer than two texts, or not one reference for each.

    Source: Papineni et al. 2002.
    """
    counts = _counts(candidates, references, max_order)
    generator = stream(seed, "bleu")
    draws = torch.stack([_of_counts(counts[rows].sum(0), max_order) for rows in resample(len(counts), 500, generator)])
    value = float(_of_counts(counts.sum(0), max_order))
    low, high = quantiles(draws)
    return Metric(
        name="bleu",
        value=value,
        interval=(min(low, value), max(high, value)),
        n=len(counts),
        definition=f"corpus BLEU of words and marks up to {max_order} in a row, one reference, not smoothed; {of}; "
        "percentile bootstrap over texts",
        unit="fraction",
        seed=seed,
    )


def _counts(candidates: Sequence[Text], references: Sequence[Text], max_order: int) -> torch.Tensor:
    """Return for every text its matches and n-grams by order, its length and its reference's, float64."""
    if len(candidates) != len(references) or len(candidates) < 2:
        raise ValueError(
            f"overlap needs two or more texts and a reference for each, got {len(candidates)} and {len(references)}"
        )
    rows = []
    for candidate, reference in zip(candidates, references, strict=True):
        tokens, other = split(candidate), split(reference)
        pairs = [_matches(tokens, [other], n) for n in range(1, max_order + 1)]
        rows.append([*(hits for hits, _ in pairs), *(have for _, have in pairs), len(tokens), len(other)])
    return torch.tensor(rows, dtype=torch.float64)


def _of_counts(counts: torch.Tensor, max_order: int) -> torch.Tensor:
    hits, have = counts[:max_order], counts[max_order : 2 * max_order]
    length, reference = counts[2 * max_order :].tolist()
    if length == 0 or bool((hits == 0).any()):
        return torch.zeros((), dtype=torch.float64)
    return _brevity(int(length), int(reference)) * (hits / have).log().mean().exp()


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Compute the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for left in a:
        before = 0
        for k, right in enumerate(b):
            before, row[k + 1] = row[k + 1], before + 1 if left == right else max(row[k + 1], row[k])
    return row[-1]


def rouge_l(candidate: Text, reference: Text) -> float:
    """Compute ROUGE-L of one text, in [0, 1]: 2 P R / (P + R), P and R the longest common subsequence over lengths.

    Source: Lin 2004, with beta = 1.
    """
    tokens, other = split(candidate), split(reference)
    common = longest_common(tokens, other)
    return 2.0 * common / (len(tokens) + len(other)) if common else 0.0


def in_place(candidate: str, reference: str) -> float:
    """Compute the share of characters that stand where the reference has them, over the longer of the two lengths."""
    longest = max(len(candidate), len(reference))
    return sum(a == b for a, b in zip(candidate, reference, strict=False)) / longest if longest else 1.0


def distinct(texts: Sequence[Text], n: int) -> float:
    """Compute dist-n: distinct runs of n tokens over all runs of n tokens in all texts, in [0, 1].

    Raises:
        ValueError: If no text has n tokens.

    Source: Li et al. 2016, divided by the number of runs, not of tokens.
    """
    every: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        every.update(ngrams(split(text), n))
    if not every:
        raise ValueError(f"dist-{n} needs a text of at least {n} tokens")
    return len(every) / every.total()


def self_bleu(texts: Sequence[Text], *, max_order: int = 4) -> float:
    """Compute the mean smoothed BLEU of each text against all others, in [0, 1]; 1 means that all are one.

    Raises:
        ValueError: If there are fewer than two texts.

    Source: Zhu et al. 2018 (Texygen), with smoothing 4.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU needs at least 2 texts, got {len(texts)}")
    cut = [split(text) for text in texts]
    scores = [sentence_bleu(own, cut[:k] + cut[k + 1 :], max_order=max_order) for k, own in enumerate(cut)]
    return sum(scores) / len(scores)


def overlap(candidates: Sequence[str], references: Sequence[str], *, of: str, seed: int = 0) -> list[Metric]:
    """Measure how texts overlap with their references: BLEU, ROUGE-L and characters in place.

    Args:
        candidates: N >= 2 texts.
        references: The reference of each.
        of: What the texts are, for the definitions.
        seed: Names the intervals.

    Raises:
        ValueError: If there are fewer than two texts, or not one reference for each.
    """
    pairs = list(zip(candidates, references, strict=False))
    scores = {
        "rouge_l": (rouge_l, "mean ROUGE-L (F1 of the longest common subsequence of words and marks)"),
        "characters_in_place": (in_place, "mean share of characters that stand where the reference has them"),
    }
    return [
        corpus_bleu(candidates, references, seed=seed, of=of),
        *(
            mean(
                torch.tensor([score(a, b) for a, b in pairs], dtype=torch.float64),
                name=name,
                definition=f"{definition}; {of}",
                seed=seed,
                unit="fraction",
            )
            for name, (score, definition) in scores.items()
        ),
    ]
