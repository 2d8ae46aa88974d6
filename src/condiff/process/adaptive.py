"""Times of its own for every position of a sequence, so that each gets harder at an even pace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw, Schedule, Target
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar
from condiff.process.gaussian import Gaussian

_UNIT = 1 << 40
"""Times are kept as whole numbers of this fraction: averages of weights then copy them instead of blending them."""


@final
class AdaptiveTimes(nn.Module):
    """A map from the time of a sequence to one of each position, learned from the losses of training.

    Position i's time tau_i(t) is where its mean loss lies at share t between its least and its greatest: along t the
    loss of each position grows evenly. Losses are kept by tau, so what was learned before a change counts after it.

    Args:
        length: L, number of positions.
        bins: Bins of time in which losses are averaged.
        every: Training steps from one change to the next, >= 1.
        after: Training steps before the first.
        still: Positions that keep the time of the sequence, such as that of a start token.

    Raises:
        ValueError: If a number is out of range.

    Source: Yuan et al. 2022 (SeqDiffuSeq), who change abar at the steps of a schedule: one in 20,000 steps, after
        60,000. Ours is the same map written in time, for any schedule. A process on several workers learns from its own
        rows.
    """

    total: Tensor
    count: Tensor
    step: Tensor
    table: Tensor

    def __init__(
        self, length: int, *, bins: int = 50, every: int = 500, after: int = 500, still: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if min(length, every) < 1 or bins < 2 or after < 0:
            raise ValueError(
                "AdaptiveTimes needs length and every >= 1, bins >= 2 and after >= 0, "
                f"got {length}, {every}, {bins} and {after}"
            )
        self.every, self.after, self.still = every, after, tuple(still)
        self.register_buffer("total", torch.zeros(length, bins))
        self.register_buffer("count", torch.zeros(length, bins))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        even = (torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64) * _UNIT).round().long()
        self.register_buffer("table", even.repeat(length, 1))

    def forward(self, t: Tensor, rows: int) -> Tensor:
        """Return the times (B, L) of every position at times t, () or (B,), float64; 0 and 1 stay."""
        bins = self.table.shape[1] - 1
        place = t.to(self.table.device, torch.float64).reshape(-1, 1).expand(rows, len(self.table)) * bins
        left = place.floor().clamp(0, bins - 1).long()
        low, high = (self._knots.T.gather(0, left + k) for k in (0, 1))
        return low + (place - left) * (high - low)

    @property
    def _knots(self) -> Tensor:
        return self.table.double() / _UNIT

    def note(self, times: Tensor, loss: Tensor) -> None:
        """Learn from one training step: times (B, L) of the positions and their losses (B, L)."""
        bins = self.total.shape[1]
        at = (times * bins).long().clamp(0, bins - 1)
        self.total.T.scatter_add_(0, at, loss.detach().to(self.total.dtype))
        self.count.T.scatter_add_(0, at, torch.ones_like(loss, dtype=self.count.dtype))
        self.step += 1
        if int(self.step) >= self.after and (int(self.step) - self.after) % self.every == 0:
            self.change()

    def change(self) -> None:
        """Make the map anew from the losses so far, and forget them. Positions without a loss in every bin wait."""
        ready = (self.count > 0).all(1)
        if self.still:
            ready[list(self.still)] = False
        mean = self.total.double() / self.count.clamp_min(1.0)
        ends = [1.5 * mean[:, 0] - 0.5 * mean[:, 1], 1.5 * mean[:, -1] - 0.5 * mean[:, -2]]
        loss = torch.cat([ends[0][:, None], mean, ends[1][:, None]], 1).cummax(1).values
        # A stretch where the loss does not grow has no inverse: a trace of slope makes it the shortest possible.
        bins = mean.shape[1]
        inner = (torch.arange(bins, dtype=torch.float64, device=mean.device) + 0.5) / bins
        times = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
        rise = (loss[:, -1:] - loss[:, :1]).clamp_min(1e-12)
        share = (loss - loss[:, :1]) / rise + 1e-6 * times
        share = share / share[:, -1:]
        even = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64, device=mean.device).repeat(len(mean), 1)
        right = torch.searchsorted(share.contiguous(), even).clamp(1, bins + 1)
        low, high = share.gather(1, right - 1), share.gather(1, right)
        inside = ((even - low) / (high - low)).clamp(0.0, 1.0)
        made = times[right - 1] + inside * (times[right] - times[right - 1])
        made[:, 0], made[:, -1] = 0.0, 1.0
        self.table.copy_(torch.where(ready[:, None], (made * _UNIT).round().long(), self.table))
        self.total.masked_fill_(ready[:, None], 0.0)
        self.count.masked_fill_(ready[:, None], 0.0)


@final
@dataclass(frozen=True)
class Positionwise:
    """A Gaussian process on sequences (B, L, C) in which every position runs on its own time.

    Args:
        inner: The process.
        times: From the time of the sequence to those of its positions.
    """

    inner: Gaussian
    times: AdaptiveTimes

    @property
    def schedule(self) -> Schedule:
        """The inner process's schedule, in the time of a position."""
        return self.inner.schedule

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def own(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the times (B, L) of the positions of x (B, L, C) at times t."""
        return self.times(t, len(x))  # type: ignore[no-any-return]

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at times t of positions."""
        return self.inner.row(target, t)

    def level(self, t: Tensor) -> Scalar:
        """Return sigma at a time t of a position."""
        return self.inner.level(t)

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt data (B, L, C) to times t of the sequences, () or (B,); the draw's times are those of positions."""
        return self.inner.draw(data, self.own(t, data), rng=rng, **known)

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw the state at t = 1."""
        return self.inner.start(shape, rng=rng, source=source)

    def infer(
        self, x: Tensor, t: Tensor, out: Tensor, target: Target, aux: Mapping[str, Tensor] | None = None
    ) -> Moments:
        """Read the posterior means off a state at times t of the sequences."""
        return self.inner.infer(x, self.own(t, x), out, target, aux)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at time s of the sequences."""
        return self.inner.reverse(x, self.own(t, x), self.own(s, x), est, eta=eta, rng=rng)

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Turn the state at t = 0 into data."""
        return self.inner.finish(x, denoise)
