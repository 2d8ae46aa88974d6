"""The exact denoiser of tokens that are vectors, every position by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments
from condiff.core.shapes import expand, host
from condiff.nn.space import EmbeddingSpace
from condiff.process.embedded import Embedded
from condiff.process.target import Data


@final
@dataclass(frozen=True)
class EmbeddedTokens:
    """E[z | x_t] of z ~ N(e_w, std^2 I) with w drawn from fixed chances, independently at every position.

    With v = alpha^2 std^2 + sigma^2 the posterior of w is softmax_w(log p_w - |x - alpha e_w|^2 / (2 v)), and given w
    the mean of z is e_w + (alpha std^2 / v) (x - alpha e_w) and its variance std^2 sigma^2 / v.

    Args:
        process: The process; its states are those of vectors alone.
        space: Vectors of the tokens.
        chances: p_w, (V,), positive.
        std: Spread of z about its vector.
    """

    process: Embedded
    space: EmbeddingSpace
    chances: Tensor
    std: float

    def scaled(self, factor: float) -> Self:
        """Return the oracle of vectors that are all multiplied by a factor."""
        space = EmbeddingSpace(self.space.vocabulary, self.space.width).to(self.space.table.weight)
        space.requires_grad_(self.space.table.weight.requires_grad)
        with torch.no_grad():
            space.table.weight.copy_(factor * self.space.table.weight)
        return type(self)(self.process, space, self.chances, self.std)

    def posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(w | x) (B, L, V), the mean of z given each w (B, L, V, D), and the variance given w."""
        alpha, sigma = (torch.as_tensor(level, dtype=torch.float64) for level in self.process.schedule(t.double()))
        alpha, sigma = (expand(level, x).unsqueeze(-1) if level.ndim else level for level in (alpha, sigma))
        vectors = self.space.table.weight.to(x.dtype)
        v = alpha**2 * self.std**2 + sigma**2
        away = x.unsqueeze(-2) - alpha * vectors
        log_p = self.chances.log().to(x.dtype) - away.square().sum(-1) / (2.0 * v).squeeze(-1)
        mean = vectors + (alpha * self.std**2 / v) * away
        return torch.log_softmax(log_p, -1), mean, self.std**2 * sigma**2 / v

    def predict(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate vectors and noise of a state x (B, L, D) at t."""
        log_p, mean, _ = self.posterior(x, t)
        return self.process.infer(x, t, (log_p.exp().unsqueeze(-1) * mean).sum(-2).to(x.dtype), Data())

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate as `predict`; at t = 0, known to the host, `aux` has the likeliest "tokens" too."""
        if host(t) != 0.0:
            return self.predict(x, t, cond)
        return Moments({"data": x, "noise": torch.zeros_like(x)}, {"tokens": self.posterior(x, t)[0].argmax(-1)})
