"""What a column of cells is, and the statistics of columns. No torch here: the inspection uses it too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAPTIONS = frozenset({"caption", "text", "prompt", "description"})
CLASSES = frozenset({"label", "labels", "class", "y"})


def looks(name: str, cells: Sequence[str | None]) -> str:
    """Say what a column of cells is: "class", "vector" or "caption".

    By name first (label, class, y; caption, text, prompt). Otherwise numbers are a vector of size 1, texts that repeat
    are classes, and texts that are mostly different are captions.
    """
    known = [cell for cell in cells if cell is not None]
    if name.lower() in CAPTIONS:
        return "caption"
    if known and all(_finite(cell) for cell in known):
        whole = all(float(cell).is_integer() for cell in known)
        return "class" if name.lower() in CLASSES and whole else "vector"
    if name.lower() in CLASSES or len(set(known)) <= max(1, len(known) // 2):
        return "class"
    return "caption"


def moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every column; a constant column gets deviation 1."""
    std = rows.std(axis=0)
    return rows.mean(axis=0), np.where(std > 0, std, 1.0)


def natural(label: str) -> tuple[int, float, str]:
    """Sort key that puts numbers first, by value."""
    return (0, float(label), label) if _finite(label) else (1, 0.0, label)


def _finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
