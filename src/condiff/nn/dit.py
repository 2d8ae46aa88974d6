"""A diffusion transformer for series, images, volumes, video and tokens, with times per sample, frame or token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition, Kind
from condiff.nn.attention import CrossAttention, SelfAttention, block_causal, rotary
from condiff.nn.context import PREFIX, Context, extend, read
from condiff.nn.embed import Conditions, Encoded, TimeEmbedding, grid_positions
from condiff.nn.init import initialise
from condiff.nn.layout import Layout, check_time
from condiff.nn.norm import gate, modulate, rms_norm


@final
@dataclass(frozen=True, slots=True)
class DiTSize:
    """Width and depth of a transformer.

    Args:
        width: Features of a token; a multiple of head_width.
        depth: Number of blocks.
        head_width: Features of an attention head.
        mlp_ratio: Hidden features of a block's perceptron as a multiple of width.

    Raises:
        ValueError: If a number is not positive, or heads do not divide the width.
    """

    width: int
    depth: int
    head_width: int = 64
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.head_width, self.mlp_ratio) < 1:
            raise ValueError(f"a DiT needs positive numbers, got {self}")
        if self.width % self.head_width:
            raise ValueError(f"width {self.width} is not a multiple of head_width {self.head_width}")

    @classmethod
    def tiny(cls) -> Self:
        """About 0.2 M parameters: for tests and small sequences."""
        return cls(64, 2, head_width=32)

    @classmethod
    def digits(cls) -> Self:
        """About 1.5 M parameters: digits of 28x28 with patch 4, or series."""
        return cls(128, 5, head_width=32)

    @classmethod
    def small(cls) -> Self:
        """About 33 M parameters, DiT-S of the paper."""
        return cls(384, 12)

    @classmethod
    def base(cls) -> Self:
        """About 130 M parameters, DiT-B of the paper."""
        return cls(768, 12)


class Block(nn.Module):
    """Transformer block whose branches are modulated and gated per row or per token (adaLN-zero).

    x += conv(x), if it mixes neighbours; x += gate1 * attention(norm(x) * (1 + scale1) + shift1);
    x += cross(norm(x)), if the schema has tokens; x += gate2 * mlp(norm(x) * (1 + scale2) + shift2)
    """

    def __init__(self, size: DiTSize, context_width: int | None, local: int = 0) -> None:
        super().__init__()
        width = size.width
        self.local = nn.Conv1d(width, width, local, padding=local // 2, groups=width) if local else None
        self.attention = SelfAttention(size.width, head_width=size.head_width)
        self.cross = (
            CrossAttention(size.width, context_width, head_width=size.head_width) if context_width is not None else None
        )
        self.up = nn.Linear(size.width, size.mlp_ratio * size.width)
        self.down = nn.Linear(size.mlp_ratio * size.width, size.width)

    def forward(
        self,
        x: Tensor,
        film: tuple[Tensor, ...],
        said: Encoded,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map tokens (B, T, S, W) to the same shape, and return their keys and values, each (B, T * S, W).

        Args:
            x: Tokens by time axis and cell.
            film: shift1, scale1, gate1, shift2, scale2, gate2, each (B or 1, T or 1, 1, W).
            said: The encoded condition.
            mask: Bool, broadcastable to (B, 1, T * S, P + T * S), or None.
            past: Keys and values of P earlier tokens, or None.
            turn: Angles of rotary attention, or None.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = film
        shape = x.shape[1:3]
        if self.local is not None:
            x = x + self.local(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2).unflatten(1, shape)
        normed = modulate(rms_norm(x), scale1, shift1).flatten(1, 2)
        mixed, kept = self.attention(normed, mask=mask, past=past, turn=turn)
        x = gate(x, gate1, mixed.unflatten(1, shape))
        if self.cross is not None and said.tokens is not None and said.visible is not None:
            x = x + self.cross(rms_norm(x).flatten(1, 2), said.tokens, said.visible).unflatten(1, shape)
        # Exact gelu: the tanh form is three times slower on a CPU.
        hidden = nn.functional.gelu(self.up(modulate(rms_norm(x), scale2, shift2)))
        return gate(x, gate2, self.down(hidden)), kept


class DiT(nn.Module):
    """A transformer over the patches of a grid, the cells of frames or the tokens of a sequence; zero when fresh.

    The grid may have any size: it is padded with zeros to a multiple of the patch and cropped again. With `block`, a
    token sees its own block of frames or tokens and all earlier ones. Then `remember` turns clean blocks into keys and
    values that the condition carries, and the network called on the next block alone returns what it would return for
    that block after all earlier ones.

    Args:
        layout: Where states have their channels, and so which times are possible: Grid (B, C, *grid) with t () or
            (B,); Frames (B, T, C, H, W) also with t (B, T); Tokens (B, L, C) also with t (B, L).
        size: Width and depth.
        patch: Cells per patch along every axis that cannot have its own times.
        block: Frames or tokens in a block of causal attention; 1 is plain causal; None lets all see all.
        schema: Condition names and kinds. Classes and vectors modulate every block, pictures are appended to the
            input's channels, embeddings, token numbers and series are read by cross-attention.
        out_channels: Channels out; the state's own if None. A net of K - 1 heads has a multiple of those.
        max_frequency: Highest angular frequency of the time embedding, see `TimeEmbedding`.
        min_frequency: Lowest angular frequency of the time embedding.
        rotary: Rotary attention in place of positions at the entry, for sequences.
        local: Tokens that a depthwise convolution mixes before each attention, odd; 0 is none. For sequences in which
            all see all.
        open: Start with all gates at 1 instead of 0, so that fresh blocks mix their tokens.

    Raises:
        ValueError: If patch or block is not positive, block is given for a layout without a time axis, rotary or local
            for one that is no sequence, or local is even or given with block.

    Source: Peebles and Xie 2023 (DiT), with RMS norm instead of layer norm and one linear layer for the modulations of
        all blocks.
    """

    def __init__(
        self,
        layout: Layout,
        size: DiTSize,
        *,
        patch: int = 1,
        block: int | None = None,
        schema: Mapping[str, Kind] | None = None,
        out_channels: int | None = None,
        max_frequency: float = 1000.0,
        min_frequency: float = 0.1,
        rotary: bool = False,
        local: int = 0,
        open: bool = False,
    ) -> None:
        super().__init__()
        if patch < 1 or (block is not None and block < 1):
            raise ValueError(f"patch and block must be positive, got patch={patch}, block={block}")
        if block is not None and not layout.timed:
            raise ValueError(f"causal blocks need a layout with a time axis, Frames or Tokens, got {layout}")
        if (rotary or local) and layout.ndim != 1:
            raise ValueError(f"rotary and local are for sequences, got {layout}")
        if local and (local < 0 or local % 2 == 0 or block is not None):
            raise ValueError(f"local must be odd, and 0 with causal blocks; got local={local}, block={block}")
        self.layout, self.block, width = layout, block, size.width
        self.rotary = size.head_width if rotary else 0
        self.patch = (1,) * layout.timed + (patch,) * (layout.ndim - layout.timed)
        self.out_channels = layout.channels if out_channels is None else out_channels
        self.time = TimeEmbedding(width, max_frequency=max_frequency, min_frequency=min_frequency)
        self.conditions = Conditions(schema or {}, width=width, context_width=width)
        channels = layout.channels + self.conditions.picture_channels
        self.enter = nn.Linear(channels * prod(self.patch), width)
        context_width = width if self.conditions.tokens else None
        self.blocks = nn.ModuleList([Block(size, context_width, local) for _ in range(size.depth)])
        self.film = nn.Linear(width, (6 * size.depth + 2) * width)
        self.out = nn.Linear(width, self.out_channels * prod(self.patch))
        cross = [module.out for module in self.modules() if isinstance(module, CrossAttention)]
        initialise(self, zero=[self.film, self.out, *cross])
        if open:
            with torch.no_grad():
                parts = self.film.bias.view(6 * size.depth + 2, width)
                parts[2 : 6 * size.depth : 3] = 1.0

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: State in the layout of this network.
            t: Process times in [0, 1], of a shape that the layout allows.
            cond: Conditions by name; None, a missing name and an absent row all mean the learned null. Names that
                start with `context.` are what `remember` added.

        Returns: A tensor shaped like x, or with out_channels channels, in x's dtype.

        Raises:
            ValueError: If the shape of x, t or a condition does not fit, or a condition's name is unknown.
        """
        grid = self.layout.split(x, self.layout.channels)
        patches = self.out(self.features(x, t, cond))
        out = self.layout.merge(_unpatchify(patches, self.patch, grid.shape[2:]))
        return out.to(x.dtype)

    def features(
        self,
        x: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return what the last layer reads, one vector a patch, (B, N, W); arguments and errors as for the network.

        Args:
            x, t, cond: As for the network.
            mask: Which keys each query may see, bool, broadcastable to (B, 1, N, N), in place of the network's own.
            places: Where the tokens stand, (N,) or (B, N), in place of 0 to N - 1; for rotary attention.
        """
        tokens, film, _ = self._run(self.layout.split(x, self.layout.channels), t, cond, mask, places)
        shift, scale = film[-2:]
        return modulate(rms_norm(tokens), scale, shift).flatten(1, 2)

    def remember(
        self, cond: Condition | None, x: Tensor, t: Tensor | None = None, *, block: int | None = None
    ) -> Condition:
        """Add the keys and values of a clean block to a condition.

        Args:
            cond: The condition the block was made with; its context, if any, comes before the block.
            x: The block, a state in the layout of this network.
            t: Its times, () or as the layout allows; None is 0, clean.
            block: Frames or tokens within which x sees itself whole; the network's own blocks if None.

        Returns: The condition with the names `context.<layer>.k` and `context.<layer>.v` (B, P, width),
            `context.length` (B,), the number of frames or tokens they hold in each row, `context.position` (B,), the
            place of the next one, and `context.last` (B, width), the features of the newest: what decides on the next
            block for the price of no call.

        Raises:
            ValueError: If attention is not causal, so that what was remembered could depend on what follows.
        """
        if self.block is None:
            raise ValueError("a DiT without causal blocks cannot remember; build it with block=<frames or tokens>")
        grid = self.layout.split(x, self.layout.channels)
        tokens, film, kept = self._run(grid, grid.new_zeros(()) if t is None else t, cond, block=block)
        context = read(cond, len(self.blocks), grid, kept[0][0].shape[1] // grid.shape[2])
        shift, scale = film[-2:]
        last = modulate(rms_norm(tokens[:, -1:]), scale[:, -1:], shift[:, -1:])[:, 0, -1]
        return extend(cond, context, kept, grid.shape[2], last)

    def _run(
        self,
        grid: Tensor,
        t: Tensor,
        cond: Condition | None,
        seen: Tensor | None = None,
        places: Tensor | None = None,
        block: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...], list[tuple[Tensor, Tensor]]]:
        """Return tokens (B, T, S, W), all modulations, and the keys and values of every block."""
        check_time(t, grid.shape[0], grid.shape[2 : 2 + self.layout.timed])
        self.conditions.check(cond, grid.shape[0], beside=PREFIX if self.block is not None else None)
        said = self.conditions(cond)
        fields = self.conditions.concatenate(grid.to(self.enter.weight.dtype), cond, self.layout)
        patches, cells = _patchify(fields, self.patch)
        times = cells[0] if self.layout.timed else 1
        context = None if self.block is None else read(cond, len(self.blocks), grid, prod(cells) // times)
        tokens = self.enter(patches)
        turn = None
        if self.rotary:
            turn = rotary(self._places(cells, context, grid.device)[0] if places is None else places, self.rotary)
        else:
            axes = self._places(cells, context, grid.device)
            tokens = tokens + grid_positions(axes, self.enter.out_features).to(patches.dtype)
        tokens = tokens.unflatten(1, (times, -1))
        film = self._films(t, said)
        mask = self._mask(times, tokens.shape[2], context, grid.device, block) if seen is None else seen
        kept = []
        for i, body in enumerate(self.blocks):
            past = None if context is None or not context.layers else context.layers[i]
            tokens, new = body(tokens, film[6 * i : 6 * i + 6], said, mask, past, turn)
            kept.append(new)
        return tokens, film, kept

    def _films(self, t: Tensor, said: Encoded) -> tuple[Tensor, ...]:
        """Compute the modulations of all blocks and of the output, each (B or 1, T or 1, 1, W)."""
        embedding = self.time(t.reshape(1) if t.ndim == 0 else t)
        embedding = embedding[:, None] if embedding.ndim == 2 else embedding
        if said.vector is not None:
            embedding = embedding + said.vector[:, None]
        return self.film(nn.functional.silu(embedding))[:, :, None].split(self.enter.out_features, -1)  # type: ignore[no-any-return]

    def _places(self, cells: list[int], context: Context | None, device: torch.device) -> list[Tensor]:
        """Return the places of the cells along every axis, (n,) each, or (B, n) on the first after a context."""
        axes = [torch.arange(n, device=device) for n in cells]
        if context is not None and context.layers:
            axes = [axis.expand(context.position.shape[0], -1) for axis in axes]
            axes[0] = axes[0] + context.position[:, None]
        return axes

    def _mask(
        self, times: int, cells: int, context: Context | None, device: torch.device, block: int | None
    ) -> Tensor | None:
        block = self.block if block is None else block
        if block is None:
            return None
        if context is None or not context.layers:
            return block_causal(times * cells, block * cells, device)
        own = block_causal(times * cells, block * cells, device, context.position * cells)
        earlier = context.valid(cells)[:, None, :].expand(-1, own.shape[1], -1)
        return torch.cat([earlier, own], 2)[:, None]


def _patchify(x: Tensor, patch: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Cut (B, C, *grid) into patches (B, N, C * prod(patch)); also return the number of patches along each axis."""
    grid = x.shape[2:]
    short = [-n % p for n, p in zip(grid, patch, strict=True)]
    if any(short):
        x = nn.functional.pad(x, [pad for missing in reversed(short) for pad in (0, missing)])
    cells = [n // p for n, p in zip(x.shape[2:], patch, strict=True)]
    if prod(patch) == 1:
        return x.flatten(2).transpose(1, 2), cells
    ndim = len(patch)
    split = x.reshape(*x.shape[:2], *(size for pair in zip(cells, patch, strict=True) for size in pair))
    order = [0, *range(2, 2 + 2 * ndim, 2), 1, *range(3, 2 + 2 * ndim, 2)]
    return split.permute(order).flatten(1 + ndim).flatten(1, ndim), cells


def _unpatchify(patches: Tensor, patch: tuple[int, ...], grid: torch.Size) -> Tensor:
    """Join patches (B, N, C * prod(patch)) to (B, C, *grid), the inverse of `_patchify`."""
    ndim = len(patch)
    cells = [-(-n // p) for n, p in zip(grid, patch, strict=True)]
    split = patches.reshape(patches.shape[0], *cells, -1, *patch)
    order = [0, 1 + ndim, *(axis for i in range(ndim) for axis in (1 + i, 2 + ndim + i))]
    whole = split.permute(order).reshape(patches.shape[0], -1, *(n * p for n, p in zip(cells, patch, strict=True)))
    for axis, n in enumerate(grid):
        whole = whole.narrow(2 + axis, 0, n)
    return whole
