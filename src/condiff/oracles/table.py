"""The exact denoiser for a finite table of token sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Categorical
from condiff.process.absorbing import Absorbing, reveal


@final
@dataclass(frozen=True)
class TokenTable:
    """Data that take finitely many values: position-wise posteriors by enumeration.

    p(token at i | x_t) sums the probabilities of the sequences that agree with every visible token of x_t; it does not
    depend on t (Ou et al. 2025).

    Args:
        process: The absorbing process.
        sequences: All sequences of nonzero probability, int64 (N, L).
        probabilities: Their probabilities (N,), > 0; normalised here.
    """

    process: Absorbing
    sequences: Tensor
    probabilities: Tensor

    def __post_init__(self) -> None:
        if self.sequences.ndim != 2 or self.probabilities.shape != self.sequences.shape[:1]:
            raise ValueError("TokenTable needs sequences (N, L) and probabilities (N,)")
        if bool((self.sequences >= self.process.vocabulary).any()):
            raise ValueError(f"a sequence holds a token outside the vocabulary of {self.process.vocabulary}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the posterior of each position given ids x (B, L).

        Visible tokens that agree with no sequence have no posterior; a step that reveals several positions at once can
        reach such a state, and it gets the uniform distribution.
        """
        visible = x != self.process.mask  # (B, L)
        agrees = ((self.sequences.unsqueeze(0) == x.unsqueeze(1)) | ~visible.unsqueeze(1)).all(-1)  # (B, N)
        weight = agrees * self.probabilities
        total = weight.sum(1, keepdim=True)
        total = torch.where(total > 0, total, 1.0)
        one_hot = torch.nn.functional.one_hot(self.sequences, self.process.vocabulary).to(weight.dtype)  # (N, L, V)
        marginal = torch.einsum("bn,nlv->blv", weight / total, one_hot)
        possible = agrees.any(1).reshape(-1, 1, 1)
        marginal = torch.where(possible, marginal, 1.0 / self.process.vocabulary)
        return Categorical(reveal(torch.log(marginal), x, self.process.mask))
