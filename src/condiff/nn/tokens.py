"""A transformer over token ids, whose last layer can be asked at some positions only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition, Kind
from condiff.nn.attention import paired_mask
from condiff.nn.context import LAST, PREFIX
from condiff.nn.dit import DiT, DiTSize
from condiff.nn.init import initialise
from condiff.nn.layout import Tokens
from condiff.nn.mlp import MLP


class TokenDiT(nn.Module):
    """A DiT that reads token ids and returns logits, uniform when fresh.

    Args:
        vocabulary: V, number of ordinary tokens; the mask has id V.
        size: Width and depth.
        block: Tokens in a block of causal attention; 1 is plain causal; None lets all see all.
        schema: Condition names and kinds.
        local: Tokens that a convolution mixes before each attention, odd, or 0; causal blocks have none.

    Source: Ou et al. 2025 (RADD), with a head of V columns: theirs has an untrained one for the mask, which must then
        be cut off. Theirs has no convolution; ours has one over 3 tokens before each attention where all see all. A
        byte model of 0.4 M parameters reached 2.99 bits in 400 steps of 32 windows with it, 3.35 without, and 4.39
        without rotary attention: no more than the frequency of bytes.
    """

    def __init__(
        self,
        vocabulary: int,
        size: DiTSize,
        *,
        block: int | None = None,
        schema: Mapping[str, Kind] | None = None,
        local: int = 3,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary + 1, size.width)
        self.width, self.depth = size.width, size.depth
        self.body = DiT(
            Tokens(size.width),
            size,
            block=block,
            schema=schema,
            out_channels=vocabulary,
            rotary=True,
            local=local if block is None else 0,
            open=True,
        )
        initialise(self.embed)

    def hidden(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return features (B, L, W) of ids x (B, L) at times t, () or (B,) or (B, L)."""
        return self.body.features(self.embed(x), t, cond)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V) of features (..., W)."""
        out: Tensor = self.body.out(hidden)
        return out

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return logits (B, L, V)."""
        return self.head(self.hidden(x, t, cond))

    def paired(self, x: Tensor, data: Tensor, blocks: Tensor, cond: Condition | None = None) -> Tensor:
        """Return the logits of every block given the clean blocks before it, all in one pass, (B, L, V).

        Args:
            x: Noised ids (B, L).
            data: Clean ids (B, L).
            blocks: Number of every token's block, rising, int64 (B, L).
            cond: The condition.
        """
        length = x.shape[1]
        places = torch.arange(length, device=x.device).repeat(2)
        both = self.embed(torch.cat([x, data], 1))
        hidden = self.body.features(
            both, torch.zeros((), device=x.device), cond, mask=paired_mask(blocks), places=places
        )
        return self.head(hidden[:, :length])

    def beside(self, x: Tensor, blocks: Tensor, memory: Condition) -> Tensor:
        """Return what `paired` returns, where the clean copy is remembered already, (B, L, V): half of its work.

        One clean text has many ways to be cut and noised; its own half of the pass does not depend on them.

        Args:
            x: Noised ids (B, L).
            blocks: Number of every token's block, rising, int64 (B, L).
            memory: What `remember` with blocks of 1 made of the clean ids (B, L), and of nothing before them.

        Raises:
            ValueError: If the memory is not one of L tokens.
        """
        length, held = x.shape[1], memory.values.get(f"{PREFIX}length")
        if held is None or bool((held != length).any()):
            raise ValueError(f"beside reads {length} noised tokens next to a memory of as many, and of no more")
        mask = paired_mask(blocks)[:, :, :length].roll(length, -1)  # here the clean keys come first
        places = torch.arange(length, device=x.device)
        zero = torch.zeros((), device=x.device)
        return self.head(self.body.features(self.embed(x), zero, memory, mask=mask, places=places))

    def states(self, data: Tensor, cond: Condition | None = None) -> Tensor:
        """Return `newest` for every prefix of clean ids (B, L): (B, L, S), the last token read last."""
        causal = torch.ones(data.shape[1], data.shape[1], dtype=torch.bool, device=data.device).tril()
        last = self.body.features(self.embed(data), torch.zeros((), device=data.device), cond, mask=causal)
        memory = self.remember(cond, data, block=1)
        values = [memory.values[f"{PREFIX}{i}.v"][:, -data.shape[1] :] for i in range(self.depth)]
        return torch.cat([last, *values], -1)

    def newest(self, memory: Condition | None) -> Tensor:
        """Return what a memory holds of its newest token, (B, S), S = (1 + depth) W; zeros (1, S) of no memory.

        That is what the last layer reads of it, and its values in every layer: what decides on the next block for the
        price of no call. The last layer alone says less, since no loss asks what it makes of a clean token.
        """
        if memory is None or LAST not in memory.values:
            return self.embed.weight.new_zeros(1, (1 + self.depth) * self.width)
        last = (memory.values[f"{PREFIX}length"] - 1)[:, None, None]
        values = [memory.values[f"{PREFIX}{i}.v"] for i in range(self.depth)]
        picked = [value.gather(1, last.expand(-1, 1, value.shape[2]))[:, 0] for value in values]
        return torch.cat([memory.values[LAST], *picked], -1)

    def remember(
        self, cond: Condition | None, x: Tensor, t: Tensor | None = None, *, block: int | None = None
    ) -> Condition:
        """Add the keys and values of a clean block of ids (B, L) to a condition; see `DiT.remember`."""
        return self.body.remember(cond, self.embed(x), t, block=block)


class TokenMLP(nn.Module):
    """A perceptron on the one-hot ids of short sequences of few kinds of tokens; uniform when fresh.

    Args:
        vocabulary: K, number of ordinary tokens; the mask has id K.
        length: L, tokens of a sequence.
        width: Features of the residual stream.
        num_blocks: Number of residual blocks.
        schema: Condition names and kinds; classes and vectors only.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 256,
        num_blocks: int = 3,
        *,
        schema: Mapping[str, Kind] | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        size = length * (vocabulary + 1)
        self.body = MLP(size, width, num_blocks, schema=schema, out_features=length * vocabulary)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return logits (B, L, K) of ids x (B, L) at times t, () or (B,)."""
        hot = nn.functional.one_hot(x, self.vocabulary + 1).flatten(1).to(self.body.enter.weight.dtype)
        return self.body(hot, t, cond).unflatten(1, (self.length, self.vocabulary))  # type: ignore[no-any-return]
