"""Raw cells (labels, numbers, captions) as condition tensors with their presence flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.data import corpus
from condiff.data.alphabet import BYTES, Alphabet, described
from condiff.data.columns import looks, moments, natural
from condiff.data.splits import TRAIN

CAPTION_LENGTH = 256
"""Most tokens kept of a caption."""


@final
@dataclass
class Conditions:
    """Conditions while they are being gathered; `Dataset` freezes them."""

    values: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    meta: dict[str, object] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, present: Tensor | None = None) -> None:
        """Add a finished tensor; every row has it unless flags are given."""
        self.values[name] = value
        self.present[name] = torch.ones(value.shape[0], dtype=torch.bool) if present is None else present

    def add_classes(self, name: str, cells: Sequence[str | None]) -> None:
        """Add class names as int64 (N,), numbered in natural order ("2" before "10")."""
        found = {cell for cell in cells if cell is not None}
        labels = tuple(sorted(found, key=natural))
        number = {label: place for place, label in enumerate(labels)}
        self.add(
            name,
            torch.tensor([0 if cell is None else number[cell] for cell in cells], dtype=torch.int64),
            torch.tensor([cell is not None for cell in cells]),
        )
        self.labels[name] = labels
        self.meta[name] = {"kind": "class", "num_classes": len(labels)}

    def add_vectors(self, name: str, values: NDArray[np.float64], parts: NDArray[np.int8]) -> None:
        """Add numbers (N, D) with zero mean and unit variance on the training rows; NaN in a row means it has none."""
        present = np.asarray(np.isfinite(values).all(axis=1), np.bool_)
        chosen = values[present & (parts == TRAIN)]
        mean, std = moments(chosen) if len(chosen) else (np.zeros(values.shape[1]), np.ones(values.shape[1]))
        scaled = np.where(np.expand_dims(present, 1), (values - mean) / std, 0.0)
        self.add(name, torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(present))
        self.meta[name] = {"kind": "vector", "size": values.shape[1], "mean": mean.tolist(), "std": std.tolist()}

    def add_texts(
        self, name: str, cells: Sequence[str | None], most: int = CAPTION_LENGTH, alphabet: Alphabet = BYTES
    ) -> None:
        """Add texts as tokens (N, L), L the longest but at most `most`."""
        rows, cut = corpus.padded(tuple(cell or "" for cell in cells), most, alphabet)
        length = max(int((rows != alphabet.end).sum(1).max(initial=0)), 1)
        self.add(name, torch.from_numpy(rows[:, :length].copy()), torch.tensor([cell is not None for cell in cells]))
        self.meta[name] = {"kind": "tokens", **described(alphabet, length), "cut": cut}

    def add_cells(self, name: str, cells: Sequence[str | None], parts: NDArray[np.int8]) -> None:
        """Add raw cells as what they look like, by `looks`."""
        kind = looks(name, cells)
        if kind == "class":
            self.add_classes(name, cells)
        elif kind == "vector":
            numbers = [math.nan if cell is None else float(cell) for cell in cells]
            self.add_vectors(name, np.array(numbers)[:, None], parts)
        else:
            self.add_texts(name, cells)
