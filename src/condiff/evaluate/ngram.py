"""A judge of text that is trained in seconds: the frequencies of a few bytes in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.evaluate.metric import Metric, mean

ORDER = 6
"""Bytes of the longest run that is counted, unless said otherwise."""


@final
@dataclass(frozen=True)
class NGram:
    """What comes next by the bytes before it, counted on a training text, longer contexts leaning on shorter ones.

    P_k(b | h) = (c(h b) + T(h) P_{k-1}(b | h')) / (c(h) + T(h)), P_0 = 1 / 256

    c counts runs, T(h) is how many different bytes followed h, and h' is h without its first byte. Near the start of a
    text contexts are as long as the text so far.

    Args:
        grams: For each length k the runs of k bytes that occur, as sorted numbers, and their counts.

    Source: Witten and Bell 1991 (method C), interpolated; bytes instead of words, so that any tokens can be judged.
    """

    grams: tuple[tuple[NDArray[np.uint64], NDArray[np.int64]], ...]

    @classmethod
    def fit(cls, texts: Sequence[bytes], order: int = ORDER) -> Self:
        """Count the runs of up to `order` bytes within texts.

        Raises:
            ValueError: If the order is not 1 to 7, or there is no text.
        """
        if not 1 <= order <= 7:
            raise ValueError(f"runs of 1 to 7 bytes can be counted, got {order}")
        if not any(texts):
            raise ValueError("there is no text to count runs of bytes in")
        line, place = _laid_out(texts)
        found = []
        run = np.zeros(len(line), np.uint64)
        for k in range(order):
            run = _longer(run, line)
            found.append(np.unique(run[place >= k], return_counts=True))
        return cls(tuple(found))

    def bits(self, texts: Sequence[bytes]) -> list[NDArray[np.float64]]:
        """Return -log2 of the probability of every byte of every text, (L,) each."""
        line, place = _laid_out(texts)
        chance = np.full(len(line), 1.0 / 256.0)
        run = np.zeros(len(line), np.uint64)
        for k, (runs, counts) in enumerate(self.grams):
            run = _longer(run, line)
            if not len(runs):
                break
            context, before, there = runs >> np.uint64(8), run >> np.uint64(8), place >= k
            first = np.flatnonzero(np.concatenate([[True], context[1:] != context[:-1]]))
            total, kinds = np.add.reduceat(counts, first), np.diff([*first, len(runs)])
            count = np.where(there, _looked_up(run, runs, counts), 0)
            n = np.where(there, _looked_up(before, context[first], total), 0)
            t = np.where(there, _looked_up(before, context[first], kinds), 0)
            chance = np.where(n > 0, (count + t * chance) / np.maximum(n + t, 1), chance)
        return np.split(-np.log2(chance), np.cumsum([len(text) for text in texts])[:-1]) if len(texts) else []


def generative_perplexity(texts: Sequence[bytes], scorer: NGram, *, entropy: float, of: str, seed: int = 0) -> Metric:
    """Measure how likely texts are under a scorer, with the entropy of their tokens beside it.

    2 to the power of (bits of all texts / bytes of all texts). Low is likely; but what repeats itself is likely too,
    and has a low entropy, so neither number means anything without the other.

    Args:
        texts: Two or more, in UTF-8.
        scorer: Trained on the training text.
        entropy: Bits a token of the texts' own frequencies, as `unigram_entropy` returns them.
        of: What the texts are, for the definition.
        seed: Names the interval, which resamples texts.

    Returns: Metric a byte; `details` has "bits_per_byte" and "entropy".

    Raises:
        ValueError: If fewer than two texts hold anything.
    """
    if sum(map(bool, texts)) < 2:
        raise ValueError(f"the {of} hold anything in {sum(map(bool, texts))} texts; at least 2 are needed")
    bits = torch.tensor([float(each.sum()) for each in scorer.bits(texts)], dtype=torch.float64)
    size = torch.tensor([len(text) for text in texts], dtype=torch.float64)
    ratio = float(bits.sum() / size.sum())
    rate = mean(
        ratio + (bits - ratio * size) / size.mean(),
        name="generative_perplexity",
        definition=f"2^bits a byte of the {of} under frequencies of up to {len(scorer.grams)} bytes in a row of the "
        "training text (Witten-Bell); ratio of sums, linearised for the interval",
        seed=seed,
        unit="a byte",
    )
    low, high = rate.interval
    return replace(
        rate,
        value=2.0**ratio,
        interval=(min(2.0**low, 2.0**ratio), max(2.0**high, 2.0**ratio)),
        details={"bits_per_byte": ratio, "entropy": entropy},
    )


def _laid_out(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return all bytes in one line, and the place of each in its text."""
    sizes = np.array([len(text) for text in texts], np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    line = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64)
    return line, np.arange(len(line)) - starts


def _longer(run: NDArray[np.uint64], line: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the runs that end at each place, one byte longer; wrong where the text is shorter, which callers skip."""
    before = np.concatenate([np.zeros(1, np.uint64), run[:-1]]) if len(run) else run
    return (before << np.uint64(8)) | line


def _looked_up(wanted: NDArray[np.uint64], keys: NDArray[np.uint64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the values of keys, 0 where there is none."""
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return np.where(keys[at] == wanted, values[at], 0) if len(keys) else np.zeros(len(wanted), np.int64)
