"""Text files as documents or pairs, and their rows of tokens. No torch here: the inspection uses it too."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files
from condiff.data.alphabet import BYTES, Alphabet
from condiff.data.alphabet import text as text
from condiff.data.splits import FOLDERS

PAD = BYTES.end
"""Token after the end of a text of bytes; 0 to 255 are those of UTF-8."""

VOCABULARY = PAD + 1

LENGTH = 256
"""Most tokens of a record or a pair if no length is given; windows of running text are shorter, see `WINDOW`."""

HEADS = frozenset(("id", "source", "target", "src", "tgt", "trg", "input", "output"))
"""Names of columns; a first line of pairs that holds nothing else is one of names."""


@final
@dataclass(frozen=True)
class Corpus:
    """Texts with what they are conditioned on.

    Args:
        path: The file or folder.
        names: Name of every text, by which it is split.
        texts: The texts.
        rows: True if a text is one example (a line, a record); False if it is a document to be cut into windows.
        inputs: The text each is conditioned on (pair tasks); empty otherwise.
        cells: Raw text by condition name, one entry a text, None where it has none.
        parts: Split codes, if folders fix the split; empty otherwise.
        problems: What stops the texts from being read.
        remarks: What is odd but can be read.
    """

    path: Path
    names: tuple[str, ...]
    texts: tuple[str, ...]
    rows: bool
    inputs: tuple[str, ...] = ()
    cells: dict[str, tuple[str | None, ...]] | None = None
    parts: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def scan(path: Path) -> Corpus:
    """Read a text file (.txt, .tsv, .jsonl, packed or not) or a folder of .txt files."""
    if path.is_dir():
        return _folder(path)
    try:
        content = files.text(path)
    except ValueError as error:
        return Corpus(path, (), (), True, problems=(str(error),))
    kind = files.ending(path)
    if not content.strip():
        holds = "holds nothing but white space" if content else "is empty"
        return Corpus(path, (), (), True, problems=(f"the file {holds}: add text",))
    if "\0" in content:
        return Corpus(path, (), (), True, problems=("the file holds zero bytes, so it is not text: give a text file",))
    if kind == ".tsv":
        return _pairs(path, content)
    if kind == ".jsonl":
        return _records(path, content)
    return Corpus(path, (path.name,), (content,), rows=False)


def tokens(text: str) -> NDArray[np.int16]:
    """Bytes of a text in UTF-8, int16 (L,)."""
    return BYTES.encode(text)


def padded(texts: Sequence[str], length: int, alphabet: Alphabet = BYTES) -> tuple[NDArray[np.int16], int]:
    """Rows of ids, int16 (N, length), filled with ends and cut at the length; and how many were cut."""
    out = np.full((len(texts), length), alphabet.end, np.int16)
    cut = 0
    for row, content in zip(out, texts, strict=True):
        found = alphabet.encode(content)
        cut += len(found) > length
        row[: len(found)] = found[:length]
    return out, cut


def fitting(longest: int) -> int:
    """Return the length of examples whose longest text has so many tokens: an end behind it, at most `LENGTH`."""
    return min(8 * math.ceil((longest + 1) / 8), LENGTH)


def windows(rows: Sequence[NDArray[np.int16]], length: int, stride: int, fill: int | None = None) -> NDArray[np.int16]:
    """Cut rows of ids into windows that each lie within one row, int16 (N, length).

    Args:
        rows: Ids of every text, (L,) each.
        length: Tokens of a window.
        stride: Tokens from one window to the next.
        fill: What the rest of a row, shorter than a window, is filled up with; None leaves the rest out.
    """
    cut = []
    for row in rows:
        if fill is not None and len(row):
            short = -(-max(len(row) - length, 0) // stride) * stride + length - len(row)
            row = np.concatenate([row, np.full(short, fill, np.int16)])
        if len(row) >= length:
            cut.append(np.lib.stride_tricks.sliding_window_view(row, length)[::stride])
    return np.concatenate(cut) if cut else np.empty((0, length), np.int16)


def packed(rows: Sequence[NDArray[np.int16]], length: int, stride: int, end: int) -> NDArray[np.int16]:
    """Lay rows of ids one after another, each with its end behind it, and cut windows, int16 (N, length).

    A window may hold several texts, never two without an end between them. The last, partial window is left out.
    """
    line = [part for row in rows for part in (row, np.array([end], np.int16))]
    return windows([np.concatenate(line)] if line else [], length, stride)


def _folder(path: Path) -> Corpus:
    paths = [place for place in sorted(path.rglob("*")) if place.is_file() and files.ending(place) == ".txt"]
    paths = [place for place in paths if not any(part.startswith(".") for part in place.relative_to(path).parts)]
    names, texts, problems, tops = [], [], [], []
    for place in paths:
        name = place.relative_to(path)
        try:
            content = files.text(place)
        except ValueError as error:
            problems.append(str(error))
            continue
        if not content.strip() or "\0" in content:
            problems.append(f"{name}: empty or not text: remove it")
            continue
        names.append(name.as_posix())
        texts.append(content)
        tops.append(FOLDERS.get(name.parts[0].lower()) if len(name.parts) > 1 else None)
    parts = tuple(top for top in tops if top is not None) if tops and all(top is not None for top in tops) else ()
    return Corpus(path, tuple(names), tuple(texts), rows=False, parts=parts, problems=tuple(problems))


def _pairs(path: Path, content: str) -> Corpus:
    rows = [(number, line.split("\t")) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    width = len(rows[0][1])
    problems = []
    remarks: tuple[str, ...] = ()
    if len(rows) > 1 and {cell.strip().lower() for cell in rows[0][1]} <= HEADS:
        rows = rows[1:]
        remarks = ("line 1 names the columns, so it is no pair",)
    ragged = [number for number, cells in rows if len(cells) != width]
    if width not in (2, 3):
        problems.append(f"line 1 has {width} tab-separated cells: expected input and target, or id, input and target")
    if ragged:
        problems.append(
            f"line {files.listed(ragged)}: expected {width} tab-separated cells as in line 1: correct the line"
        )
    empty = [number for number, cells in rows if len(cells) == width and not all(cell.strip() for cell in cells[-2:])]
    if empty:
        problems.append(f"line {files.listed(empty)}: an empty input or target: remove the line")
    if problems:
        return Corpus(path, (), (), True, problems=tuple(problems))
    names = [cells[0] if width == 3 else str(row) for row, (_, cells) in enumerate(rows)]
    if len(set(names)) < len(names):
        names = [str(row) for row in range(len(rows))]
    return Corpus(
        path,
        tuple(names),
        tuple(cells[-1] for _, cells in rows),
        rows=True,
        inputs=tuple(cells[-2] for _, cells in rows),
        remarks=remarks,
    )


def _records(path: Path, content: str) -> Corpus:
    rows: list[dict[str, object]] = []
    problems = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"line {number} is not JSON ({error.msg}): correct it")
            continue
        if not isinstance(row, dict):
            problems.append(f"line {number} is not a JSON object: write one object a line")
            continue
        main = row.get("text", row.get("target"))
        if not isinstance(main, str) or not main.strip() or not isinstance(row.get("input", ""), str):
            have = files.listed(sorted(map(str, row)), 5) or "nothing"
            problems.append(f'line {number}: expected a string "text" (or "input" and "target"), found {have}: add it')
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in f"{main}{row.get('input', '')}"):
            problems.append(f"line {number}: half of a surrogate pair (\\ud800 to \\udfff) is no character: remove it")
            continue
        rows.append(row)
    with_input = ["input" in row for row in rows]
    if any(with_input) and not all(with_input):
        problems.append(f'{with_input.count(False)} line(s) have no "input" while others do: add it')
    if problems:
        shown = (*problems[:5], f"and {len(problems) - 5} more") if len(problems) > 5 else tuple(problems)
        return Corpus(path, (), (), True, problems=tuple(shown))
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in ("text", "target", "input")))
    cells = {name: tuple(None if row.get(name) is None else str(row[name]) for row in rows) for name in extra}
    return Corpus(
        path,
        tuple(str(row) for row in range(len(rows))),
        tuple(str(row.get("text", row.get("target"))) for row in rows),
        rows=True,
        inputs=tuple(str(row["input"]) for row in rows) if all(with_input) and rows else (),
        cells=cells,
    )
