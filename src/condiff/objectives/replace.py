"""The variational bound of mask-and-replace diffusion, one term a draw."""

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
from condiff.process.replace import MaskAndReplace
from condiff.process.schedule import Flow
from condiff.process.timelaw import Stratified, TimeLaw, UniformTime, draw_times


@final
@dataclass(frozen=True)
class StepNats:
    """The term of one step of the bound, for any token data, whether they made the state or not.

    nats_b = sum over positions of KL(q(x_s | x_t, target) || q(x_s | x_t, est)), s = t - 1 / num_steps

    At the first step this is -log p(target | x_1). Without replacing it is u (-log p(target)) at masks with u =
    (a~_s - a~_t) / (1 - a~_t), and 0 at visible tokens; a target that contradicts a visible token would be impossible,
    so there only masks are counted.

    Args:
        process: The process.
        num_steps: Steps of the bound; the process's own if it has any.

    Source: Gu et al. 2022; Zhu et al. 2023 (CDCD) for other targets.
    """

    process: MaskAndReplace | Absorbing
    num_steps: int = 100

    def __call__(self, x: Tensor, t: Tensor, est: Categorical, target: Tensor) -> Tensor:
        """Return nats (..., B) of targets (..., B, *S) at states x (B, *S) and times t, (B,)."""
        axis = target.ndim - x.ndim + 1
        s = (t - 1.0 / self.num_steps).clamp_min(0.0)
        if isinstance(self.process, Absorbing) or self.process.replaced == 0.0:
            hidden = x == self.process.mask
            keep_t, keep_s = (self._kept(one) for one in (t, s))
            chance = expand((keep_s - keep_t) / (1.0 - keep_t).clamp_min(1e-12), x)
            nats = torch.where(hidden, -_of(torch.log_softmax(est.logits, -1), target), 0.0)
            return (chance * nats).flatten(axis).sum(axis)
        log_p = torch.log_softmax(est.logits, -1)
        kinds = torch.arange(self.process.vocabulary, device=x.device)
        certain = torch.where(kinds == target.unsqueeze(-1), 0.0, -torch.inf).to(log_p.dtype)
        truth = self.process.posterior(x, t, s, certain)
        guess = self.process.posterior(x, t, s, log_p)
        # 0 log 0 = 0, and a finite difference only where the truth can be.
        terms = torch.where(truth > -torch.inf, truth.exp() * (truth - guess), 0.0)
        return terms.flatten(axis).sum(axis)

    def _kept(self, t: Tensor) -> Tensor:
        return 1.0 - self.process.masked(t) if isinstance(self.process, Absorbing) else self.process.levels(t)[0]


@final
@dataclass(frozen=True)
class CleanNats:
    """-log p(target) of the estimate itself, summed over positions.

    Args:
        mask: Id of the mask: only masked positions count; None counts all.

    Source: Zhu et al. 2023 (CDCD), sample-wise.
    """

    mask: int | None = None

    def __call__(self, x: Tensor, t: Tensor, est: Categorical, target: Tensor) -> Tensor:
        """Return nats (..., B) of targets (..., B, *S)."""
        axis = target.ndim - x.ndim + 1
        nats = -_of(torch.log_softmax(est.logits, -1), target)
        return (nats if self.mask is None else torch.where(x == self.mask, nats, 0.0)).flatten(axis).sum(axis)


@final
@dataclass(frozen=True)
class StepBound:
    """One random step of the variational bound, and a share of the plain cross-entropy.

    loss_b = (StepNats + auxiliary (1 + t) (-log p(x_0))) / L

    Times are those of the steps. num_steps times the mean is the bound, but for the prior's term, which is tiny.

    Args:
        process: The process.
        auxiliary: Weight of the cross-entropy of all tokens, whose part is to teach the network early.
        times: Law of the times, rounded up to steps; an `Importance` with one bin a step keeps the bound unbiased.

    Source: Gu et al. 2022 (VQ-Diffusion), with 5e-4; official code has 2 - t for pictures and 1 + t for music.
    """

    process: MaskAndReplace
    auxiliary: float = 5e-4
    times: TimeLaw = field(default_factory=lambda: Stratified(UniformTime()))

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss of token ids data (B, *S), nats a token."""
        steps = self.process.num_steps
        if draw is None:
            t = draw_times(self.times, data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
            draw = self.process.draw(data, (t * steps).ceil().clamp(1, steps) / steps, rng=rng)
        t = draw.t
        est = denoiser(draw.x, t, cond)
        nats = StepNats(self.process, steps)(draw.x, t, est, data)
        if self.auxiliary:
            nats = nats + self.auxiliary * (1.0 + t) * CleanNats()(draw.x, t, est, data)
        # A step's weight is the law's inside its interval: at its end a law of bins is already in the next one.
        weight = self.times.weight(t - 0.5 / steps)
        rows = (nats if weight is None else nats * weight) / data[0].numel()
        return Loss(rows.to(est.logits.dtype))


def _of(log_p: Tensor, target: Tensor) -> Tensor:
    return log_p.expand(*target.shape, log_p.shape[-1]).gather(-1, target.unsqueeze(-1)).squeeze(-1)
