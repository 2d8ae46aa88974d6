"""How verbs speak: results on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def alone() -> bool:
    """Is this process the whole job, not one of several workers that a launcher started?"""
    return int(os.environ.get("WORLD_SIZE", "1")) <= 1


def lead() -> bool:
    """Is this the process that writes and talks: the only one, or worker 0?"""
    return alone() or os.environ.get("RANK", "0") == "0"


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; only worker 0 does."""
    if lead():
        print(json.dumps(value, allow_nan=False))


def say(text: str) -> None:
    """Write a line for people on stderr; only worker 0 does."""
    if lead():
        print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> str:
    """Lay rows out in columns."""
    cells = [[str(head) for head in heads], *[["" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
