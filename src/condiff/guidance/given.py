"""Tokens that are known from the start, for diffusion on their vectors: a prompt, or a text with gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser, bind
from condiff.core.estimate import Moments
from condiff.core.shapes import host
from condiff.process.embedded import Embedded, Space
from condiff.process.target import Data


@final
@dataclass(frozen=True)
class GivenTokens:
    """A denoiser of vectors of tokens that knows some of them: it reads their vectors without noise, and returns them.

    est(x) = inner(x with e_k at every position that is known to hold token k), data_i = e_k there

    At t = 0 known tokens are named as they were given. A network learns to read such states from
    `EmbeddingDenoising(given=)`; one that did not follows what it is given less.

    Args:
        denoiser: The denoiser, or guidance around it.
        process: Its process.
        space: The vectors of the tokens, those of the denoiser.
        tokens: Ids (B, L), the process's `mask` where not known. A batch that guidance has doubled is told them twice.

    Source: Gong et al. 2022 (DiffuSeq), whose source is a part of the sequence that gets no noise.
    """

    denoiser: Denoiser[Moments]
    process: Embedded
    space: Space
    tokens: Tensor

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate what made a state x at t, the known tokens in place."""
        return self.bind(cond)(x, t)

    def free(self, t: Tensor) -> bool:
        """Is a state at t answered without the network? It is where the denoiser says so."""
        inner = getattr(self.denoiser, "free", None)
        return inner is not None and bool(inner(t))

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the denoiser of one condition."""
        inner = bind(self.denoiser, cond)

        def denoise(x: Tensor, t: Tensor) -> Moments:
            tokens = self.tokens.to(x.device).repeat(len(x) // len(self.tokens), 1)
            known = tokens != self.process.mask
            vectors = self.space(torch.where(known, tokens, 0))
            est = inner(self.process.told(x, vectors, known), t)
            aux = est.aux
            if "tokens" in aux:
                aux = {**aux, "tokens": torch.where(known, tokens, aux["tokens"])}
            if host(t) == 0.0:
                return Moments(est.parts, aux)
            data = est.parts["data"]
            return self.process.infer(x, t, torch.where(known.unsqueeze(-1), vectors.to(data), data), Data(), aux)

        return denoise
