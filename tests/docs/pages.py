"""The project's pages and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
TESTED = "<!-- tested -->"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line in the page, and whether the line before it says `tested`."""

    language: str
    text: str
    line: int
    tested: bool


def blocks(page):
    """Return the fenced blocks of a page."""
    found, lines, k = [], page.read_text(encoding="utf-8").splitlines(), 0
    while k < len(lines):
        fence = re.match(r"^(`{3,})\s*([^\s`]*)", lines[k])
        if not fence:
            k += 1
            continue
        start = k + 1
        k = start
        while not re.match(rf"^{fence[1]}`*\s*$", lines[k]):
            k += 1
        before = [line for line in lines[: start - 1] if line.strip()][-1:]
        found.append(Block(fence[2], "\n".join(lines[start:k]) + "\n", start + 1, before == [TESTED]))
        k += 1
    return found


def commands(block):
    """Return the commands of a console block: lines that begin with "$ ", continued by a backslash."""
    joined = block.text.replace("\\\n", " ")
    return [line[2:].partition("  #")[0].strip() for line in joined.splitlines() if line.startswith("$ ")]
