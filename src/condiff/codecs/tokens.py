"""Codecs between pictures and token ids: levels of brightness, and patches by the nearest entry of a code book."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition


@final
@dataclass(frozen=True)
class Levels:
    """Every number of the data becomes one of K equal steps from -1 to 1.

    id = round((x + 1) / 2 (K - 1)); x = 2 id / (K - 1) - 1

    Args:
        num: K, at least 2.
        shape: Shape (*S) of one example; ids are flat, (B, prod(S)).
    """

    num: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.num < 2:
            raise ValueError(f"Levels needs at least 2 of them, got {self.num}")

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return ids (B, L), int64."""
        return ((x.clamp(-1.0, 1.0) + 1.0) / 2.0 * (self.num - 1)).round().long().flatten(1)

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return data (B, *S) in [-1, 1]; ids beyond the levels (a mask that is left) are black."""
        values = torch.where(z < self.num, 2.0 * z / (self.num - 1) - 1.0, -1.0)
        return values.reshape(len(z), *self.shape).float()


@final
@dataclass(frozen=True)
class VectorQuantized:
    """Every patch of a picture becomes the number of the nearest entry of a code book.

    id = argmin_k |patch - book_k|^2; ids run row by row, (B, H / p * W / p)

    Args:
        book: K entries of C p p numbers each.
        patch: p, side of a patch.
        shape: (C, H, W), sides divisible by p.

    Raises:
        ValueError: If the sides do not divide, or an entry has another size.

    Source: Gray 1984 (vector quantisation) and Lloyd 1982 for the book. It is learned in seconds and lives in a
        recipe's arguments; `VQAutoencoder` has networks around its book.
    """

    book: tuple[tuple[float, ...], ...]
    patch: int
    shape: tuple[int, int, int]
    _table: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        if self.patch < 1 or height % self.patch or width % self.patch:
            raise ValueError(f"patches of {self.patch} do not divide pictures of {height}x{width}")
        size = channels * self.patch**2
        if len(self.book) < 2 or any(len(entry) != size for entry in self.book):
            raise ValueError(f"a code book needs at least 2 entries of {size} numbers")
        object.__setattr__(self, "_table", torch.tensor(self.book))

    @classmethod
    def of(cls, book: Sequence[Sequence[float]], shape: Sequence[int]) -> Self:
        """Build from a code book, whose entries say how large a patch is, and the shape (C, H, W) of a picture."""
        channels, height, width = shape
        return cls(
            tuple(tuple(entry) for entry in book), math.isqrt(len(book[0]) // channels), (channels, height, width)
        )

    @classmethod
    def fit(cls, data: Tensor, num: int, patch: int, *, rounds: int = 20, seed: int = 0) -> Self:
        """Learn a code book of `num` entries from pictures (N, C, H, W) by `k_means` on at most 100,000 patches."""
        generator = torch.Generator().manual_seed(seed)
        book = k_means(_patches(data.float(), patch).flatten(0, 1), num, rounds=rounds, generator=generator)
        rows = tuple(tuple(round(value, 4) for value in row) for row in book.tolist())
        return cls(rows, patch, (data.shape[1], data.shape[2], data.shape[3]))

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return ids (B, L), int64."""
        cells = _patches(x.float(), self.patch)
        return nearest(cells.flatten(0, 1), self._table.to(x.device)).reshape(cells.shape[:2])

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return pictures (B, C, H, W); ids beyond the book (a mask that is left) are its first entry."""
        channels, height, width = self.shape
        cells = self._table.to(z.device)[torch.where(z < len(self.book), z, 0).long()]
        rows, columns = height // self.patch, width // self.patch
        grid = cells.reshape(len(z), rows, columns, channels, self.patch, self.patch)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(z), channels, height, width)

    @property
    def length(self) -> int:
        """Number of tokens of a picture."""
        return math.prod(self.shape[1:]) // self.patch**2


def _patches(x: Tensor, patch: int) -> Tensor:
    """Cut (B, C, H, W) into (B, L, C p p)."""
    batch, channels, height, width = x.shape
    grid = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)


def k_means(cells: Tensor, num: int, *, rounds: int = 20, generator: torch.Generator) -> Tensor:
    """Return the centres (num, D) of points (N, D), of which 100,000 at most are looked at; fewer points have fewer.

    It starts at points drawn with a chance that grows with their distance to those drawn before; a centre that no point
    is nearest to any more moves to the point that is worst off.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
    """
    cells = cells[torch.randperm(len(cells), generator=generator)[:100_000]]
    book = cells[:1]
    far = (cells - book).square().sum(1)
    for _ in range(min(num, len(cells)) - 1):
        total = far.sum()
        chance = far if float(total) > 0.0 else torch.ones_like(far)
        book = torch.cat([book, cells[torch.multinomial(chance, 1, generator=generator)]])
        far = torch.minimum(far, (cells - book[-1:]).square().sum(1))
    for _ in range(rounds):
        near = nearest(cells, book)
        count = torch.bincount(near, minlength=len(book))
        mean = torch.zeros_like(book).index_add_(0, near, cells) / count.clamp_min(1)[:, None]
        worst = (cells - book[near]).square().sum(1).topk(len(book)).indices
        book = torch.where((count > 0)[:, None], mean, cells[worst])
    return book


def nearest(cells: Tensor, book: Tensor) -> Tensor:
    """Return the nearest entry of each cell, without a table of differences."""
    half = 0.5 * book.square().sum(1)
    found: Sequence[Tensor] = [(half - part @ book.T).argmin(1) for part in cells.split(65_536)]
    return torch.cat(list(found)) if len(found) else torch.empty(0, dtype=torch.int64)
