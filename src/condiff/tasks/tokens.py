"""Between what is typed or read and the token ids of a system."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from condiff.core.system import System
from condiff.data import alphabet as alphabets
from condiff.data.alphabet import BYTES, Alphabet, restored


def alphabet_of(system: System[Any, Any], name: str = "") -> Alphabet:
    """Return the alphabet of a system that writes text, or of its condition of that name."""
    meta = system.data.get("meta", {})
    return restored((meta.get("conditions", {}).get(name, {}) if name else meta).get("tokens"))


def ids(text: str, alphabet: Alphabet = BYTES) -> Tensor:
    """Return a text as tokens, int64 (L,).

    Raises:
        ValueError: If it has characters that no token spells.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text has bytes that are not UTF-8; type it as UTF-8")
    unknown = alphabet.unknown(text)
    if unknown:
        raise ValueError(
            f"{text[:40]!r} has {', '.join(map(repr, unknown[:5]))}, which no token of this system spells; leave it "
            "out, or train with --tokens bytes or bpe"
        )
    return torch.from_numpy(alphabet.encode(text)).long()


def words(row: Tensor, alphabet: Alphabet = BYTES) -> str:
    """Return tokens (L,) as text up to the first end of text."""
    return alphabets.text(row.cpu().numpy(), alphabet)


def whole(row: Tensor, alphabet: Alphabet = BYTES) -> str:
    """Return tokens (L,) as text beyond every end: packed texts in lines of their own."""
    return "\n".join(alphabets.texts(row.cpu().numpy(), alphabet))


def reader_of(system: System[Any, Any]) -> Callable[[Tensor], str]:
    """Return what reads a row of a system's data: all of it where texts were packed, else up to its end."""
    alphabet, read = alphabet_of(system), whole if system.data.get("meta", {}).get("packed") else words
    return lambda row: read(row, alphabet)


def counted(count: int, alphabet: Alphabet) -> str:
    """Say a number of tokens: "1 byte", "12 pieces"."""
    return f"{count} {alphabet.unit}{'' if count == 1 else 's'}"


class Streams:
    """Texts that arrive in parts: the bytes of a character that a part ends within come with the next."""

    def __init__(self, num: int, alphabet: Alphabet) -> None:
        self._alphabet = alphabet
        self._readers = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(num)]

    def read(self, k: int, row: Tensor) -> str:
        """Return what the next tokens (L,) of text k add to it, up to an end."""
        return self._readers[k].decode(alphabets.raw(row.cpu().numpy(), self._alphabet))

    def close(self) -> list[str]:
        """Return what is left of every text: a replacement character where one was not finished."""
        return [reader.decode(b"", final=True) for reader in self._readers]
