"""The space in which tokens are vectors, for continuous diffusion over text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condiff.core.rng import Rng
from condiff.nn.init import initialise


class EmbeddingSpace(nn.Module):
    """Learned vectors of tokens, and the way back: logits by the same vectors, and the nearest of them.

    logits_w(z) = z . e_w + b_w, with e_w the vector of token w

    The vectors are learned by what a loss does with them; the anchor (the nats of a token given its own noisy vector)
    keeps them apart, since all losses of denoising alone are smallest where all vectors are equal.

    Args:
        vocabulary: V, number of tokens.
        width: D, features of a token.

    Source: Li et al. 2022 (Diffusion-LM), with their tied logits.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary, self.width = vocabulary, width
        self.table = nn.Embedding(vocabulary, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        initialise(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (*S, D) of ids (*S)."""
        out: Tensor = self.table(ids)
        return out

    def lift(self, ids: Tensor, std: float, rng: Rng) -> Tensor:
        """Draw z ~ N(e_ids, std^2 I), shape (*S, D): what continuous diffusion takes as its data."""
        clean = self(ids)
        return torch.add(clean, rng.normal(clean.shape).to(clean), alpha=std)

    def logits(self, z: Tensor) -> Tensor:
        """Return unnormalised log-probabilities (*S, V) of the tokens of z (*S, D)."""
        return nn.functional.linear(z.to(self.table.weight.dtype), self.table.weight, self.bias.to(z.device))

    def round(self, z: Tensor) -> Tensor:
        """Return the likeliest ids (*S) of z (*S, D)."""
        return self.logits(z).argmax(-1)

    def nearest(self, z: Tensor) -> Tensor:
        """Return the ids (*S) of the vectors nearest to z (*S, D), without a table of differences."""
        table = self.table.weight
        half = 0.5 * table.square().sum(1)
        return torch.addmm(-half, z.to(table.dtype).flatten(0, -2), table.T).argmax(1).reshape(z.shape[:-1])

    def clamp(self, z: Tensor) -> Tensor:
        """Return the vectors nearest to z, shaped like z (*S, D)."""
        out: Tensor = self(self.nearest(z))
        return out.to(z.dtype)

    def anchor(self, z: Tensor, ids: Tensor) -> Tensor:
        """Return -log p(ids | z) (*S) of z (*S, D), nats a token."""
        return nn.functional.cross_entropy(self.logits(z).movedim(-1, 1), ids, reduction="none")

    @staticmethod
    def prior(z: Tensor, alpha: float) -> Tensor:
        """Return the mean over features of (alpha z)^2, (*S): what is left of the data in pure noise."""
        return (alpha * z).square().mean(-1)
