"""What a sample is conditioned on: named tensors with presence flags, and the schema that declares them.

A condition is never `None`-or-tensor: every name carries `present`, one flag a row, so that dropping a condition for
classifier-free guidance, mixing rows with and without it, and batching are the same operation for every kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from condiff.core.rng import Rng


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """Named tensors, batch first, and which rows have them.

    Args:
        values: Tensors by name, each (B, ...). The value of an absent row is kept but must not influence any output
            (the null law); networks replace it by their learned null.
        present: For every name a bool tensor (B,): does row b have it?

    Raises:
        ValueError: If names differ between the two mappings, or a flag is not bool of shape (B,).
    """

    values: Mapping[str, Tensor]
    present: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.values.keys() != self.present.keys():
            raise ValueError(
                f"condition names differ: values has {sorted(self.values)}, present has {sorted(self.present)}; "
                "build conditions with Condition.of(name=tensor)"
            )
        sizes = {name: value.shape[0] if value.ndim else None for name, value in self.values.items()}
        if len(set(sizes.values())) > 1 or None in sizes.values():
            raise ValueError(f"every condition needs the same leading batch size, got {sizes}")
        for name, flag in self.present.items():
            if flag.dtype != torch.bool or flag.shape != (sizes[name],):
                raise ValueError(
                    f"present[{name!r}] must be bool of shape ({sizes[name]},), got {flag.dtype} {tuple(flag.shape)}"
                )

    @classmethod
    def of(cls, **values: Tensor) -> Self:
        """Build a condition whose every row is present; values are (B, ...) tensors."""
        return cls(values, {k: torch.ones(v.shape[:1], dtype=torch.bool, device=v.device) for k, v in values.items()})

    def __len__(self) -> int:
        """Batch size B; 0 when there is no name at all."""
        return next((value.shape[0] for value in self.values.values()), 0)

    def null(self, *names: str) -> Self:
        """Mark names as absent in every row; all names if none is given.

        Raises:
            KeyError: If a name is not in this condition.
        """
        self._check(names)
        chosen = names or tuple(self.values)
        present = {k: torch.zeros_like(v) if k in chosen else v for k, v in self.present.items()}
        return type(self)(self.values, present)

    def drop(self, probability: Mapping[str, float], *, rng: Rng) -> Self:
        """Mark names as absent with a given probability, independently per name and row.

        Args:
            probability: Chance in [0, 1] by name; names not listed are kept.
            rng: Source of one uniform a row and name.

        Raises:
            KeyError: If a name is not in this condition.
        """
        self._check(tuple(probability))
        present = dict(self.present)
        for name in sorted(probability):  # sorted: the stream must not depend on the mapping's order
            keep = rng.uniform((len(self),)).to(present[name].device) >= probability[name]
            present[name] = present[name] & keep
        return type(self)(self.values, present)

    def rows(self, index: Tensor | slice) -> Self:
        """Pick rows: index is a bool (B,) or integer (R,) tensor, or a slice, which copies nothing."""
        if isinstance(index, slice):
            return type(self)(
                {k: v[index] for k, v in self.values.items()}, {k: v[index] for k, v in self.present.items()}
            )
        return type(self)(
            {k: v[index.to(v.device)] for k, v in self.values.items()},
            {k: v[index.to(v.device)] for k, v in self.present.items()},
        )

    def cat(self, other: Condition) -> Self:
        """Stack the rows of another condition with the same names under this one's.

        Raises:
            ValueError: If the names differ.
        """
        if self.values.keys() != other.values.keys():
            raise ValueError(f"cannot stack conditions named {sorted(self.values)} and {sorted(other.values)}")
        return type(self)(
            {k: torch.cat([v, other.values[k]]) for k, v in self.values.items()},
            {k: torch.cat([v, other.present[k]]) for k, v in self.present.items()},
        )

    def adding(self, **values: Tensor) -> Self:
        """Add or replace names, present in every row."""
        new = Condition.of(**values)
        return type(self)({**self.values, **new.values}, {**self.present, **new.present})

    def without(self, *names: str) -> Self:
        """Leave names out, whether they are there or not."""
        return type(self)(
            {k: v for k, v in self.values.items() if k not in names},
            {k: v for k, v in self.present.items() if k not in names},
        )

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to a device."""
        return type(self)(
            {k: v.to(device) for k, v in self.values.items()}, {k: v.to(device) for k, v in self.present.items()}
        )

    def _check(self, names: tuple[str, ...]) -> None:
        unknown = [name for name in names if name not in self.values]
        if unknown:
            raise KeyError(f"no condition named {unknown[0]!r}; there are {sorted(self.values)}")


@final
@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One of `num_classes` classes, an int64 (B,); `labels` are their names, if known."""

    num_classes: int
    labels: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Vector:
    """A float vector (B, size); a scalar condition is size 1."""

    size: int
    labels: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Embeddings:
    """A set of float tokens (B, length, width), read by cross-attention; length may vary up to `length`."""

    length: int
    width: int


@final
@dataclass(frozen=True, slots=True)
class TokenIds:
    """Integer tokens (B, length) from a vocabulary, embedded and read by cross-attention."""

    length: int
    vocabulary: int


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """A field on the grid of x (B, channels, *grid), concatenated to its channels: image, volume, covariates."""

    channels: int


@final
@dataclass(frozen=True, slots=True)
class Series:
    """A sequence (B, channels, length) of any length, embedded by position and read by cross-attention."""

    channels: int
    length: int


Kind = ClassLabel | Vector | Embeddings | TokenIds | Picture | Series
"""What one condition name holds; a network builds the matching encoder with a learned null from it."""

_KINDS: Mapping[str, Callable[..., Kind]] = {
    kind.__name__: kind for kind in (ClassLabel, Vector, Embeddings, TokenIds, Picture, Series)
}


def schema_to_json(schema: Mapping[str, Kind]) -> dict[str, dict[str, Any]]:
    """Write a schema (condition name -> kind) as plain JSON."""
    return {name: {"kind": type(kind).__name__, **asdict(kind)} for name, kind in schema.items()}


def schema_from_json(spec: Mapping[str, Mapping[str, Any]]) -> dict[str, Kind]:
    """Read what `schema_to_json` wrote.

    Raises:
        ValueError: If a kind is unknown, for example written by a newer version.
    """
    schema: dict[str, Kind] = {}
    for name, entry in spec.items():
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"}
        if entry.get("kind") not in _KINDS:
            raise ValueError(f"condition {name!r} has kind {entry.get('kind')!r}; known kinds are {sorted(_KINDS)}")
        schema[name] = _KINDS[entry["kind"]](**fields)
    return schema
