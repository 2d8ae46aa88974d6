"""Losses of continuous diffusion over text, and of self-conditioning in any system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.process.adaptive import Positionwise
from condiff.process.embedded import Embedded
from condiff.process.recall import Recalling
from condiff.process.target import Data
from condiff.process.timelaw import LossAware, Stratified, TimeLaw, UniformTime, draw_times


@final
@dataclass(frozen=True)
class EmbeddingDenoising:
    """The loss that learns the vectors of tokens and the network that denoises them.

    loss_b = mean over positions of w(t) |data - est|^2 / D + |alpha(1) z|^2 / D - anchor log p(token | z),
    z ~ N(e_token, sigma(1/T)^2 I); data is z, and at the first step, t = 1/T, the vector e_token itself

    Gradients reach the vectors through the state and through what is compared with it. Without the anchor all vectors
    shrink to one point, where denoising costs nothing.

    Args:
        process: The process.
        num_steps: Steps T of training; times are its multiples of 1 / T.
        times: Law of the times; one that learns, `LossAware`, is told the losses.
        anchor: Weight of the anchor; 1 is the published loss.
        ignored: Id that does not count in the means, such as the padding; None counts all, as published for DiffuSeq.
            A model that is not taught padding does not learn where a text ends.
        given: Share of the rows that are told some tokens, without noise: half of these a beginning, half any places,
            as many as a uniform share says. `GivenTokens` asks for what they teach.

    Raises:
        ValueError: If given is not in [0, 1].

    Source: Li et al. 2022 (Diffusion-LM); Gong et al. 2022 (DiffuSeq); Yuan et al. 2022 (SeqDiffuSeq). An importance
        weight multiplies the squared error alone, and `LossAware` is told it alone: the other terms do not depend on t.
    """

    process: Embedded
    num_steps: int
    times: TimeLaw = field(default_factory=UniformTime)
    anchor: float = 1.0
    ignored: int | None = None
    given: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.given <= 1.0:
            raise ValueError(f"given must lie in [0, 1], got {self.given}")

    def __call__(
        self,
        denoiser: Any,  # noqa: ANN401 - Rounding, or an exact one with `space` and `predict`
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss rows of token ids data (B, L).

        Raises:
            TypeError: If the denoiser has no vectors of tokens.
        """
        space = getattr(denoiser, "space", None)
        if space is None:
            raise TypeError("EmbeddingDenoising needs a denoiser with a `space` of vectors, such as Rounding")
        data = data.long()
        draw = self.draw(space, data, rng=rng) if draw is None else draw
        est: Moments = denoiser.predict(draw.x, draw.t, cond)
        z = draw.latents["data"]
        target = torch.where((draw.latents["step"] == 1)[:, None, None], space(data), z)
        error = (est.read({"data": 1.0, "noise": 0.0}, Data()).to(target.dtype) - target).square().mean(-1)
        if torch.is_grad_enabled():
            self._note(draw, error)
        weight = draw.latents.get("weight")
        rows = error if weight is None else error * weight.to(error.dtype)[:, None]
        rows = rows + space.prior(z, float(self.process.schedule(1.0)[0])) + self.anchor * space.anchor(z, data)
        if self.ignored is None:
            return Loss(rows.mean(1))
        counted = (data != self.ignored).to(rows.dtype)
        return Loss((rows * counted).sum(1) / counted.sum(1).clamp_min(1.0))

    def draw(self, space: Any, data: Tensor, *, rng: Rng) -> Draw:  # noqa: ANN401 - as the denoiser's
        """Lift token ids data (B, L) into a space and corrupt them.

        Returns: The draw, with latents "data" and "noise" (B, L, D), "step" (B,), 1 to T, "law" (B,), the time the law
            drew, "weight" (B,) if the law has one, and "known" (B, L) if rows are told tokens.
        """
        law = draw_times(self.times, data.shape[:1], schedule=self.process.schedule, rng=rng).to(data.device)
        step = (law * self.num_steps).floor().clamp(0, self.num_steps - 1) + 1.0
        first = float(self.process.schedule(1.0 / self.num_steps)[1])
        made = self.process.draw(space.lift(data, first, rng), step / self.num_steps, rng=rng)
        extra, x = {"step": step, "law": law, "positions": made.t}, made.x
        if self.given > 0.0:
            extra["known"] = self._known(data, rng)
            x = self.process.told(x, space(data), extra["known"])
        weight = self.times.weight(law)
        if weight is not None:
            extra["weight"] = weight
        return Draw(x, step / self.num_steps, {**made.latents, **extra})

    def _known(self, data: Tensor, rng: Rng) -> Tensor:
        """Choose the tokens that rows are told, bool (B, L)."""
        told, begins, share = (rng.uniform(data.shape[:1]).to(data.device)[:, None] for _ in range(3))
        place = torch.arange(data.shape[1], device=data.device) / data.shape[1]
        anywhere = rng.uniform(data.shape).to(data.device)
        # A beginning ends before the last token: something is left to learn.
        first = place < (share * data.shape[1]).floor() / data.shape[1]
        return (told < self.given) & torch.where(begins < 0.5, first, anywhere < share)

    def _note(self, draw: Draw, error: Tensor) -> None:
        law = self.times.inner if isinstance(self.times, Stratified) else self.times
        if isinstance(law, LossAware):
            law.note(draw.latents["law"], error.detach().mean(1))
        inner = self.process.inner.inner if isinstance(self.process.inner, Recalling) else self.process.inner
        if isinstance(inner, Positionwise):
            inner.times.note(draw.latents["positions"], error)


@final
@dataclass(frozen=True)
class SelfConditioned:
    """Another objective in which some rows are told the network's own first estimate.

    For a share of the rows the denoiser is called twice: first without gradients and with nothing to recall, then with
    that estimate in the state.

    Args:
        inner: The objective; it calls the denoiser once.
        process: The process whose states recall.
        share: Chance that a row is told, in [0, 1].

    Source: Chen et al. 2022 (analog bits), with a draw for each row instead of one for the batch.
    """

    inner: Objective[Moments]
    process: Recalling
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss, some rows told an estimate."""
        told = rng.uniform((len(data),)).to(data.device) < self.share
        return self.inner(_Told(denoiser, self.process, told), data, cond, rng=rng, draw=draw)


@final
class _Told:
    """A denoiser that puts its own estimate into the state of some rows and looks again."""

    def __init__(self, inner: Any, process: Recalling, told: Tensor) -> None:  # noqa: ANN401 - any denoiser
        self._inner, self._process, self._told = inner, process, told

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what the objective asks the denoiser for
        return getattr(self._inner, name)

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        est: Moments = self._inner(self._state(self._inner, x, t, cond), t, cond)
        return est

    def predict(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        est: Moments = self._inner.predict(self._state(self._inner.predict, x, t, cond), t, cond)
        return est

    def _state(self, look: Denoiser[Moments], x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        rows = self._told.nonzero()[:, 0]
        if not len(rows):
            return x
        with torch.no_grad():
            some = None if cond is None else cond.rows(rows)
            est = look(x[rows], t if t.ndim == 0 else t[rows], some).parts["data"]
        first, last = self._process.parts(x)
        return self._process.beside(first, torch.index_put(last, (rows,), est.to(last.dtype)))
