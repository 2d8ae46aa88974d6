"""Attention over the tokens of a state, over earlier context, and over the tokens of a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condiff.nn.direct import direct, forward_mode
from condiff.nn.embed import frequencies

_SHORT = 512
"""Up to about this many keys, two batched products in bf16 beat the fused CPU kernel, which gains nothing from bf16."""

_CACHE = 1 << 19
"""Bytes of scores that are made and used at a time by the two products: what stays in a core's own cache."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention by the fastest route for the device, type and length.

    out = softmax(q k^T / sqrt(D)) v

    Args:
        q: Queries (B, H, N, D).
        k: Keys (B, H, K, D).
        v: Values (B, H, K, D).
        mask: Bool, broadcastable to (B, H, N, K): may the query see the key? None is yes for all. Every query must see
            at least one key.

    Returns: (B, H, N, D).
    """
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= _SHORT
    # The fused kernels have no forward-mode derivative, which flow maps need.
    if short and mask is None and len(q) == len(k) and direct(q, k, v):
        rows = max(1, _CACHE // (q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()))
        parts = zip(q.split(rows), k.split(rows), v.split(rows), strict=True)
        return torch.cat([_products(*part) for part in parts]) if len(q) > rows else _products(q, k, v)
    if short or forward_mode(q, k, v):
        return _products(q, k, v, mask)
    return nn.functional.scaled_dot_product_attention(q, k, v, mask)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.matmul(scores.softmax(-1).to(v.dtype), v)


def block_causal(count: int, block: int, device: torch.device, start: Tensor | None = None) -> Tensor:
    """Make the mask in which a token sees its own block and all earlier ones; block 1 is plain causal.

    Args:
        count: N, number of tokens.
        block: Tokens in a block, counted from the first token of the whole sequence.
        device: Where the mask lives.
        start: Place of the first of these tokens in the whole sequence, (B,); None is 0.

    Returns: Bool (N, N), or (B, N, N) with a start.
    """
    place = torch.arange(count, device=device)
    index = (place if start is None else start[:, None] + place) // block
    return index[..., :, None] >= index[..., None, :]


def paired_mask(blocks: Tensor) -> Tensor:
    """Make the mask of one pass over a noised sequence and its clean copy, for blocks of any sizes.

    Noised tokens see their own noised block and all clean blocks before it; clean tokens see the clean ones up to
    themselves; nobody clean sees anything noised.

    Args:
        blocks: Number of every token's block, rising along the sequence, int64 (B, L).

    Returns: Bool (B, 1, 2 L, 2 L), queries by keys, the noised half first.

    Source: Arriola et al. 2025 (block diffusion), with the blocks of each row given instead of one size. There a clean
        token sees its whole block; here what is remembered of a text does not depend on how the text was cut, so that
        what a block costs depends on its place and size alone.
    """
    own, other = blocks[:, :, None], blocks[:, None, :]
    noised = torch.cat([own == other, other < own], -1)
    causal = torch.ones_like(own == other).tril()
    clean = torch.cat([torch.zeros_like(causal), causal], -1)
    return torch.cat([noised, clean], 1)[:, None]


def rotary(place: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles by which queries and keys at a place are turned.

    theta_i = f_i place, f_i from 3 down to 0.003 in equal ratios

    Args:
        place: Places in the whole sequence, (N,) or (B, N).
        head_width: Features of a head D, even.

    Returns: Two tensors, each (N, 1, D / 2) or (B, N, 1, D / 2), float32.

    Raises:
        ValueError: If the head width is odd.

    Source: Su et al. 2021 (RoFormer), with frequencies from 3 instead of from 1: nearly half a turn from a token to the
        next, so that a head tells its neighbours apart. A byte model of 0.4 M parameters was at 3.33 bits after 400
        steps instead of 3.54.
    """
    if head_width % 2:
        raise ValueError(f"rotary attention needs heads of an even width, got {head_width}")
    angle = place.float()[..., None, None] * frequencies(head_width // 2, 3e-3, 3.0).to(place.device)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head's features of x (B, N, width) against each other by the angles of `rotary`."""
    a, b = x.unflatten(-1, (heads, 2, -1)).unbind(-2)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -2).flatten(-3)


def _heads(width: int, head_width: int) -> int:
    heads = max(1, width // head_width)
    if width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads; choose a multiple of {head_width}")
    return heads


def _fold(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


class SelfAttention(nn.Module):
    """Attention among tokens (B, N, width), and from them to the keys and values of earlier tokens.

    Args:
        width: Features of a token.
        head_width: Features of a head; the number of heads is width // head_width, at least 1.

    Raises:
        ValueError: If the width does not divide into heads.
    """

    def __init__(self, width: int, *, head_width: int = 64) -> None:
        super().__init__()
        self.heads = _heads(width, head_width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Mix the tokens.

        Args:
            x: Tokens (B, N, width).
            mask: Bool, broadcastable to (B, 1, N, P + N): may the query see the key? None is yes for all.
            past: Keys and values of P earlier tokens, each (B, P, width), as an earlier call returned them.
            turn: Cosines and sines from `rotary` for rotary attention, or None. Keys are returned turned.

        Returns: The mixed tokens (B, N, width), and the keys and values of these N tokens, each (B, N, width).
        """
        q, k, v = self.qkv(x).chunk(3, -1)
        if turn is not None:
            q, k = rotate(q, self.heads, *turn), rotate(k, self.heads, *turn)
        keys, values = k, v
        if past is not None:
            keys, values = torch.cat([past[0].to(k.dtype), k], 1), torch.cat([past[1].to(v.dtype), v], 1)
        mixed = attend(_fold(q, self.heads), _fold(keys, self.heads), _fold(values, self.heads), mask)
        return self.out(mixed.transpose(1, 2).flatten(2)), (k, v)


class CrossAttention(nn.Module):
    """Attention from tokens (B, N, width) to the tokens of a condition (B, K, context_width).

    Args:
        width: Features of a token.
        context_width: Features of a condition's token.
        head_width: Features of a head; the number of heads is width // head_width, at least 1.

    Raises:
        ValueError: If the width does not divide into heads.
    """

    def __init__(self, width: int, context_width: int, *, head_width: int = 64) -> None:
        super().__init__()
        self.heads = _heads(width, head_width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        """Read from the condition.

        Args:
            x: Tokens (B, N, width).
            context: Tokens of the condition (B, K, context_width).
            visible: Bool (B, K): may row b see token k?

        Returns: What was read, (B, N, width).
        """
        k, v = self.kv(context).chunk(2, -1)
        mixed = attend(
            _fold(self.q(x), self.heads), _fold(k, self.heads), _fold(v, self.heads), visible[:, None, None, :]
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
