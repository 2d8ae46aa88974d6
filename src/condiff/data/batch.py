"""The one in-memory type that training, evaluation and the command line read, and the keyed order of training."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.data.splits import mix


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in memory with what each is conditioned on.

    Args:
        data: All examples, (N, *S): float32 in model range ([-1, 1] for images and volumes, zero mean and unit
            variance for series, vectors and poses) or integer tokens, which may be stored in a narrow type.
        conditions: Tensors by name, each (N, ...): int64 classes (N,), float vectors (N, D), fields on the grid of the
            data (N, C, *grid), or integer tokens (N, L). The row of an absent value is zero.
        present: For every condition name a bool tensor (N,): does row n have it?
        name: Name of the set or of the file it came from.
        kind: "images", "series", "text", "vectors", "volumes" or "poses".
        labels: Class names by condition name; class k of condition c is `labels[c][k]`.
        meta: Everything else worth keeping in a checkpoint, as plain JSON: ranges, statistics, source, split.

    Raises:
        ValueError: If names or first dimensions disagree, a flag is not bool, or a label table is for no condition.
    """

    data: Tensor
    conditions: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    name: str
    kind: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.ndim == 0:
            raise ValueError(f"{self.name}: data must be (N, *S), got a single number")
        count = self.data.shape[0]
        if self.conditions.keys() != self.present.keys():
            raise ValueError(
                f"{self.name}: condition names differ: conditions has {sorted(self.conditions)}, "
                f"present has {sorted(self.present)}"
            )
        for name, value in self.conditions.items():
            if value.ndim == 0 or value.shape[0] != count:
                raise ValueError(f"{self.name}: condition {name!r} must have {count} rows, got {tuple(value.shape)}")
        for name, flag in self.present.items():
            if flag.dtype != torch.bool or flag.shape != (count,):
                raise ValueError(
                    f"{self.name}: present[{name!r}] must be bool of shape ({count},), "
                    f"got {flag.dtype} {tuple(flag.shape)}"
                )
        unknown = sorted(self.labels.keys() - self.conditions.keys())
        if unknown:
            raise ValueError(
                f"{self.name}: labels for {unknown[0]!r}, but the conditions are {sorted(self.conditions)}"
            )

    def __len__(self) -> int:
        """Count the examples."""
        return self.data.shape[0]

    def rows(self, index: Tensor) -> tuple[Tensor, Condition]:
        """Gather rows as the tensors a system takes.

        Args:
            index: Rows, an int64 (B,) or bool (N,) tensor.

        Returns: Data (B, *S), float32 or int64, and their condition (without names if the set has none).
        """
        values = {name: _widened(value[index]) for name, value in self.conditions.items()}
        return _widened(self.data[index]), Condition(values, {k: flag[index] for k, flag in self.present.items()})

    def where(self, index: Tensor) -> Self:
        """Keep the rows of an int64 (R,) or bool (N,) tensor, in its order."""
        return replace(
            self,
            data=self.data[index],
            conditions={name: value[index] for name, value in self.conditions.items()},
            present={name: flag[index] for name, flag in self.present.items()},
        )

    def take(self, n: int) -> Self:
        """Keep the first n rows, or all if there are fewer.

        Raises:
            ValueError: If n is negative.
        """
        if n < 0:
            raise ValueError(f"cannot take {n} rows; give 0 or more")
        return replace(
            self,
            data=self.data[:n],
            conditions={name: value[:n] for name, value in self.conditions.items()},
            present={name: flag[:n] for name, flag in self.present.items()},
        )


@final
@dataclass(frozen=True, eq=False)
class Splits:
    """A set cut into what is learned from, what choices are made on, and what is only measured once.

    Args:
        train: Rows for learning; statistics of the set come from these only.
        validation: Rows for choices such as guidance scale and stopping.
        test: Rows for the reported number; never tune on them.

    Raises:
        ValueError: If the three differ in kind, example shape or condition names.
    """

    train: Dataset
    validation: Dataset
    test: Dataset

    def __post_init__(self) -> None:
        for name, part in (("validation", self.validation), ("test", self.test)):
            for what, mine, first in (
                ("kind", part.kind, self.train.kind),
                ("example shape", tuple(part.data.shape[1:]), tuple(self.train.data.shape[1:])),
                ("condition names", sorted(part.conditions), sorted(self.train.conditions)),
            ):
                if mine != first:
                    raise ValueError(f"{self.train.name}: {name} has {what} {mine}, but train has {first}")


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Order of the n rows in one epoch: a pure function of its arguments, equal on every machine and version.

    Rows are sorted by a keyed hash of their number, so no random state is read or changed.

    Returns: Every row number once, int64 (n,).

    Raises:
        ValueError: If n is not positive or epoch is negative.
    """
    if n < 1 or epoch < 0:
        raise ValueError(f"need n >= 1 rows and epoch >= 0, got n={n}, epoch={epoch}")
    return torch.from_numpy(_order(n, operator.index(seed), epoch).copy())


def batch_index(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of training step `step`: a pure function of its arguments, so that a resumed run sees what it would have.

    The permutations of epochs 0, 1, ... are laid end to end and step k takes entries [k * batch_size, (k + 1) *
    batch_size); a step may straddle two epochs, no row is ever left out, and a batch may be larger than the set.

    Args:
        n: Rows in the set, >= 1.
        batch_size: Rows per step over all devices, >= 1.
        seed: Names the order.
        step: Counted from 0.

    Returns: Row numbers, int64 (batch_size,).

    Raises:
        ValueError: If an argument is out of range.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"need n >= 1, batch_size >= 1 and step >= 0, got n={n}, batch_size={batch_size}, step={step}")
    start, stop = step * batch_size, (step + 1) * batch_size
    pieces = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        first = epoch * n
        pieces.append(_order(n, operator.index(seed), epoch)[max(start - first, 0) : min(stop - first, n)])
    return torch.from_numpy(np.concatenate(pieces))


@lru_cache(maxsize=8)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    key = mix(mix(np.asarray([seed % 2**64], np.uint64)) + np.uint64(epoch))
    order = np.argsort(mix(np.arange(n, dtype=np.uint64) + key), kind="stable").astype(np.int64)
    order.flags.writeable = False  # shared by every caller through the cache
    return order


def _widened(value: Tensor) -> Tensor:
    """Integers as int64, what embeddings and losses take; floats as they are."""
    return value if value.is_floating_point() else value.long()
