"""Pictures of digits beside phrases of real text that begin with their number: a pair of two kinds of data."""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from condiff.data import corpus
from condiff.data.alphabet import Alphabet, Learned, described, settled
from condiff.data.batch import Dataset, Splits
from condiff.data.digits import digits8
from condiff.data.splits import PARTS, TRAIN, book_part
from condiff.data.verses import table

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Words of the digits 1 to 9; the English of the King James Version has none for 0."""

LENGTH = 16
"""Characters that are taken of a text from a number on, and tokens of a phrase if no length is given."""


def phrases(length: int = LENGTH, tokens: Alphabet | Learned | None = None) -> Splits:
    """Pair real pictures of 1 to 9 with phrases of the King James Version that begin with that number.

    Phrases are taken in turn, so the same one stands beside many pictures; what is to be learned is which number a
    picture shows, and how texts go on from it.

    Args:
        length: Tokens of a phrase.
        tokens: Alphabet, or what learns one from the training phrases; bytes if None.

    Returns: Data (N, length) of tokens, filled with ends; condition "picture" (N, 64), the digit at 8x8 in [-1, 1]. No
        picture and no book is in two parts.

    Raises:
        ValueError: If the length is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    found, pictures = _found(), digits8()
    alphabet = settled(tokens, [text for texts in found[TRAIN].values() for text in texts])
    parts = []
    for code, part in enumerate((pictures.train, pictures.validation, pictures.test)):
        kept = part.where((part.conditions["label"] > 0).nonzero()[:, 0])
        classes = [int(k) for k in kept.conditions["label"].tolist()]
        texts = tuple(found[code][k][i % len(found[code][k])] for i, k in enumerate(classes))
        data, cut = corpus.padded(texts, length, alphabet)
        meta: dict[str, object] = {
            "source": "phrases", "split": PARTS[code], "split_rule": "rows of digits and whole books",
            **described(alphabet, length), "cut": cut,
            "conditions": {"picture": {"kind": "vector", "picture": list(kept.data.shape[1:])}},
        }  # fmt: skip
        parts.append(
            Dataset(
                torch.from_numpy(data),
                {"picture": kept.data.flatten(1)},
                {"picture": torch.ones(len(classes), dtype=torch.bool)},
                name="phrases",
                kind="text",
                meta=meta,
            )
        )
    return Splits(*parts)


@lru_cache(maxsize=1)
def _found() -> tuple[dict[int, list[str]], ...]:
    """Phrases by part and number, in the order of the text."""
    found: tuple[dict[int, list[str]], ...] = tuple({k: [] for k in range(1, 10)} for _ in PARTS)
    pattern = re.compile(r"\b(" + "|".join(WORDS) + r")\b .*")
    for verse in table():
        for match in pattern.finditer(verse.kjv.lower()):
            found[book_part(verse.book)][WORDS.index(match[1]) + 1].append(match[0][:LENGTH])
    return found
