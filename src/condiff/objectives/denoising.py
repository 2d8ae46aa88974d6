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
from condiff.core.estimate import E, Moments, Row
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw, Rowed, Target
from condiff.core.rng import Rng
from condiff.process.timelaw import TimeLaw, UniformTime, draw_times


class Weight(Protocol):
    """An extra weight on the residual, as a function of time."""

    def __call__(self, process: Rowed, t: Tensor) -> Tensor:
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

    def __call__(self, process: Rowed, t: Tensor) -> Tensor:
        """Return the weight."""
        alpha, sigma = process.schedule(t)
        snr = (alpha / sigma) ** 2
        return (self.gamma / snr).clamp_max(1.0)  # finite at both ends: 0 at no noise, 1 at no signal


@final
@dataclass(frozen=True)
class Denoising:
    """Mean squared residual of a target's row at random times, summed over targets.

    loss_b = weight(t) * sum over targets, mean over features of (that row of what made x - of the estimate)^2

    Args:
        process: The process that corrupts data; a condition may be part of it (`given`).
        target: The row whose residual is squared; its own network output if the denoiser predicts the same target.
        times: Law of the training times.
        weight: Extra weight; None leaves the row's own.
        time_axes: How many leading axes of data have their own time: 1 per sample, 2 per frame or token.
        also: Further targets, one for every further head of the network.
        cells: Name of a condition (B, *S), 1 where data count and 0 where they are missing or given; the mean is over
            what counts, and the denoiser does not see the name. None counts all.

    Source: Ho et al. 2020; Lipman et al. 2023 for Velocity on Flow; Karras et al. 2022 for EDM; Albergo, Boffi and
    Vanden-Eijnden 2023, theorem 2.7, for the heads of a bridge (their |f|^2 / 2 - y f and (y - f)^2 / 2 differ by a
    constant; ours are means over features where theirs are sums).
    """

    process: Rowed
    target: Target
    times: TimeLaw = field(default_factory=UniformTime)
    weight: Weight | None = None
    time_axes: int = 1
    also: tuple[Target, ...] = ()
    cells: str | None = None

    def corrupt(self, data: Tensor, cond: Condition | None, *, rng: Rng) -> Draw:
        """Draw times and corrupt data (B, *S) to them."""
        shape = data.shape[: self.time_axes]
        t = draw_times(self.times, shape, schedule=self.process.schedule, rng=rng).to(data.device)
        return self.process.given(cond).draw(data, t, rng=rng)

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
            draw = self.corrupt(data, cond, rng=rng)
        counted: Tensor | None = None
        if self.cells is not None and cond is not None:
            counted, cond = cond.values[self.cells], cond.without(self.cells)
            # Rows are means over all cells later: what counts is weighed up, so that it is a mean over what counts.
            share = counted.flatten(1).mean(1).clamp_min(1.0 / counted[0].numel())
            counted = counted / share.reshape(-1, *[1] * (counted.ndim - 1))
        t, latents, targets = draw.t, draw.latents, (self.target, *self.also)
        rows = [self.process.row(target, t) for target in targets]
        est = denoiser(draw.x, t, cond)
        values = [est.read(row, target) for row, target in zip(rows, targets, strict=True)]
        del draw, est  # the state's memory serves the residual
        error = self._residual(values[0], rows[0], latents, t, counted)
        for value, row in zip(values[1:], rows[1:], strict=True):
            error = error + self._residual(value, row, latents, t, counted)
        for weight in (self.times.weight(t), self.weight(self.process, t) if self.weight else None):
            if weight is not None:
                error = error * weight.to(error.dtype)
        return Loss(error.flatten(1).mean(1) if error.ndim > 1 else error)

    def _residual(
        self, value: Tensor, row: Row, latents: Mapping[str, Tensor], t: Tensor, counted: Tensor | None
    ) -> Tensor:
        truth = Moments(latents).combine(row)
        error = nn.functional.mse_loss(value.to(truth.dtype), truth, reduction="none")
        if counted is not None:
            error = error * counted
        # Average over what has no time of its own, then weight, then over frames or tokens.
        axes = t.ndim if t.ndim else 1
        return error.flatten(axes).mean(axes) if error.ndim > axes else error


@final
@dataclass(frozen=True)
class Antithetic:
    """The mean of a loss at x+ = I + gamma noise and at x- = I - gamma noise: the same ends and time, two calls.

    Near the ends of a bridge the velocity's noise part is gamma' noise with gamma' infinite. It changes sign between
    the two and cancels in the gradient, whose variance is bounded; without pairs it grows like 1 / t.

    Args:
        inner: The objective.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 6.1.
    """

    inner: Denoising

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the mean of the two loss rows of data (B, *S); an injected draw is mirrored too."""
        one = self.inner.corrupt(data, cond, rng=rng) if draw is None else draw
        latents = one.latents
        ends = {"source": latents["source"]} if "source" in latents else {}
        other = self.inner.process.draw(latents["data"], one.t, rng=rng, noise=-latents["noise"], **ends)
        first, second = (self.inner(denoiser, data, cond, rng=rng, draw=each) for each in (one, other))
        return Loss(0.5 * (first.rows + second.rows))


@final
@dataclass(frozen=True)
class Unpaired:
    """Another objective whose named conditions are handed to other rows of the batch, at random: independent coupling.

    The source of a bridge then belongs to no target in particular. An injected draw keeps its pairs.

    Args:
        inner: The objective.
        names: Conditions to hand round, all by one permutation.
    """

    inner: Objective[Moments]
    names: tuple[str, ...]

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss under exchanged conditions."""
        if cond is not None and draw is None:
            order = rng.uniform((len(data),)).argsort()
            rest, moved = cond.without(*self.names), cond.rows(order)
            values = {**rest.values, **{name: moved.values[name] for name in self.names}}
            present = {**rest.present, **{name: moved.present[name] for name in self.names}}
            cond = Condition(values, present)
        return self.inner(denoiser, data, cond, rng=rng, draw=draw)


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
