"""Networks for text made from text: two towers that read each other, or one stack over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

from condiff.core.condition import ClassLabel, Condition, Kind, TokenIds, Vector
from condiff.nn.attention import CrossAttention, SelfAttention, rotary
from condiff.nn.dit import DiTSize
from condiff.nn.embed import Conditions, TimeEmbedding, grid_positions
from condiff.nn.init import initialise
from condiff.nn.layout import check_time
from condiff.nn.norm import rms_norm
from condiff.nn.space import EmbeddingSpace

ENCODED = "source."
"""Prefix of the names that `TwoTower.encode` adds to a condition."""

_APART = 1 << 10
"""Places between source and target where both are one sequence: a constant, so that padding moves nothing."""


class Reading(Protocol):
    """What the layers of two towers read from one another."""

    @property
    def looks(self) -> bool:
        """Does the source tower look at the noisy target? Then what it says changes with every step."""
        ...

    @property
    def told(self) -> bool:
        """Is the source tower told the time, besides what it can see of the noise?"""
        ...

    def level(self, layer: int, depth: int) -> int:
        """Return which output of the source tower, 1 to depth, the target's layer 1 to depth reads."""
        ...


@final
@dataclass(frozen=True)
class Spiral:
    """Source layers read the target below them, target layers the source beside them.

    Args:
        told: Is the source tower told the time too?

    Source: Tan, Gu and Ling 2023 (DiffuSIA). The order within a layer is our reading of the abstract.
    """

    told: bool = False

    @property
    def looks(self) -> bool:
        """The source tower looks at the target."""
        return True

    def level(self, layer: int, depth: int) -> int:
        """Return the layer itself."""
        return layer


@final
@dataclass(frozen=True)
class Parallel:
    """The source tower is on its own; target layers read the source layer beside them."""

    @property
    def looks(self) -> bool:
        """The source tower does not look at the target."""
        return False

    @property
    def told(self) -> bool:
        """Nor is it told the time."""
        return False

    def level(self, layer: int, depth: int) -> int:
        """Return the layer itself."""
        return layer


@final
@dataclass(frozen=True)
class EncoderDecoder:
    """The source tower is on its own; every target layer reads its last layer.

    Source: Yuan et al. 2022 (SeqDiffuSeq).
    """

    @property
    def looks(self) -> bool:
        """The source tower does not look at the target."""
        return False

    @property
    def told(self) -> bool:
        """Nor is it told the time."""
        return False

    def level(self, layer: int, depth: int) -> int:
        """Return the last layer."""
        return depth


class TowerBlock(nn.Module):
    """x += attention(norm(x)); x += cross(norm(x), norm(other)), if it reads; x += mlp(norm(x)); all rms norms.

    Args:
        size: Width and head width.
        reads: Has it cross-attention?
        dropout: Share of each branch's features dropped in training.
    """

    def __init__(self, size: DiTSize, *, reads: bool, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size.width, head_width=size.head_width)
        self.cross = CrossAttention(size.width, size.width, head_width=size.head_width) if reads else None
        self.up = nn.Linear(size.width, size.mlp_ratio * size.width)
        self.down = nn.Linear(size.mlp_ratio * size.width, size.width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        other: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Map tokens (B, N, W) to the same shape.

        Args:
            x: Tokens.
            turn: Angles of rotary attention.
            mask: Which keys may be seen, (B, 1, 1, N), or None for all.
            other: Tokens of the other tower (B, K, W).
            visible: Which of those may be seen, (B, K).
        """
        x = x + self.dropout(self.attention(rms_norm(x), mask=mask, turn=turn)[0])
        if self.cross is not None and other is not None and visible is not None:
            x = x + self.dropout(self.cross(rms_norm(x), rms_norm(other), visible))
        return x + self.dropout(self.down(nn.functional.gelu(self.up(rms_norm(x)))))  # type: ignore[no-any-return]


class Entry(nn.Module):
    """What both kinds of network do before their layers: vectors, positions, time and conditions become features.

    source = mlp(e_token) + position; target = mlp(state) + position + time; mlp(x) = W2 tanh(W1 x)

    Args:
        space: Vectors of the tokens, of source and target alike.
        channels: Channels of a state, 2 D with self-conditioning.
        size: Width of a feature.
        schema: At most one `TokenIds`, the source; classes and vectors are added to the time.
        pad: Id of source tokens that nobody sees.

    Raises:
        ValueError: If the schema holds something else, or the source has another vocabulary.
    """

    def __init__(
        self, space: EmbeddingSpace, channels: int, size: DiTSize, schema: Mapping[str, Kind], pad: int | None
    ) -> None:
        super().__init__()
        texts = [name for name, kind in schema.items() if isinstance(kind, TokenIds)]
        for name, kind in schema.items():
            if not isinstance(kind, TokenIds | ClassLabel | Vector) or len(texts) > 1:
                raise ValueError(
                    f"this network reads one text, classes and numbers; condition {name!r} is {type(kind).__name__}, "
                    f"and {len(texts)} of them are texts"
                )
            if isinstance(kind, TokenIds) and kind.vocabulary != space.vocabulary:
                raise ValueError(
                    f"the source has {kind.vocabulary} tokens and the target {space.vocabulary}; they share one space"
                )
        self.name, self.pad, self.schema = (texts[0] if texts else ""), pad, dict(schema)
        self.space = space
        self.channels, width = channels, size.width
        self.source = nn.Sequential(nn.Linear(space.width, width), nn.Tanh(), nn.Linear(width, width))
        self.target = nn.Sequential(nn.Linear(channels, width), nn.Tanh(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))
        self.time = TimeEmbedding(width)
        others = {name: kind for name, kind in schema.items() if name != self.name}
        self.conditions = Conditions(others, width=width, context_width=width)

    def check(self, x: Tensor, t: Tensor, cond: Condition | None) -> None:
        """Refuse a state, time or condition that does not fit.

        Raises:
            ValueError: If so.
        """
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise ValueError(f"expected a state (B, L, {self.channels}), got {tuple(x.shape)}")
        check_time(t, x.shape[0], x.shape[1:1])
        if cond is not None and cond.values:
            self.conditions.check(cond.without(*_texts(cond, self.name)), x.shape[0])

    def read_source(self, cond: Condition | None, rows: int, places: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return source features (B, 1 + K, W), which of them may be seen (B, 1 + K), and their places.

        The first is a start token that is always seen: alone where a row has no source.
        """
        start = self.null.expand(rows, 1, -1)
        seen = torch.ones(rows, 1, dtype=torch.bool, device=self.null.device)
        if cond is None or self.name not in cond.values:
            return start, seen, torch.zeros(1, device=self.null.device)
        ids, present = cond.values[self.name], cond.present[self.name]
        if ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] == 0:
            raise ValueError(f"a source text is integers (B, K), K >= 1, got {ids.dtype} {tuple(ids.shape)}")
        real = present[:, None] if self.pad is None else present[:, None] & (ids != self.pad)
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device) if places is None else places + 1
        tokens = self.source(self.space(torch.where(real, ids, 0).long()))
        tokens = tokens + grid_positions([places], tokens.shape[2]).to(tokens.dtype)
        first = torch.zeros_like(places[..., :1])
        return (
            torch.cat([start.to(tokens.dtype), tokens], 1),
            torch.cat([seen, real.expand(ids.shape)], 1),
            torch.cat([first, places], -1),
        )

    def read_target(self, x: Tensor, t: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor]:
        """Return target features (B, L, W) and their places."""
        tokens = self.target(x.to(self.null.dtype))
        places = torch.arange(1, x.shape[1] + 1, device=x.device)
        return tokens + self.told(t, cond) + grid_positions([places], tokens.shape[2]).to(tokens.dtype), places

    def told(self, t: Tensor, cond: Condition | None) -> Tensor:
        """Return what time, classes and vectors add to every token, (B or 1, 1, W)."""
        said = self.conditions(None if cond is None else cond.without(*_texts(cond, self.name))).vector
        told: Tensor = self.time(t.reshape(1) if t.ndim == 0 else t)
        return (told if said is None else told + said)[:, None]


def _texts(cond: Condition, name: str) -> list[str]:
    """Name what stands for the source text in a condition."""
    return [each for each in cond.values if each == name or each.startswith(ENCODED)]


class TwoTower(nn.Module):
    """A source tower and a target tower of equal depth, which read each other as a `Reading` says; zero when fresh.

    source_l = block(source_{l-1}, reads target_{l-1} if it looks)
    target_l = block(target_{l-1}, reads source_{level(l)})

    Args:
        space: Vectors of the tokens; the network owns them.
        size: Width and depth of each tower.
        read: What layers read: `Spiral`, `Parallel` or `EncoderDecoder`.
        recalls: Does a state carry the last estimate beside the vectors (`Recalling`)?
        schema: One `TokenIds`, the source, which may be absent; classes and vectors.
        pad: Id of source tokens that nobody sees; in the target it is a token like any other.
        dropout: Share of each branch's features dropped in training.

    Raises:
        ValueError: If the schema holds what it cannot read.

    Source: Tan, Gu and Ling 2023 (DiffuSIA), from the abstract; embedding, time and positions as in Yuan et al. 2022
        (SeqDiffuSeq), with rotary self-attention and norms before the branches.
    """

    def __init__(
        self,
        space: EmbeddingSpace,
        size: DiTSize,
        read: Reading,
        *,
        recalls: bool = False,
        schema: Mapping[str, Kind] | None = None,
        pad: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.read, self.depth, self.head_width = read, size.depth, size.head_width
        self.entry = Entry(space, space.width * (1 + recalls), size, schema or {}, pad)
        self.sources = nn.ModuleList([TowerBlock(size, reads=read.looks, dropout=dropout) for _ in range(size.depth)])
        self.targets = nn.ModuleList([TowerBlock(size, reads=True, dropout=dropout) for _ in range(size.depth)])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size.width, space.width)
        _fresh(self, space, self.out)

    @property
    def space(self) -> EmbeddingSpace:
        """The vectors of the tokens."""
        return self.entry.space

    @property
    def cacheable(self) -> bool:
        """Does what the source tower says depend on the condition alone?"""
        return not self.read.looks

    def encode(self, cond: Condition | None) -> Condition | None:
        """Run the source tower once and put its layers into the condition, so that steps need not repeat it.

        Returns: The condition with `source.<layer>` (B, 1 + K, W), layers 1 to depth, and `source.seen` (B, 1 + K) for
            its source text.

        Raises:
            ValueError: If the source tower looks at the noisy target.
        """
        if not self.cacheable:
            raise ValueError(
                f"{self.read} looks at the noisy target, so its source tower changes with every step and cannot be kept"
            )
        if cond is None or not cond.values:
            return cond
        levels, seen = self._sources(cond, len(cond))
        kept = {f"{ENCODED}{k}": level for k, level in enumerate(levels, 1)}
        return cond.without(self.entry.name).adding(**kept, **{f"{ENCODED}seen": seen})

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, *, places: Tensor | None = None) -> Tensor:
        """Estimate the noiseless vectors (B, L, D).

        Args:
            x: State (B, L, D), or (B, L, 2 D) with the last estimate beside it.
            t: Process times, () or (B,).
            cond: The source text and what else the schema has, or what `encode` made of it.
            places: Where the source's tokens stand, (K,) or (B, K), in place of 0 to K - 1.

        Raises:
            ValueError: If a shape does not fit, or a condition's name is unknown.
        """
        _, targets = self.layers(x, t, cond, places=places)
        out: Tensor = self.out(rms_norm(targets[-1]))
        return out.to(x.dtype)

    def layers(
        self, x: Tensor, t: Tensor, cond: Condition | None = None, *, places: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs of all layers, source (B, 1 + K, W) and target (B, L, W), layers 1 to depth."""
        self.entry.check(x, t, cond)
        target, own = self.entry.read_target(x, t, cond)
        target = self.dropout(target)
        turn = rotary(own, self.head_width)
        if not self.read.looks:
            levels, seen = self._sources(cond, len(x), places)
            return levels, self._targets(target, turn, levels, seen)
        source, seen, theirs = self.entry.read_source(cond, len(x), places)
        if self.read.told:
            source = source + self.entry.told(t, cond)
        source, spin = self.dropout(source), rotary(theirs, self.head_width)
        all_seen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        for below, beside in zip(self.sources, self.targets, strict=True):
            source = below(source, spin, seen[:, None, None], target, all_seen)
            target = beside(target, turn, None, source, seen)
            sources.append(source)
            targets.append(target)
        return sources, targets

    def _sources(self, cond: Condition | None, rows: int, places: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the layers of a source tower that does not look, and what of them may be seen."""
        if cond is not None and f"{ENCODED}seen" in cond.values:
            return [cond.values[f"{ENCODED}{k}"] for k in range(1, self.depth + 1)], cond.values[f"{ENCODED}seen"]
        source, seen, theirs = self.entry.read_source(cond, rows, places)
        source, spin = self.dropout(source), rotary(theirs, self.head_width)
        levels = []
        for block in self.sources:
            source = block(source, spin, seen[:, None, None])
            levels.append(source)
        return levels, seen

    def _targets(
        self, target: Tensor, turn: tuple[Tensor, Tensor], levels: Sequence[Tensor], seen: Tensor
    ) -> list[Tensor]:
        targets = []
        for layer, block in enumerate(self.targets, 1):
            target = block(target, turn, None, levels[self.read.level(layer, self.depth) - 1], seen)
            targets.append(target)
        return targets


def _fresh(net: nn.Module, space: EmbeddingSpace, out: nn.Module) -> None:
    """Set the weights of a new network, and leave the vectors of the tokens as they are."""
    vectors = {name: value.clone() for name, value in space.state_dict().items()}
    initialise(net, zero=[out])
    space.load_state_dict(vectors)


class OneTower(nn.Module):
    """One stack over source and target together, all seeing all; zero when fresh.

    Args:
        space, size, recalls, schema, pad, dropout: As for `TwoTower`.

    Raises:
        ValueError: If the schema holds what it cannot read.

    Source: Gong et al. 2022 (DiffuSeq), with separate entries for source and target and rotary attention.
    """

    def __init__(
        self,
        space: EmbeddingSpace,
        size: DiTSize,
        *,
        recalls: bool = False,
        schema: Mapping[str, Kind] | None = None,
        pad: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.head_width = size.head_width
        self.entry = Entry(space, space.width * (1 + recalls), size, schema or {}, pad)
        self.blocks = nn.ModuleList([TowerBlock(size, reads=False, dropout=dropout) for _ in range(size.depth)])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size.width, space.width)
        _fresh(self, space, self.out)

    @property
    def space(self) -> EmbeddingSpace:
        """The vectors of the tokens."""
        return self.entry.space

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, *, places: Tensor | None = None) -> Tensor:
        """Estimate the noiseless vectors (B, L, D); arguments and errors as for `TwoTower`."""
        self.entry.check(x, t, cond)
        source, seen, theirs = self.entry.read_source(cond, len(x), places)
        target, own = self.entry.read_target(x, t, cond)
        # The two must not stand at the same places: what looks at its neighbour would not know whose it is.
        own = own.expand(*theirs.shape[:-1], -1) + _APART
        turn = rotary(torch.cat([theirs, own], -1), self.head_width)
        mask = torch.cat([seen, seen.new_ones(x.shape[:2])], 1)[:, None, None]
        both = self.dropout(torch.cat([source, target], 1))
        for block in self.blocks:
            both = block(both, turn, mask)
        out: Tensor = self.out(rms_norm(both[:, source.shape[1] :]))
        return out.to(x.dtype)
