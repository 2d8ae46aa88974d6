"""A U-Net for series, images, volumes and video: residual blocks with group norm, modulated by time and condition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Self, cast, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition, Kind
from condiff.nn.attention import CrossAttention, SelfAttention
from condiff.nn.conv import conv, resize
from condiff.nn.embed import Conditions, Encoded, TimeEmbedding
from condiff.nn.init import initialise
from condiff.nn.layout import Layout, check_time
from condiff.nn.norm import group_norm, modulate


@final
@dataclass(frozen=True, slots=True)
class UNetSize:
    """Width and depth of a U-Net.

    Args:
        widths: Channels by level, from the full grid down; every level halves the grid.
        num_blocks: Residual blocks per level, on the way down and again on the way up.
        attention: Levels (0 is the full grid) whose blocks are followed by attention; the middle always has it.
        embed_width: Features of the embedding of time and condition.
        head_width: Features of an attention head.

    Raises:
        ValueError: If a number is not positive or an attention level does not exist.
    """

    widths: tuple[int, ...]
    num_blocks: int = 1
    attention: tuple[int, ...] = ()
    embed_width: int = 128
    head_width: int = 32

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.num_blocks, self.embed_width, self.head_width) < 1:
            raise ValueError(f"a U-Net needs positive widths and counts, got {self}")
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise ValueError(f"attention levels {self.attention} must lie within the {len(self.widths)} levels")

    @classmethod
    def tiny(cls) -> Self:
        """About 0.1 M parameters in 2-D: for tests and for data of a few features."""
        return cls((16, 32), embed_width=64)

    @classmethod
    def digits(cls) -> Self:
        """About 0.6 M parameters in 2-D: digits of 28x28 in minutes on two CPU cores."""
        return cls((16, 32, 64))

    @classmethod
    def small(cls) -> Self:
        """About 6 M parameters in 2-D: images of 32x32."""
        return cls((64, 128, 192), num_blocks=2, attention=(1, 2), embed_width=256)

    @classmethod
    def base(cls) -> Self:
        """About 35 M parameters in 2-D: images of 64x64, or latents."""
        return cls((128, 256, 384), num_blocks=2, attention=(1, 2), embed_width=512, head_width=64)


class Block(nn.Module):
    """Residual block: two convolutions, the second one's input modulated per channel.

    h = conv1(silu(norm1(x))); out = skip(x) + conv2(silu(norm2(h) * (1 + scale) + shift))
    """

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), conv(ndim, inputs, outputs)
        self.norm2, self.conv2 = group_norm(outputs), conv(ndim, outputs, outputs)
        self.skip: nn.Module = nn.Identity() if inputs == outputs else conv(ndim, inputs, outputs, kernel=1)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Map (B, inputs, *grid) to (B, outputs, *grid); scale and shift are broadcastable against the output."""
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = self.conv2(nn.functional.silu(modulate(self.norm2(h), scale, shift)))
        out: Tensor = self.skip(x) + h
        return out


class Mixer(nn.Module):
    """Attention among the cells of a grid, then from them to the tokens of a condition if the schema has any."""

    def __init__(self, channels: int, context_width: int | None, head_width: int) -> None:
        super().__init__()
        self.norm, self.inner = group_norm(channels), SelfAttention(channels, head_width=head_width)
        self.cross_norm: nn.GroupNorm | None = None
        self.cross: CrossAttention | None = None
        if context_width is not None:
            self.cross_norm = group_norm(channels)
            self.cross = CrossAttention(channels, context_width, head_width=head_width)

    def forward(self, x: Tensor, said: Encoded) -> Tensor:
        """Mix (B, channels, *grid)."""
        grid = x.shape[2:]
        mixed, _ = self.inner(self.norm(x).flatten(2).transpose(1, 2))
        x = x + mixed.transpose(1, 2).unflatten(2, grid)
        if self.cross and self.cross_norm and said.tokens is not None and said.visible is not None:
            read = self.cross(self.cross_norm(x).flatten(2).transpose(1, 2), said.tokens, said.visible)
            x = x + read.transpose(1, 2).unflatten(2, grid)
        return x


class Level(nn.Module):
    """One resolution: a change of grid or width on entry, then residual blocks, each with attention or none."""

    def __init__(self, entry: nn.Module | None, blocks: list[Block], mixers: list[Mixer]) -> None:
        super().__init__()
        self.entry = nn.Identity() if entry is None else entry
        self.blocks, self.mixers = nn.ModuleList(blocks), nn.ModuleList(mixers)

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Return every block with its attention."""
        yield from zip_longest(self.blocks, self.mixers)

    @staticmethod
    def of(levels: nn.ModuleList) -> Iterable[Level]:
        """Return the levels in a list with their type."""
        return cast("Iterable[Level]", levels)


class UNet(nn.Module):
    """A U-Net that returns zero when fresh.

    The grid may have any size: a level of n cells becomes ceil(n / 2), and the way up meets the size of the way down.
    Axes with their own times (see `condiff.nn.layout`) are never halved, so with the layout `Frames` every frame keeps
    its time at all levels.

    Args:
        layout: Where states have their channels, and so which times are possible: Grid (B, C, *grid) with t () or
            (B,); Frames (B, T, C, H, W) also with t (B, T); Tokens (B, L, C) also with t (B, L).
        size: Width and depth.
        schema: Condition names and kinds. Classes and vectors modulate every block, pictures are appended to the
            input's channels, embeddings, token numbers and series are read by cross-attention.
        out_channels: Channels out; the state's own if None. A net of K - 1 heads has a multiple of those.
        max_frequency: Highest angular frequency of the time embedding, see `TimeEmbedding`.
        min_frequency: Lowest angular frequency of the time embedding.
    """

    def __init__(
        self,
        layout: Layout,
        size: UNetSize,
        *,
        schema: Mapping[str, Kind] | None = None,
        out_channels: int | None = None,
        max_frequency: float = 1000.0,
        min_frequency: float = 0.1,
    ) -> None:
        super().__init__()
        self.layout, ndim = layout, layout.ndim
        width, widths = size.embed_width, size.widths
        self.time = TimeEmbedding(width, max_frequency=max_frequency, min_frequency=min_frequency)
        self.conditions = Conditions(schema or {}, width=width, context_width=width)
        context_width = width if self.conditions.tokens else None
        stride = (1,) * layout.timed + (2,) * (ndim - layout.timed)

        def mixers(level: int) -> list[Mixer]:
            count = size.num_blocks if level in size.attention else 0
            return [Mixer(widths[level], context_width, size.head_width) for _ in range(count)]

        # Blocks are registered in the order of the forward pass, which is the order of the modulations in `film`.
        self.enter = conv(ndim, layout.channels + self.conditions.picture_channels, widths[0])
        self.down = nn.ModuleList()
        for level, channels in enumerate(widths):
            shrink = conv(ndim, widths[level - 1], channels, stride=stride) if level else None
            blocks = [Block(ndim, channels, channels) for _ in range(size.num_blocks)]
            self.down.append(Level(shrink, blocks, mixers(level)))
        self.middle = nn.ModuleList([Block(ndim, widths[-1], widths[-1]) for _ in range(2)])
        self.mix = Mixer(widths[-1], context_width, size.head_width)
        self.up = nn.ModuleList()
        for level, channels in reversed(list(enumerate(widths))):
            # The width changes before the grid grows: a quarter of the work in 2-D.
            grow = conv(ndim, widths[level + 1], channels, kernel=1) if level + 1 < len(widths) else None
            blocks = [Block(ndim, 2 * channels, channels) for _ in range(size.num_blocks)]
            self.up.append(Level(grow, blocks, mixers(level)))
        self.norm = group_norm(widths[0])
        self.out = conv(ndim, widths[0], layout.channels if out_channels is None else out_channels)
        self._splits = [m.conv2.out_channels for m in self.modules() if isinstance(m, Block) for _ in range(2)]
        self.film = nn.Linear(width, sum(self._splits))
        initialise(self, zero=[self.out, *(layer for m in self.modules() for layer in _last_layers(m))])

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: State in the layout of this network.
            t: Process times in [0, 1], of a shape that the layout allows.
            cond: Conditions by name; None, a missing name and an absent row all mean the learned null.

        Returns: A tensor shaped like x, or with out_channels channels, in x's dtype.

        Raises:
            ValueError: If the shape of x, t or a condition does not fit, or a condition's name is unknown.
        """
        h = self.layout.split(x, self.layout.channels).to(self.enter.weight.dtype)
        check_time(t, h.shape[0], h.shape[2 : 2 + self.layout.timed])
        self.conditions.check(cond, h.shape[0])
        said = self.conditions(cond)
        films = self._films(t, said, h.ndim)
        h = self.enter(self.conditions.concatenate(h, cond, self.layout))
        skips: list[Tensor] = []
        for level in Level.of(self.down):
            h = level.entry(h)
            for block, mix in level.pairs():
                h = block(h, *next(films))
                h = h if mix is None else mix(h, said)
                skips.append(h)
        h = self.middle[0](h, *next(films))
        h = self.middle[1](self.mix(h, said), *next(films))
        for level in Level.of(self.up):
            h = resize(level.entry(h), skips[-1].shape[2:])
            for block, mix in level.pairs():
                h = block(torch.cat([h, skips.pop()], 1), *next(films))
                h = h if mix is None else mix(h, said)
        return self.layout.merge(self.out(nn.functional.silu(self.norm(h)))).to(x.dtype)

    def _films(self, t: Tensor, said: Encoded, ndim: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute scale and shift of every block at once, each (B or 1, channels, [T,] 1, ...)."""
        embedding = self.time(t.reshape(1) if t.ndim == 0 else t)
        if said.vector is not None:
            embedding = embedding + (said.vector[:, None] if embedding.ndim == 3 else said.vector)
        film = self.film(nn.functional.silu(embedding)).movedim(-1, 1)
        film = film.reshape(*film.shape, *(1,) * (ndim - film.ndim))
        parts = iter(film.split(self._splits, 1))
        return zip(parts, parts, strict=True)


def _last_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers by which a module writes into the residual stream."""
    if isinstance(module, Block):
        return [module.conv2]
    return [module.out] if isinstance(module, SelfAttention | CrossAttention) else []
