"""Measures of text: a bound on its likelihood, the entropy of its tokens, and how many of its words are real."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from condiff.data.alphabet import Alphabet, surcharge
from condiff.evaluate.metric import Metric, mean

WORD = re.compile(r"[^\W\d_]+")
"""A word: a run of letters."""


def token_bound(
    loss: Callable[[Tensor, int], Tensor], data: Tensor, *, num_draws: int = 4, seed: int = 0, unit: str = "bits/byte"
) -> Metric:
    """Measure the upper bound on bits a token of held-out text.

    Args:
        loss: Called as loss(data, key), returns the bound of each row of data for one draw named by key, nats a token.
        data: Token ids (N, L), N >= 2.
        num_draws: Draws a row, averaged.
        seed: Names draws and interval.
        unit: What a token is.

    Returns: Metric "bits_per_token"; the interval is over rows. `details["perplexity"]` is 2^value, and
        `details["spread"]` the standard deviation of a single draw of a row.
    """
    return bits_per_token(bound_draws(loss, data, num_draws=num_draws, seed=seed), seed=seed, unit=unit)


def bound_draws(loss: Callable[[Tensor, int], Tensor], data: Tensor, *, num_draws: int = 4, seed: int = 0) -> Tensor:
    """Draw the bound of each row of token ids (N, L) a few times; bits a token, (num_draws, N). See `token_bound`."""
    return torch.stack([loss(data, seed + k).double() for k in range(num_draws)]) / math.log(2.0)


def bits_per_token(draws: Tensor, *, seed: int = 0, unit: str = "bits/byte") -> Metric:
    """Make the metric of `token_bound` from draws (K, N) of `bound_draws`."""
    metric = mean(
        draws.mean(0),
        name="bits_per_token",
        definition=f"upper bound on -log2 probability a token of held-out text, {len(draws)} draws of masks a text",
        seed=seed,
        unit=unit,
    )
    details = {"perplexity": 2.0**metric.value, "spread": float(draws.var(0, correction=1).mean().sqrt())}
    return replace(metric, details=details)


def bits_per_byte(draws: Tensor, data: Tensor, alphabet: Alphabet, *, seed: int = 0) -> Metric:
    """Measure the bound in bits a byte of text, which compares models of different tokens.

    sum over texts of (L bits a token + surcharges) / sum over texts of their bytes in UTF-8

    What a text is filled up with costs bits and has no bytes; what a token leaves open is paid for (`surcharge`).

    Args:
        draws: Bits a token of every row, (K, N), from `bound_draws`.
        data: The rows, ids (N, L).
        alphabet: What the ids mean.
        seed: Names the interval, which resamples texts.

    Raises:
        ValueError: If the rows hold no text.
    """
    bits = draws.mean(0) * data.shape[1] + torch.from_numpy(surcharge(alphabet))[data].sum(1)
    each = torch.tensor([*map(len, alphabet.spelling), 0])[data].sum(1).double()
    if not float(each.sum()):
        raise ValueError("the rows hold no text, so there are no bits a byte")
    ratio = float(bits.sum() / each.sum())
    metric = mean(
        ratio + (bits - ratio * each) / each.mean(),
        name="bits_per_byte",
        definition=f"upper bound on -log2 probability of held-out text over its bytes in UTF-8, {len(draws)} draws of "
        "masks a text; ratio of sums, linearised for the interval",
        seed=seed,
        unit="bits/byte",
    )
    starts = torch.tensor([*(sum(byte & 0xC0 != 0x80 for byte in token) for token in alphabet.spelling), 0])
    return replace(metric, details={"bits_per_character": float(bits.sum() / starts[data].sum().clamp_min(1))})


def unigram_entropy(rows: Tensor, vocabulary: int) -> float:
    """Compute the entropy of the frequencies of tokens (N, L), bits a token.

    Samples of low entropy repeat themselves; a generative perplexity says nothing without it.
    """
    share = torch.bincount(rows.flatten(), minlength=vocabulary).double()
    share = share / share.sum()
    return float(-(share * torch.where(share > 0, share, 1.0).log2()).sum())


def cross_entropy(rows: Tensor, train: Tensor, vocabulary: int) -> float:
    """Compute bits a token of rows (N, L) under the token frequencies of a training text, each count plus one."""
    counts = torch.bincount(train.flatten(), minlength=vocabulary).double() + 1.0
    return float(-(counts / counts.sum()).log2()[rows.flatten()].mean())


def words_of(texts: Iterable[str]) -> set[str]:
    """Collect the whole words of texts, in lower case: the first and the last are left out, a window cuts them."""
    return {word.lower() for text in texts for word in _whole(text)}


def _whole(text: str) -> list[str]:
    return WORD.findall(text)[1:-1]


def known_words(texts: Sequence[str], vocabulary: set[str], *, of: str, seed: int = 0) -> Metric:
    """Measure which share of the words of texts is in a vocabulary, such as the words of the training text.

    Only whole words of three letters or more are counted: nearly every shorter run of letters is a word somewhere.

    Args:
        texts: Two or more.
        vocabulary: Words in lower case, as `words_of` collects them.
        of: What the texts are, for the definition.
        seed: Names the interval, which resamples texts.

    Raises:
        ValueError: If fewer than two texts hold such a word.
    """
    hits = []
    for text in texts:
        whole = [word.lower() in vocabulary for word in _whole(text) if len(word) >= 3]
        if whole:
            hits.append(sum(whole) / len(whole))
    if len(hits) < 2:
        raise ValueError(f"the {of} hold whole words in {len(hits)} texts; at least 2 are needed")
    return mean(
        torch.tensor(hits, dtype=torch.float64),
        name="known_words",
        definition="mean over texts of the share of whole words of 3 letters or more that occur in the training text, "
        f"any case; {of}",
        seed=seed,
        unit="fraction",
    )
