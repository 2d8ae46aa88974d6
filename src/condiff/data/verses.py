"""The bundled verses in two English versions: a pair task, and running text for language models."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch

from condiff.data import corpus, resource
from condiff.data.alphabet import WINDOW, Alphabet, Learned, described, settled
from condiff.data.batch import Dataset, Splits
from condiff.data.splits import PARTS, TRAIN, book_part

VERSIONS = ("kjv", "bbe")


@final
@dataclass(frozen=True, slots=True)
class Verse:
    """One verse in the King James Version (1611) and in Basic English (850 words); `number` is bbcccvvv."""

    number: int
    kjv: str
    bbe: str

    @property
    def book(self) -> int:
        """Number of the book, 1 = Genesis to 66 = Revelation."""
        return self.number // 1_000_000


@lru_cache(maxsize=1)
def table() -> tuple[Verse, ...]:
    """Load all 31,039 verses in order.

    Source: public domain in most countries; see `bundled/LICENSES.md`.
    """
    lines = lzma.decompress(resource.content("verses_kjv_bbe.tsv.xz")).decode("utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return tuple(Verse(int(number), kjv, bbe) for number, kjv, bbe in rows)


def verses(length: int = 256, tokens: Alphabet | Learned | None = None) -> Splits:
    """Load the simplification task: data is a verse in Basic English, condition "input" the King James Version.

    Both are tokens (N, length), filled with ends; a longer verse is cut (`meta["cut"]` counts them). No book is in two
    parts. The 35 verses whose simplification is only a mark of omission ("...") are left out.

    Args:
        length: Tokens of a verse.
        tokens: Alphabet of both versions, or what learns one from the training books; bytes if None.

    Raises:
        ValueError: If the length is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    told = [verse for verse in table() if any(map(str.isalpha, verse.bbe))]
    taught = [text for verse in told if book_part(verse.book) == TRAIN for text in (verse.bbe, verse.kjv)]
    alphabet = settled(tokens, taught)

    def part(code: int) -> Dataset:
        chosen = [verse for verse in told if book_part(verse.book) == code]
        data, cut = corpus.padded(tuple(verse.bbe for verse in chosen), length, alphabet)
        given, cut_input = corpus.padded(tuple(verse.kjv for verse in chosen), length, alphabet)
        tokens = described(alphabet, length)
        return Dataset(
            torch.from_numpy(data),
            {"input": torch.from_numpy(given)},
            {"input": torch.ones(len(chosen), dtype=torch.bool)},
            name="verses",
            kind="text",
            meta={
                "source": "verses",
                "split": PARTS[code],
                "split_rule": "whole books",
                **tokens,
                "cut": cut,
                "conditions": {"input": {"kind": "tokens", **tokens, "cut": cut_input}},
            },
        )

    return Splits(part(0), part(1), part(2))


def passages(
    length: int | None = None,
    version: str = "kjv",
    stride: int | None = None,
    tokens: Alphabet | Learned | None = None,
) -> Splits:
    """Load running text: windows of tokens within one book, verses joined by newlines, without condition.

    Args:
        length: Tokens in a window; 128, or 64 pieces, if None.
        version: "kjv" or "bbe".
        stride: Tokens from one window to the next; the length if None.
        tokens: Alphabet, or what learns one from the training books; bytes if None.

    Returns: Data (N, length) of tokens; no book is in two parts.

    Raises:
        ValueError: If the version is unknown or a number is not positive.
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
    if min(1 if length is None else length, 1 if stride is None else stride) < 1:
        raise ValueError(f"length and stride must be at least 1, got {length} and {stride}")
    books: dict[int, list[str]] = {}
    for verse in table():
        books.setdefault(verse.book, []).append(verse.kjv if version == "kjv" else verse.bbe)
    whole = {book: "\n".join(lines) + "\n" for book, lines in books.items()}
    alphabet = settled(tokens, [text for book, text in whole.items() if book_part(book) == TRAIN])
    size = WINDOW[alphabet.unit] if length is None else length
    step = size if stride is None else stride

    def part(code: int) -> Dataset:
        running = [alphabet.encode(text) for book, text in whole.items() if book_part(book) == code]
        data = corpus.windows(running, size, step)
        name = "kjv" if version == "kjv" else "verses"
        meta: dict[str, object] = {
            "source": name, "split": PARTS[code], "split_rule": "whole books", "version": version,
            **described(alphabet, size),
        }  # fmt: skip
        return Dataset(torch.from_numpy(data), {}, {}, name=name, kind="text", meta=meta)

    return Splits(part(0), part(1), part(2))
