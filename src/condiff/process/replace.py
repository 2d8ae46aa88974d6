"""Mask-and-replace diffusion over tokens: a token is kept, replaced by any token, or masked.

With a~ the chance that a token was kept all along, c~ that it is masked, and b~ = (1 - a~ - c~) / K that it is any one
of K tokens because it was replaced, q(x_t = j | x_0) = a~ [j = x_0] + b~, and c~ for the mask. A step from s to t keeps
with a = a~_t / a~_s, masks with c = 1 - (1 - c~_t) / (1 - c~_s), and replaces with the rest; a mask stays. This holds
for any s < t, so a step may be as long as one likes and its posterior is still exact.

Source: Austin et al. 2021 (D3PM); Gu et al. 2022 (VQ-Diffusion), mask and replace, in continuous time between their
steps.
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
from condiff.core.rng import Rng, pick
from condiff.core.shapes import expand
from condiff.process.absorbing import Absorbing

FLOOR = -70.0
"""Log-probabilities of a network are cut here, so that no token is ever impossible."""


@final
@dataclass(frozen=True)
class MaskAndReplace:
    """Tokens are kept, replaced or masked; time t = i / num_steps is the paper's step i.

    a~ falls from `kept` at step 1 to 1 - `kept` - 1e-6 at the last, c~ rises the other way round from 1 - `kept` - 1e-6
    to `kept`, both linearly, and from 1 and 0 at step 0. So replacing has a total chance of 1e-6: enough that a visible
    token may be wrong, and no more.

    Args:
        vocabulary: Number of ordinary tokens K, ids 0 to K - 1. The mask has id K.
        num_steps: Steps T of the training bound, >= 2.
        kept: Chance of being kept at step 1, and of being masked at the last.
        replaced: Chance of having been replaced, at every step, in [0, 1 - kept).

    Source: Gu et al. 2022 (VQ-Diffusion), with their 0.99999 and 9e-6.
    """

    vocabulary: int
    num_steps: int = 100
    kept: float = 0.99999
    replaced: float = 1e-6

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or self.num_steps < 2:
            raise ValueError(
                f"MaskAndReplace needs a vocabulary >= 1 and num_steps >= 2, got {self.vocabulary}, {self.num_steps}"
            )
        if not 0.0 < self.kept < 1.0 or not 0.0 <= self.replaced < 1.0 - self.kept:
            raise ValueError(
                f"MaskAndReplace needs 0 < kept < 1 and 0 <= replaced < 1 - kept, got {self.kept}, {self.replaced}"
            )

    @property
    def mask(self) -> int:
        """Id of the mask token, K."""
        return self.vocabulary

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a~, b~, c~) at t, float64: kept, replaced by any one token, masked."""
        t = t.to(torch.float64)
        low = 1.0 - self.kept - self.replaced
        first = 1.0 / self.num_steps
        along = ((t - first) / (1.0 - first)).clamp(0.0, 1.0)
        begin = (t / first).clamp(0.0, 1.0)
        early = t < first
        a = torch.where(early, 1.0 - begin * (1.0 - self.kept), self.kept + along * (low - self.kept))
        c = torch.where(early, begin * low, low + along * (self.kept - low))
        return a, ((1.0 - a - c) / self.vocabulary).clamp_min(0.0), c

    def between(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, c) of the step from s up to t, float64."""
        (a_s, _, c_s), (a_t, _, c_t) = self.levels(s), self.levels(t)
        a, c = a_t / a_s, 1.0 - (1.0 - c_t) / (1.0 - c_s)
        return a, ((1.0 - a - c) / self.vocabulary).clamp_min(0.0), c

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Keep, replace or mask tokens.

        Args:
            data: Token ids, int64 (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: Two uniforms a position.
            **known: Nothing can be fixed.

        Returns: The draw, with latents "data" and "masked".
        """
        if known:
            raise TypeError(f"MaskAndReplace has no latents to fix; got {sorted(known)}")
        a, _, c = self.levels(t)
        u, other = (rng.uniform(data.shape).to(data.device) for _ in range(2))
        masked = u < expand(c, data)
        replaced = ~masked & (u >= expand(a + c, data))
        anything = (other * self.vocabulary).long().clamp_max(self.vocabulary - 1)
        x = torch.where(masked, self.mask, torch.where(replaced, anything, data))
        return Draw(x, t, {"data": data, "masked": masked})

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Return all masks, int64 (B, *S), or a text whose masks are to be filled; arguments as for `Absorbing`."""
        return Absorbing(self.vocabulary).start(shape, rng=rng, source=source)

    def posterior(self, x: Tensor, t: Tensor, s: Tensor, log_p: Tensor) -> Tensor:
        """Return log q(x_s | x_t, x_0 drawn from p), normalised, (B, *S, K + 1), in the type of log_p.

        q(x_s = j | x_t) = q(x_t | x_s = j) sum over z of q(x_s = j | z) p(z) / q(x_t | z)

        Args:
            x: Token ids at t, int64 (B, *S).
            t, s: Times, s < t, any prefix shape of x.
            log_p: log p(x_0), normalised, (B, *S, K); one-hot (0 and -inf) for a known token.
        """
        (a_t, b_t, c_t), (a_s, b_s, c_s), (a, b, c) = (
            tuple(expand(level, x).unsqueeze(-1).to(log_p.dtype) for level in levels)
            for levels in (self.levels(t), self.levels(s), self.between(s, t))
        )
        hidden = (x == self.mask).unsqueeze(-1)
        here = torch.arange(self.vocabulary, device=x.device) == x.unsqueeze(-1)
        seen = torch.where(hidden, c_t, a_t * here + b_t)  # q(x_t | z)
        weight = log_p - torch.log(seen)  # a z that cannot have led here has weight -inf, not inf
        weight = torch.where(seen > 0.0, weight, -torch.inf)
        whole = torch.logsumexp(weight, -1, keepdim=True)
        kept = torch.logaddexp(torch.log(a_s) + weight, torch.log(b_s) + whole)
        up = torch.log(torch.where(hidden, c, a * here + b))
        stays = torch.where(hidden, torch.log(c_s) + whole, -torch.inf)
        return torch.log_softmax(torch.cat([kept + up, stays], -1), -1)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Categorical, *, eta: float, rng: Rng) -> Tensor:
        """Sample the tokens at time s < t from the exact posterior of the step, however long it is.

        Args:
            x: Token ids at time t, int64 (B, *S).
            t, s: Times in [0, 1], any prefix shape of x.
            est: Distribution of the clean token at each position.
            eta: Must be 0; how often tokens are masked again is part of the process.
            rng: One uniform a position.

        Raises:
            ValueError: If eta is not 0, or s > t.

        Source: Gu et al. 2022. Their fast sampling asks for the posterior of one short step at a far time; this is that
            of the whole step.
        """
        if eta != 0.0:
            raise ValueError(f"mask-and-replace redraws nothing (eta {eta:g}); use solver ddim, which is Jump(0.0)")
        if bool((s > t).any()):
            raise ValueError("MaskAndReplace steps down only, s <= t")
        log_p = torch.log_softmax(est.logits.to(torch.float64), -1)
        return pick(self.posterior(x, t, s, log_p), rng.uniform(x.shape).to(x.device))

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Categorical]) -> Tensor:
        """Return x: at t = 0 nothing is masked."""
        return x


@final
class TokenLogits(nn.Module):
    """A network read as a denoiser of every token, the visible ones too, since they may have been replaced.

    Args:
        net: Module called as net(x, t, cond) with ids (B, *S); returns logits (B, *S, K).
        **learned: Modules that learn before or along with it, such as a codec or `LossAware`: saved with the weights.

    Source: Gu et al. 2022: normalised in float64, cut at -70.
    """

    def __init__(self, net: nn.Module, **learned: nn.Module) -> None:
        super().__init__()
        self.net = net
        for name, module in learned.items():
            self.add_module(name, module)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Estimate the clean tokens behind ids x (B, *S) at time t."""
        logits: Tensor = self.net(x, t, cond)
        return Categorical(torch.log_softmax(logits.float(), -1).clamp_min(FLOOR))
