"""Objectives for absorbing token diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical
from condiff.core.objective import Loss
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import expand
from condiff.process.absorbing import Absorbing
from condiff.process.schedule import Flow
from condiff.process.timelaw import TimeLaw, UniformTime, draw_times


@final
@dataclass(frozen=True)
class MaskedTokens:
    """Cross-entropy of the masked tokens, weighted by 1 / t: an upper bound on the negative log-likelihood.

    loss_b = sum over masked positions of -log p(token) / t, divided by the number of positions: nats a token

    Args:
        process: The absorbing process.
        times: Law of the training times; its low end keeps 1 / t finite.

    Source: Sahoo et al. 2024, eq. 10, and Shi et al. 2024, for alpha = 1 - t.
    """

    process: Absorbing
    times: TimeLaw = field(default_factory=lambda: UniformTime(low=1e-3))

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, *S), nats a token."""
        if draw is None:
            t = draw_times(self.times, data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
            draw = self.process.draw(data, t, rng=rng)
        est = denoiser(draw.x, draw.t, cond)
        log_p = torch.log_softmax(est.logits, -1).gather(-1, data.unsqueeze(-1)).squeeze(-1)
        masked = draw.x == self.process.mask
        nats = torch.where(masked, -log_p, 0.0) / expand(draw.t, data).to(log_p.dtype)
        weight = self.times.weight(draw.t)
        rows = nats.flatten(1).mean(1)
        return Loss(rows if weight is None else rows * weight.to(rows.dtype))
