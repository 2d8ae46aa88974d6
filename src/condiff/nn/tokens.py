"""A transformer over token ids, whose last layer can be asked at some positions only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from condiff.core.condition import Condition, Kind
from condiff.nn.dit import DiT, DiTSize
from condiff.nn.init import initialise
from condiff.nn.layout import Tokens


class TokenDiT(nn.Module):
    """A DiT that reads token ids and returns logits, uniform when fresh.

    Args:
        vocabulary: V, number of ordinary tokens; the mask has id V.
        size: Width and depth.
        block: Tokens in a block of causal attention; 1 is plain causal; None lets all see all.
        schema: Condition names and kinds.

    Source: Ou et al. 2025 (RADD), with sinusoidal positions added at the entry in place of rotary attention, and a head
        of V columns: theirs has an untrained one for the mask, which must then be cut off.
    """

    def __init__(
        self,
        vocabulary: int,
        size: DiTSize,
        *,
        block: int | None = None,
        schema: Mapping[str, Kind] | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary + 1, size.width)
        self.body = DiT(Tokens(size.width), size, block=block, schema=schema, out_channels=vocabulary)
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

    def remember(self, cond: Condition | None, x: Tensor, t: Tensor | None = None) -> Condition:
        """Add the keys and values of a clean block of ids (B, L) to a condition; see `DiT.remember`."""
        return self.body.remember(cond, self.embed(x), t)
