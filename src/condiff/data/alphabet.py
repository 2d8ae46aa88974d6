"""Alphabets: text as token ids and back, by bytes, characters or byte pairs. No torch here: the inspection uses it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol, Self, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

MOST = 32_000
"""Most tokens of an alphabet: ids are kept in 16 bits."""

CODE_POINTS = 1_112_064
"""Characters that Unicode has room for."""


@runtime_checkable
class Alphabet(Protocol):
    """Bytes, Characters or BytePairs: a token is a few bytes of UTF-8, and one more token ends a text."""

    @property
    def unit(self) -> str:
        """What a token is: "byte", "character" or "piece"."""
        ...

    @property
    def spelling(self) -> tuple[bytes, ...]:
        """UTF-8 of every token by id, without the one that ends a text."""
        ...

    @property
    def end(self) -> int:
        """Id of the token that ends a text and fills what is left of a row; the largest."""
        ...

    def encode(self, text: str) -> NDArray[np.int16]:
        """Return the ids of a text, int16 (L,), without the end."""
        ...

    def spell(self, row: NDArray[np.integer]) -> bytes:
        """Return the UTF-8 of ids (L,), none of them the end."""
        ...

    def unknown(self, text: str) -> str:
        """List the characters of a text that no token spells."""
        ...

    def stem(self, text: str) -> str:
        """Return the beginning of a text whose tokens stay the same whatever is written after the text."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, from which `restored` makes it again."""
        ...


BACK = 8
"""Pieces at the end of writing without spaces that may change when it goes on."""

WINDOW = {"byte": 128, "character": 128, "piece": 64}
"""Tokens in a window of running text if no length is given, by what a token is: some 25 to 40 words."""

Learned = Callable[[Sequence[str]], Alphabet]
"""Learns an alphabet from the texts of the training part, as `Characters.fit` does."""


@final
@dataclass(frozen=True)
class Bytes:
    """A token is a byte of UTF-8: 256 of them, nothing is learned and nothing unknown."""

    unit = "byte"
    spelling = tuple(bytes([k]) for k in range(256))
    end = 256

    def encode(self, text: str) -> NDArray[np.int16]:
        """Return the bytes of a text, int16 (L,)."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int16)

    def spell(self, row: NDArray[np.integer]) -> bytes:
        """Return the bytes."""
        return row.astype(np.uint8).tobytes()

    def unknown(self, text: str) -> str:
        """Return "": bytes spell every text."""
        return ""

    def stem(self, text: str) -> str:
        """Return the text: no token reaches over its end."""
        return text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"kind": "bytes"}


BYTES = Bytes()
"""The alphabet of what does not say otherwise."""


@final
@dataclass(frozen=True)
class Characters:
    """A token is a character of the training text; every other one is a single token, shown as U+FFFD.

    Args:
        characters: The known ones, each once; character k has id k, then comes the unknown one.

    Raises:
        ValueError: If there are none, two are equal, or more than 32,000.
    """

    characters: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.characters) <= MOST - 2 or len(set(self.characters)) < len(self.characters):
            raise ValueError(f"expected 1 to {MOST - 2:,} different characters, got {len(self.characters):,}")

    @classmethod
    def fit(cls, texts: Sequence[str], size: int | None = None) -> Self:
        """Learn the characters of texts, the most frequent first to be kept if there are more than fit.

        Args:
            texts: Texts of the training part.
            size: Most tokens, the unknown one and the end among them, 3 to 32,000; None is 32,000.

        Raises:
            ValueError: If the size is out of range.
        """
        most = _sized(size, 3, MOST)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[: most - 2]
        return cls("".join(sorted(kept)))

    unit = "character"

    @cached_property
    def spelling(self) -> tuple[bytes, ...]:
        """UTF-8 of every token; the unknown one is spelled U+FFFD."""
        return (*(letter.encode() for letter in self.characters), "\ufffd".encode())

    @property
    def end(self) -> int:
        """Id of the end of a text."""
        return len(self.characters) + 1

    @cached_property
    def _number(self) -> dict[str, int]:
        return {letter: k for k, letter in enumerate(self.characters)}

    def encode(self, text: str) -> NDArray[np.int16]:
        """Return one id a character, int16 (L,)."""
        other = len(self.characters)
        return np.array([self._number.get(letter, other) for letter in text], np.int16)

    def spell(self, row: NDArray[np.integer]) -> bytes:
        """Return the UTF-8 of ids (L,)."""
        return b"".join(map(self.spelling.__getitem__, row.tolist()))

    def unknown(self, text: str) -> str:
        """List the characters that the training text did not have."""
        return "".join(sorted(set(text) - self._number.keys()))

    def stem(self, text: str) -> str:
        """Return the text: no token reaches over its end."""
        return text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"kind": "characters", "characters": self.characters}


@final
@dataclass(frozen=True)
class BytePairs:
    """A token is a piece of a word: bytes, of which the most frequent neighbours were merged again and again.

    Ids 0 to 255 are the bytes, so nothing is unknown; merge k makes a token from two earlier ones. Text is first cut
    before words, numbers and punctuation, a space going with the word after it; no token crosses a cut.

    Args:
        merges: Pairs in the order they were learned, a line each, in the letters of `_letters`.

    Source: Sennrich et al. 2016; on bytes Radford et al. 2019 (GPT-2). Learned and applied by the library `tokenizers`
        (extra `[text]`); reading ids back needs only this class.
    """

    merges: str

    @classmethod
    def fit(cls, texts: Sequence[str], size: int | None = None) -> Self:
        """Learn merges from texts.

        Args:
            texts: Texts of the training part.
            size: Most tokens, the end among them, 257 to 32,000; None is 4,096. A small text may give fewer.

        Raises:
            ValueError: If the size is out of range, or the library is not installed.
        """
        most = 4096 if size is None else _sized(size, 257, MOST)
        library = _library()
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=most - 1,
            show_progress=False,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        )
        made.train_from_iterator(list(texts), trainer)
        learned = json.loads(made.to_str())["model"]["merges"]
        return cls("\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in learned))

    unit = "piece"

    @cached_property
    def _tokens(self) -> dict[str, int]:
        found = {letter: k for k, letter in enumerate(_letters())}
        for line in self.merges.split("\n") if self.merges else ():
            found.setdefault(line.replace(" ", ""), len(found))
        return found

    @cached_property
    def spelling(self) -> tuple[bytes, ...]:
        """Bytes of every token."""
        byte = {letter: k for k, letter in enumerate(_letters())}
        return tuple(bytes(byte[letter] for letter in token) for token in self._tokens)

    @property
    def end(self) -> int:
        """Id of the end of a text."""
        return len(self._tokens)

    @cached_property
    def _applied(self) -> Any:  # noqa: ANN401 - the library's own type, which need not be installed
        library = _library()
        pairs = [tuple(line.split(" ")) for line in self.merges.split("\n")] if self.merges else []
        made = library.Tokenizer(library.models.BPE(vocab=self._tokens, merges=pairs))
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return made

    def encode(self, text: str) -> NDArray[np.int16]:
        """Return the ids of the pieces of a text, int16 (L,).

        Raises:
            ValueError: If the library is not installed.
        """
        return np.array(self._applied.encode(text).ids, np.int16)

    def spell(self, row: NDArray[np.integer]) -> bytes:
        """Return the UTF-8 of ids (L,)."""
        return b"".join(map(self.spelling.__getitem__, row.tolist()))

    def unknown(self, text: str) -> str:
        """Return "": bytes are among the pieces."""
        return ""

    def stem(self, text: str) -> str:
        """Return a text up to its last cut, for more may join what comes after it: "the qui" is certain to "the".

        Where the last cut is far away, as in writing without spaces, all but the last `BACK` pieces are taken for
        certain; merges that reach back further are rare.

        Raises:
            ValueError: If the library is not installed.
        """
        cuts = [0, *(start for _, (start, _) in self._applied.pre_tokenizer.pre_tokenize_str(text))]
        # "'l" is two parts, "'ll" one.
        at = cuts[-2] if text.endswith(("'l", "'r", "'v")) and cuts[-2] == len(text) - 2 else cuts[-1]
        kept = self.encode(text[at:])[:-BACK]
        for size in range(len(kept), 0, -1):
            try:
                return text[:at] + self.spell(kept[:size]).decode()
            except UnicodeDecodeError:  # within a character
                continue
        return text[:at]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"kind": "bpe", "merges": self.merges}


def restored(facts: object) -> Alphabet:
    """Make an alphabet from what `to_json` returned; None, or the word that old checkpoints have there, is bytes.

    Raises:
        ValueError: If the kind is unknown.
    """
    match facts:
        case None | str() | {"kind": "bytes"}:
            return BYTES
        case {"kind": "characters", "characters": str(characters)}:
            return Characters(characters)
        case {"kind": "bpe", "merges": str(merges)}:
            return BytePairs(merges)
    kind = facts.get("kind") if isinstance(facts, Mapping) else facts
    raise ValueError(f"tokens of kind {kind!r} are unknown to this version; there are bytes, characters and bpe")


def settled(tokens: Alphabet | Learned | None, texts: Sequence[str]) -> Alphabet:
    """Return the alphabet to use: the one that is given, or one that is learned from training texts; bytes if None."""
    if tokens is None:
        return BYTES
    return tokens if isinstance(tokens, Alphabet) else tokens(texts)


def described(alphabet: Alphabet, length: int) -> dict[str, object]:
    """Describe rows of ids as a checkpoint keeps it."""
    return {"tokens": alphabet.to_json(), "length": length, "vocabulary": alphabet.end + 1, "pad": alphabet.end}


def raw(row: NDArray[np.integer], alphabet: Alphabet = BYTES) -> bytes:
    """Return the bytes of a row of ids up to the first end."""
    ends = np.flatnonzero(row >= alphabet.end)
    return alphabet.spell(row[: ends[0]] if len(ends) else row)


def text(row: NDArray[np.integer], alphabet: Alphabet = BYTES) -> str:
    """Return the text of a row of ids up to its end; bytes that are not UTF-8 become the replacement character."""
    return raw(row, alphabet).decode("utf-8", errors="replace")


def texts(row: NDArray[np.integer], alphabet: Alphabet) -> list[str]:
    """Return every text of a row of ids, cut at each end; empty ones are left out."""
    cuts = np.flatnonzero(row >= alphabet.end)
    pieces = [text(piece[piece < alphabet.end], alphabet) for piece in np.split(row, cuts)]
    return [piece for piece in pieces if piece]


def surcharge(alphabet: Alphabet) -> NDArray[np.float64]:
    """Return the bits it takes to say what each token leaves open, float64 (V,).

    None for bytes and pieces; which of Unicode's other characters the unknown one is takes log2 of their number.
    """
    out = np.zeros(alphabet.end + 1)
    if isinstance(alphabet, Characters):
        out[len(alphabet.characters)] = np.log2(CODE_POINTS - len(alphabet.characters))
    return out


def _sized(size: int | None, least: int, most: int) -> int:
    found = most if size is None else size
    if not least <= found <= most:
        raise ValueError(f"the number of tokens must be {least:,} to {most:,}, got {found:,}")
    return found


def _library() -> Any:  # noqa: ANN401 - a module that need not be installed
    try:
        for part in ("models", "pre_tokenizers", "trainers"):
            import_module(f"tokenizers.{part}")
        return import_module("tokenizers")
    except ImportError:
        raise ValueError("tokens of kind bpe need the extra [text]: pip install 'condiff[text]'") from None


def _letters() -> list[str]:
    """Return a visible letter for each byte: itself if it is printable in Latin-1, else one from U+0100 on, in turn."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(rest)) for byte in range(256)]
