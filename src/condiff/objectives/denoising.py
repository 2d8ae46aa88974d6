"""Denoising objectives for continuous states: one squared residual of a row, whatever the network predicts.

|y - y_hat|^2 of a row scales with |data - data_hat|^2 by (det / sigma)^2, so choosing the row is choosing the weight:
EDM's weighted loss is the plain residual of the EDM row, and "simple" DDPM loss that of Noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, final

from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E, Moments
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw, Target
from condiff.core.rng import Rng
from condiff.process.gaussian import Gaussian
from condiff.process.timelaw import TimeLaw, UniformTime, draw_times


class Weight(Protocol):
    """An extra weight on the residual, as a function of time."""

    def __call__(self, process: Gaussian, t: Tensor) -> Tensor:
        """Return weights of t's shape."""
        ...


@final
@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) / SNR on a Noise residual: caps the pull of easy, nearly clean states.

    Args:
        gamma: Cap of the signal-to-noise ratio, 5 in the paper.

    Source: Hang et al. 2023, eq. 6.
    """

    gamma: float = 5.0

    def __call__(self, process: Gaussian, t: Tensor) -> Tensor:
        """Return the weight."""
        alpha, sigma = process.schedule(t)
        snr = (alpha / sigma) ** 2
        return (self.gamma / snr).clamp_max(1.0)  # finite at both ends: 0 at no noise, 1 at no signal


@final
@dataclass(frozen=True)
class Denoising:
    """Mean squared residual of a target's row at random times.

    loss_b = weight(t) * mean over features of (r_data data + r_noise noise - value of that row in the estimate)^2

    Args:
        process: The process that corrupts data.
        target: The row whose residual is squared; its own network output if the denoiser predicts the same target.
        times: Law of the training times.
        weight: Extra weight; None leaves the row's own.
        time_axes: How many leading axes of data have their own time: 1 per sample, 2 per frame or token.

    Source: Ho et al. 2020; Lipman et al. 2023 for Velocity on Flow; Karras et al. 2022 for EDM.
    """

    process: Gaussian
    target: Target
    times: TimeLaw = field(default_factory=UniformTime)
    weight: Weight | None = None
    time_axes: int = 1

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss rows of data (B, *S)."""
        if draw is None:
            shape = data.shape[: self.time_axes]
            t = draw_times(self.times, shape, schedule=self.process.schedule, rng=rng).to(data.device)
            draw = self.process.draw(data, t, rng=rng)
        t, latents, row = draw.t, draw.latents, self.process.row(self.target, draw.t)
        value = denoiser(draw.x, t, cond).read(row, self.target)
        del draw  # the state's memory serves the residual
        truth = Moments(latents).combine(row)
        error = nn.functional.mse_loss(value.to(truth.dtype), truth, reduction="none")
        # Average over what has no time of its own, then weight, then over frames or tokens.
        axes = t.ndim if t.ndim else 1
        error = error.flatten(axes).mean(axes) if error.ndim > axes else error
        for weight in (self.times.weight(t), self.weight(self.process, t) if self.weight else None):
            if weight is not None:
                error = error * weight.to(error.dtype)
        return Loss(error.flatten(1).mean(1) if error.ndim > 1 else error)


@final
@dataclass(frozen=True)
class Dropping(Generic[E]):
    """Another objective with conditions dropped at random, so that the null is trained (classifier-free guidance).

    With an injected draw nothing is dropped: a paired evaluation must see the condition it asked about.

    Args:
        inner: The objective.
        probability: Chance of dropping by condition name.
    """

    inner: Objective[E]
    probability: Mapping[str, float]

    def __call__(
        self,
        denoiser: Denoiser[E],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss under the thinned condition."""
        if cond is not None and draw is None:
            cond = cond.drop({k: p for k, p in self.probability.items() if k in cond.values}, rng=rng)
        return self.inner(denoiser, data, cond, rng=rng, draw=draw)
