"""Embeddings of times, positions and conditions.

Every condition has a learned null that stands in for it where `Condition.present` is False or the name is missing.
The value of an absent row is replaced *before* and the null put in *after* anything is computed from it, so that even
a NaN can reach neither the output nor a gradient.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from condiff.core.condition import ClassLabel, Condition, Embeddings, Kind, Picture, Series, TokenIds, Vector
from condiff.nn.layout import Layout


def sinusoids(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Return [cos(f p), sin(f p)] over all frequencies f: (..., ) -> (..., 2 F)."""
    phase = positions[..., None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], -1)


def frequencies(count: int, low: float, high: float) -> Tensor:
    """Return `count` angular frequencies from high to low in equal ratios, float32 (count,)."""
    steps = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    return (high * (low / high) ** steps).float()


def grid_positions(grid: Iterable[Tensor], width: int) -> Tensor:
    """Embed the cells of a grid by sines and cosines, an equal share of the width for every axis.

    Angular frequencies run from 1 to 1/10000 per cell.

    Args:
        grid: For every axis the coordinates of its cells in cells, each (..., n_i) with equal leading axes.
        width: Features; what is left over when it does not divide by twice the number of axes is zero.

    Returns: (..., prod(n_i), width), the last axis of the grid running fastest.
    """
    axes = list(grid)
    count = width // (2 * len(axes))
    parts = []
    for i, cells in enumerate(axes):
        part = sinusoids(cells.float(), frequencies(count, 1e-4, 1.0).to(cells.device))
        shape = [*cells.shape[:-1], *(axis.shape[-1] for axis in axes)]
        spread = part.reshape(*cells.shape[:-1], *(1,) * i, cells.shape[-1], *(1,) * (len(axes) - 1 - i), 2 * count)
        parts.append(spread.expand(*shape, 2 * count))
    filler = parts[0].new_zeros(*parts[0].shape[:-1], width - 2 * count * len(axes))
    leading = axes[0].ndim - 1
    return torch.cat([*parts, filler], -1).flatten(leading, leading + len(axes) - 1)


class TimeEmbedding(nn.Module):
    """Features of the process time: sines and cosines through a small MLP.

    emb = W2 silu(W1 [cos(f t), sin(f t)]), f from max_frequency down to min_frequency in equal ratios

    The features are computed in float32 at least, whatever the type of the weights: bf16 frequencies would be other
    frequencies.

    Args:
        width: Features out.
        max_frequency: Highest angular frequency of t in [0, 1]. The default is that of DDPM on 1000 steps; networks
            that are differentiated in time (flow maps, MeanFlow) need low ones, about 5 with min_frequency 0.05.
        min_frequency: Lowest angular frequency.

    Raises:
        ValueError: If not 0 < min_frequency <= max_frequency.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, max_frequency: float = 1000.0, min_frequency: float = 0.1) -> None:
        super().__init__()
        if not 0 < min_frequency <= max_frequency:
            raise ValueError(f"frequencies need 0 < min <= max, got min {min_frequency}, max {max_frequency}")
        count = 64
        self._range = (count, min_frequency, max_frequency)
        self.register_buffer("frequencies", frequencies(*self._range), persistent=False)
        self.up = nn.Linear(2 * count, width)
        self.down = nn.Linear(width, width)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimeEmbedding:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A cast of the module must not round the frequencies (1000 in bf16 is off by up to 2 radians).
        self.frequencies = frequencies(*self._range).to(self.frequencies.device)
        return self

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (...,) in [0, 1] to (..., width)."""
        wide = torch.promote_types(self.up.weight.dtype, torch.float32)
        features = sinusoids(t.to(wide), self.frequencies.to(wide)).to(self.up.weight.dtype)
        out: Tensor = self.down(nn.functional.silu(self.up(features)))
        return out


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """A condition as a network reads it.

    Args:
        vector: Sum of what classes and vectors say, (B, width), or (1, width) if it is the same for all rows, or None
            if the schema has none.
        tokens: Tokens for cross-attention (B, K, context_width), or None if the schema has none.
        visible: Bool (B, K): which tokens row b may see; at least one.
    """

    vector: Tensor | None
    tokens: Tensor | None
    visible: Tensor | None


class ClassEncoder(nn.Module):
    """A table with one row per class and one for the null."""

    def __init__(self, kind: ClassLabel, width: int) -> None:
        super().__init__()
        self.num_classes = kind.num_classes
        self.table = nn.Embedding(kind.num_classes + 1, width)

    def forward(self, value: Tensor | None, present: Tensor | None) -> Tensor:
        """Embed class indices (B,) to (B, width); None is the null, (1, width)."""
        if value is None or present is None:
            return self.table.weight[-1:]
        if value.is_floating_point() or value.ndim != 1:
            raise ValueError(f"a class label is an integer tensor (B,), got {value.dtype} {tuple(value.shape)}")
        return self.table(torch.where(present, value, self.num_classes))  # type: ignore[no-any-return]


class VectorEncoder(nn.Module):
    """A two-layer perceptron on a vector, and a null beside it."""

    def __init__(self, kind: Vector, width: int) -> None:
        super().__init__()
        self.size = kind.size
        self.up = nn.Linear(kind.size, width)
        self.down = nn.Linear(width, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor | None, present: Tensor | None) -> Tensor:
        """Embed vectors (B, size) to (B, width); None is the null, (1, width)."""
        if value is None or present is None:
            return self.null[None]
        if value.ndim != 2 or value.shape[1] != self.size:
            raise ValueError(f"a vector condition has shape (B, {self.size}), got {tuple(value.shape)}")
        clean = torch.where(present[:, None], value, 0).to(self.up.weight.dtype)
        out = self.down(nn.functional.silu(self.up(clean)))
        return torch.where(present[:, None], out, self.null.to(out.dtype))


class TokenEncoder(nn.Module):
    """Tokens for cross-attention from embeddings, token numbers or a series, and one null token.

    Token numbers and series carry sine and cosine positions; embeddings are a set and carry none.
    """

    def __init__(self, kind: Embeddings | TokenIds | Series, width: int) -> None:
        super().__init__()
        self.kind = kind
        if isinstance(kind, TokenIds):
            self.project: nn.Module = nn.Embedding(kind.vocabulary, width)
        else:
            self.project = nn.Linear(kind.width if isinstance(kind, Embeddings) else kind.channels, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor | None, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embed a value to tokens (B, 1 + L, width) and who sees them (B, 1 + L); None to (1, 1, width), (1, 1).

        The first token is the null. A row sees either the null or all others.
        """
        if value is None or present is None:
            return self.null[None, None], torch.ones(1, 1, dtype=torch.bool, device=self.null.device)
        tokens = self._tokens(value, present)
        null = self.null.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        seen = present[:, None].expand(-1, tokens.shape[1])
        return torch.cat([null, tokens], 1), torch.cat([~present[:, None], seen], 1)

    def _tokens(self, value: Tensor, present: Tensor) -> Tensor:
        if isinstance(self.kind, TokenIds):
            if value.ndim != 2 or value.is_floating_point() or not 0 < value.shape[1] <= self.kind.length:
                raise ValueError(
                    f"token numbers are integers (B, 1 to {self.kind.length}), got {value.dtype} {tuple(value.shape)}"
                )
            tokens: Tensor = self.project(torch.where(present[:, None], value, 0))
        else:
            channels = self.kind.width if isinstance(self.kind, Embeddings) else self.kind.channels
            rows = value if isinstance(self.kind, Embeddings) or value.ndim != 3 else value.transpose(1, 2)
            if rows.ndim != 3 or rows.shape[2] != channels or rows.shape[1] == 0:
                form = f"(B, L, {channels})" if isinstance(self.kind, Embeddings) else f"(B, {channels}, L)"
                raise ValueError(f"expected a condition of shape {form} with L >= 1, got {tuple(value.shape)}")
            if isinstance(self.kind, Embeddings) and rows.shape[1] > self.kind.length:
                raise ValueError(f"the schema allows {self.kind.length} tokens, got {rows.shape[1]}")
            weight = next(self.project.parameters())
            tokens = self.project(torch.where(present[:, None, None], rows, 0).to(weight.dtype))
        if isinstance(self.kind, Embeddings):
            return tokens
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return tokens + grid_positions([place], tokens.shape[2]).to(tokens.dtype)


class PictureEncoder(nn.Module):
    """A field passed through as it is, and a null that is one constant per channel."""

    def __init__(self, kind: Picture) -> None:
        super().__init__()
        self.channels = kind.channels
        self.fill = nn.Parameter(torch.zeros(kind.channels))

    def forward(self, value: Tensor | None, present: Tensor | None, x: Tensor) -> Tensor:
        """Return the field (B, channels, *grid) in the type and on the grid of x (B, C, *grid)."""
        fill = self.fill.to(x.dtype).reshape(1, -1, *(1,) * (x.ndim - 2))
        if value is None or present is None:
            return fill.expand(x.shape[0], -1, *x.shape[2:])
        if value.shape[2:] != x.shape[2:]:
            raise ValueError(f"a picture must lie on the grid of x, {tuple(x.shape[2:])}, got {tuple(value.shape[2:])}")
        return torch.where(present.reshape(-1, *(1,) * (x.ndim - 1)), value.to(x.dtype), fill)


class Conditions(nn.Module):
    """One encoder for every name of a schema.

    Args:
        schema: Condition names, which must be identifiers, and their kinds.
        width: Features of the vector that classes and vectors are added up in.
        context_width: Features of a token for cross-attention.

    Raises:
        ValueError: If a name is not an identifier.
    """

    def __init__(self, schema: Mapping[str, Kind], *, width: int, context_width: int) -> None:
        super().__init__()
        self.schema = dict(schema)
        self.vectors, self.tokens, self.pictures = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name, kind in self.schema.items():
            if not name.isidentifier():
                raise ValueError(f"a condition's name must be a Python identifier, got {name!r}")
            match kind:
                case ClassLabel():
                    self.vectors[_key(name)] = ClassEncoder(kind, width)
                case Vector():
                    self.vectors[_key(name)] = VectorEncoder(kind, width)
                case Picture():
                    self.pictures[_key(name)] = PictureEncoder(kind)
                case _:
                    self.tokens[_key(name)] = TokenEncoder(kind, context_width)

    @property
    def picture_channels(self) -> int:
        """Number of channels that pictures add to the input."""
        return sum(kind.channels for kind in self.schema.values() if isinstance(kind, Picture))

    def check(self, cond: Condition | None, batch: int, *, beside: str | None = None) -> None:
        """Refuse a condition that does not fit the schema or the batch.

        Args:
            cond: The condition; None stands for all names absent.
            batch: Number of rows of x.
            beside: Prefix of names that the network itself reads.

        Raises:
            ValueError: If a name is not in the schema, or the number of rows differs.
        """
        if cond is None or not cond.values:
            return
        for name in cond.values:
            if name not in self.schema and not (beside is not None and name.startswith(beside)):
                near = difflib.get_close_matches(name, self.schema, 1, 0.0)
                hint = f"did you mean {near[0]!r}?" if near else "this network takes no conditions."
                raise ValueError(f"unknown condition {name!r}; {hint} The schema has {sorted(self.schema)}")
        if len(cond) != batch:
            raise ValueError(f"the condition has {len(cond)} rows, x has {batch}")

    def forward(self, cond: Condition | None) -> Encoded:
        """Encode everything but pictures; a name that is missing in cond is its null."""
        vector: Tensor | None = None
        for name in self.schema:
            if _key(name) in self.vectors:
                part = self.vectors[_key(name)](*_entry(cond, name))
                vector = part if vector is None else vector + part
        parts = [self.tokens[_key(name)](*_entry(cond, name)) for name in self.schema if _key(name) in self.tokens]
        if not parts:
            return Encoded(vector, None, None)
        rows = max(tokens.shape[0] for tokens, _ in parts)
        return Encoded(
            vector,
            torch.cat([tokens.expand(rows, -1, -1) for tokens, _ in parts], 1),
            torch.cat([visible.expand(rows, -1) for _, visible in parts], 1),
        )

    def concatenate(self, x: Tensor, cond: Condition | None, layout: Layout) -> Tensor:
        """Append every picture of the schema to the channels of x.

        Args:
            x: (B, C, *grid).
            cond: The condition; pictures in it have the layout of the state.
            layout: The layout of the state.

        Returns: (B, C + picture_channels, *grid).

        Raises:
            ValueError: If a picture has another number of channels or another grid than x.
        """
        parts = [x]
        for name, kind in self.schema.items():
            if isinstance(kind, Picture):
                value, present = _entry(cond, name)
                value = None if value is None else layout.split(value, kind.channels)
                parts.append(self.pictures[_key(name)](value, present, x))
        return torch.cat(parts, 1) if len(parts) > 1 else x


def _key(name: str) -> str:
    """Names such as `type` or `values` are attributes of a module and may not name a child: prefix all."""
    return f"on_{name}"


def _entry(cond: Condition | None, name: str) -> tuple[Tensor | None, Tensor | None]:
    if cond is None or name not in cond.values:
        return None, None
    return cond.values[name], cond.present[name]
