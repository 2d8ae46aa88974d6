"""Absorbing (masked) diffusion over tokens: every position is independently replaced by a mask.

Source: Austin et al. 2021 (D3PM, absorbing); Shi et al. 2024 and Sahoo et al. 2024 for continuous time;
Wang et al. 2025 (ReMDM) for re-masking steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Categorical
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import expand


@final
@dataclass(frozen=True)
class Absorbing:
    """Token positions are masked with probability t (log-linear noise): alpha(t) = 1 - t.

    Args:
        vocabulary: Number of ordinary tokens V; ids 0 to V - 1. The mask has id V.
    """

    vocabulary: int

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise ValueError(f"Absorbing needs a vocabulary of at least 1 token, got {self.vocabulary}")

    @property
    def mask(self) -> int:
        """Id of the mask token, V."""
        return self.vocabulary

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Mask tokens with probability t.

        Args:
            data: Token ids, int64 (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: One uniform a position.
            **known: "masked", bool (B, *S), to fix which positions are masked.

        Returns: The draw, with latents "data" and "masked".
        """
        if known.keys() - {"masked"}:
            raise TypeError(f"Absorbing has latents data and masked; got {sorted(known)}")
        masked = known.get("masked")
        if masked is None:
            masked = rng.uniform(data.shape).to(data.device) < expand(t, data)
        return Draw(data.masked_fill(masked, self.mask), t, {"data": data, "masked": masked})

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Return all masks, int64 (B, *S).

        Raises:
            TypeError: If a source is given: this process has none.
        """
        if source is not None:
            raise TypeError("Absorbing starts from masks and has no source")
        device = rng.uniform((shape[0],)).device
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Categorical, *, eta: float, rng: Rng) -> Tensor:
        """Sample the tokens at time s: masked positions are revealed, and with eta > 0 some are masked again.

        A revealed position is masked again with probability r = eta * min(1, s / (1 - t)); a masked one is revealed
        with probability ((1 - s) - (1 - r) (1 - t)) / t, its value drawn from the estimate. For s > t more are masked.

        Args:
            x: Token ids at time t, int64 (B, *S).
            t, s: Times in [0, 1], any prefix shape of x.
            est: Distribution of the clean token at each position, logits (B, *S, V).
            eta: 0 never masks again (the usual ancestral step), 1 as often as the marginals allow.
            rng: Uniforms and categoricals; each position reads the same count whatever happens to it.

        Raises:
            ValueError: If eta is not in [0, 1].

        Source: Sahoo et al. 2024, eq. 7; Wang et al. 2025 (ReMDM), eq. 8, maximal schedule scaled by eta.
        """
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        t, s = expand(t.to(torch.float64), x), expand(s.to(torch.float64), x)
        again = eta * torch.where(t < 1.0, s / (1.0 - t).clamp_min(1e-12), 1.0).clamp(0.0, 1.0)
        again = torch.where(s > t, 1.0 - (1.0 - s) / (1.0 - t).clamp_min(1e-12), again)
        reveal = torch.where(t > 0.0, ((1.0 - s) - (1.0 - again) * (1.0 - t)) / t.clamp_min(1e-12), 0.0).clamp(0.0, 1.0)
        reveal = torch.where(s > t, 0.0, reveal)
        u = rng.uniform(x.shape).to(x.device)
        value = rng.categorical(est.logits)
        masked = x == self.mask
        return torch.where(masked, torch.where(u < reveal, value, x), torch.where(u < again, self.mask, x))

    def tilt(self, x: Tensor, t: Tensor, est: Categorical, grad: Tensor) -> Categorical:
        """Return the estimate with log-probabilities moved by grad (B, *S, V)."""
        return Categorical(est.logits + grad, est.aux)

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Categorical]) -> Tensor:
        """Return x: at t = 0 no mask is left."""
        return x


@final
class Unmasked(nn.Module):
    """A network read as a token denoiser: visible positions are certain, and the mask itself is never predicted.

    Args:
        net: Module called as net(x, t, cond) with ids (B, *S); returns logits (B, *S, V), or a pair of those and a
            mapping of extra outputs.
        process: The absorbing process that made x.

    Source: Sahoo et al. 2024, the substitution parameterisation.
    """

    def __init__(self, net: nn.Module, process: Absorbing) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Estimate the clean tokens behind ids x (B, *S) at time t."""
        result = self.net(x, t, cond)
        logits, aux = result if isinstance(result, tuple) else (result, {})
        return Categorical(reveal(logits, x, self.process.mask), aux)


def reveal(logits: Tensor, x: Tensor, mask: int) -> Tensor:
    """Return log-probabilities (B, *S, V): normalised logits where x is masked, one-hot where a token is visible."""
    log_p = torch.log_softmax(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, -1)
    seen = x != mask
    certain = torch.full_like(log_p, -torch.inf).scatter(-1, x.clamp_max(log_p.shape[-1] - 1).unsqueeze(-1), 0.0)
    return torch.where(seen.unsqueeze(-1), certain, log_p)
