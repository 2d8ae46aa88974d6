"""Times by the loss: training looks where the loss is large, and weighs it so that nothing is biased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.process.schedule import Flow
from condiff.process.timelaw import LossAware, Stratified, draw_times


@final
@dataclass(frozen=True)
class ImportanceSampled(Generic[E]):
    """Another objective at times drawn where its own loss has been large, divided by how likely they were.

    loss_b = inner_b(t) / p(t), t ~ p = `LossAware`, which is told inner_b; p is 1 until every bin has its losses

    The mean over p is that of the inner objective over uniform times. Everything in the inner loss is divided, a
    contrast too. Without gradients the law learns nothing.

    Args:
        inner: The objective; it is given its draws.
        process: The process that draws them.
        law: The law of the times, saved with the denoiser's weights where it is a part of it.
        num_steps: Times are rounded up to this many steps, as a law of as many bins asks for; None leaves them.

    Source: Nichol and Dhariwal 2021, section 3.3; Gu et al. 2022 (VQ-Diffusion), who keep a moving mean of the squares.
    """

    inner: Objective[E]
    process: Any
    law: LossAware
    num_steps: int | None = None

    def __call__(
        self,
        denoiser: Denoiser[E],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss rows of data (B, *S); an injected draw is the inner objective's, with weight 1."""
        if draw is not None:
            return self.inner(denoiser, data, cond, rng=rng, draw=draw)
        at = draw_times(Stratified(self.law), data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
        weight = self.law.weight(at)  # before the law is told anything: by the density that was drawn from
        steps = self.num_steps
        t = at if steps is None else (at * steps).ceil().clamp(1, steps) / steps
        loss = self.inner(denoiser, data, cond, rng=rng, draw=self.process.draw(data, t, rng=rng))
        if torch.is_grad_enabled():
            self.law.note(at, loss.rows)
        return loss if weight is None else Loss(loss.rows * weight.to(loss.rows.dtype), loss.terms)
