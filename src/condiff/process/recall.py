"""Self-conditioning: the state carries the last estimate of the data beside itself, so denoisers stay pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw, Schedule, Target
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar
from condiff.process.adaptive import Positionwise
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True)
class Recalling:
    """A Gaussian process whose state is [x_t, last] along one axis, last being the data estimate of the step before.

    It is zero at the start, and wherever nothing was estimated yet. A denoiser reads both halves and estimates what
    made the first; `infer` leaves the second out. Solvers that call `reverse` fit; those that work in the state do not.

    Args:
        inner: The process of the first half.
        axis: Axis along which the two lie; -1 for tokens (B, L, C), 1 for pictures (B, C, *grid).

    Source: Chen et al. 2022 (analog bits); the estimate lives in the state here, so that rows of a batch may leave and
        join, and a guided estimate is what the next step is told.
    """

    inner: Gaussian | Positionwise
    axis: int = -1

    @property
    def schedule(self) -> Schedule:
        """The inner process's schedule."""
        return self.inner.schedule

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t."""
        return self.inner.row(target, t)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split a state into x_t and the last estimate."""
        first, last = x.chunk(2, self.axis)
        return first, last

    def beside(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Join x_t and an estimate to a state; None is zero."""
        return torch.cat([x, torch.zeros_like(x) if last is None else last.to(x.dtype)], self.axis)

    def level(self, t: Tensor) -> Scalar:
        """Return sigma at a time t."""
        return self.inner.level(t)

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt data (B, *S) to times t; the state has nothing to recall."""
        draw = self.inner.draw(data, t, rng=rng, **known)
        return Draw(self.beside(draw.x), draw.t, draw.latents)

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw the state at t = 1 of samples of a shape (B, *S)."""
        return self.beside(self.inner.start(shape, rng=rng, source=source))

    def infer(
        self, x: Tensor, t: Tensor, out: Tensor, target: Target, aux: Mapping[str, Tensor] | None = None
    ) -> Moments:
        """Read the posterior means off the first half of a state and an estimate of a target."""
        return self.inner.infer(self.parts(x)[0], t, out, target, aux)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at s; it recalls the data estimate of this step."""
        first, _ = self.parts(x)
        return self.beside(self.inner.reverse(first, t, s, est, eta=eta, rng=rng), est.parts["data"])

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Turn the state at t = 0 into data."""
        first, last = self.parts(x)
        return self.inner.finish(first, lambda x, t: denoise(self.beside(x, last), t))
