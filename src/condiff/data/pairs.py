"""Data sets whose examples carry another picture or vector to start from, named "input"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from condiff.data.batch import Dataset, Splits

NAME = "input"
"""What the condition is called, as in folders `input/` and `target/`."""


def degraded(splits: Splits, spoil: Callable[[Tensor], Tensor]) -> Splits:
    """Pair every example with a spoiled version of itself.

    Args:
        splits: Examples (N, *S).
        spoil: Maps (N, *S) to inputs of the same shape.
    """
    return _each(splits, lambda part: _with(part, part.data, spoil(part.data)))


def between(splits: Splits, source: int, target: int, name: str = "label") -> Splits:
    """Make a set of the examples of one class with those of another, in turn, as their inputs.

    Args:
        splits: Examples with a class condition.
        source: Class of the inputs.
        target: Class of the examples that are kept.
        name: The class condition; it is left out, being the same everywhere.

    Raises:
        ValueError: If there is no such condition, or a part lacks one of the classes.
    """

    def pick(part: Dataset) -> Dataset:
        if name not in part.conditions:
            raise ValueError(f"{part.name} has no condition {name!r}; there are {sorted(part.conditions)}")
        ours, theirs = ((part.conditions[name] == one).nonzero()[:, 0] for one in (target, source))
        if not len(ours) or not len(theirs):
            raise ValueError(f"{part.name} has {len(theirs)} rows of class {source} and {len(ours)} of class {target}")
        kept = part.where(ours)
        return _with(kept, kept.data, part.data[theirs[torch.arange(len(ours)) % len(theirs)]], without=name)

    return _each(splits, pick)


def jittered(splits: Splits, std: float, seed: int = 0) -> Splits:
    """Add fixed normal noise to examples and inputs: pixels that are always black give a density no room.

    Args:
        splits: Examples, and inputs if there are any.
        std: Standard deviation of the noise.
        seed: Names the noise.
    """

    def shake(part: Dataset) -> Dataset:
        generator = torch.Generator().manual_seed(seed)

        def noisy(value: Tensor) -> Tensor:
            return value + std * torch.randn(value.shape, generator=generator)

        conditions = {k: noisy(v) if k == NAME else v for k, v in part.conditions.items()}
        return replace(part, data=noisy(part.data), conditions=conditions)

    return _each(splits, shake)


def _with(part: Dataset, data: Tensor, value: Tensor, without: str = "") -> Dataset:
    if value.shape != data.shape:
        raise ValueError(f"{part.name}: inputs have shape {tuple(value.shape)}, examples {tuple(data.shape)}")
    known = part.meta.get("conditions", {})
    facts = {k: v for k, v in known.items() if k != without} if isinstance(known, dict) else {}
    kind = "picture" if value.ndim > 2 else "vector"
    present = {k: v for k, v in part.present.items() if k != without}
    return replace(
        part,
        data=data,
        conditions={**{k: v for k, v in part.conditions.items() if k != without}, NAME: value},
        present={**present, NAME: torch.ones(len(data), dtype=torch.bool)},
        labels={k: v for k, v in part.labels.items() if k != without},
        meta={**part.meta, "conditions": {**facts, NAME: {"kind": kind}}},
    )


def _each(splits: Splits, change: Callable[[Dataset], Dataset]) -> Splits:
    return Splits(change(splits.train), change(splits.validation), change(splits.test))
