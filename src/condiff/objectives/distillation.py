"""Flow maps from a teacher's velocity, by the three equations that a flow map obeys on any schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss
from condiff.core.process import Draw, Target
from condiff.core.rng import Rng
from condiff.objectives.consistency import land
from condiff.objectives.denoising import Denoising
from condiff.objectives.derivative import along
from condiff.objectives.meanflow import spans
from condiff.process.flowmap import Diagonal, Jumps, Mapped
from condiff.process.target import V
from condiff.process.timelaw import TimeLaw, UniformTime


@final
@dataclass(frozen=True)
class Lagrangian:
    """Where the map arrives it must move with the teacher: |d x_s / ds - u(x_s, s)|^2, x_s the jump from x_t at t.

    Args:
        process: A flow map's process.
        teacher: A denoiser of the same process, whose velocity is u.
        times: Law of t and s, which are sorted; keep it off an end where u is singular.

    Source: Boffi et al. 2024 (flow map matching), eq. 3.9, the Lagrangian distillation loss, mean over features.
    """

    process: Mapped
    teacher: Denoiser[Moments]
    times: TimeLaw = field(default_factory=lambda: UniformTime(1e-3, 1.0))

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the mean squares of data (B, *S)."""
        draw, s = spans(self.process, data, self.times, None, 0.0, rng=rng, draw=draw)

        def arrive(s: Tensor) -> Tensor:
            return land(self.process, denoiser, draw.x, draw.t, s, cond, rng)

        there, pace = along(arrive, (s,), (torch.ones_like(s),))
        wanted = self.process.process.velocity(there, s, self.teacher(there, s, cond))
        return Loss((pace - wanted).square().flatten(1).mean(1))


@final
@dataclass(frozen=True)
class Eulerian:
    """Departing later on the same path must arrive at the same place: |d x_s / dt + u(x_t, t) . grad x_s|^2.

    Args:
        process: A flow map's process.
        teacher: A denoiser of the same process, whose velocity is u.
        times: Law of t and s, which are sorted; keep it off an end where u is singular.

    Source: Boffi et al. 2024 (flow map matching), eq. 3.12, the Eulerian distillation loss, mean over features.
    """

    process: Mapped
    teacher: Denoiser[Moments]
    times: TimeLaw = field(default_factory=lambda: UniformTime(1e-3, 1.0))

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the mean squares of data (B, *S)."""
        draw, s = spans(self.process, data, self.times, None, 0.0, rng=rng, draw=draw)
        with torch.no_grad():
            velocity = self.process.process.velocity(draw.x, draw.t, self.teacher(draw.x, draw.t, cond))

        def depart(x: Tensor, t: Tensor) -> Tensor:
            return land(self.process, denoiser, x, t, s, cond, rng)

        _, drift = along(depart, (draw.x, draw.t), (velocity.to(draw.x), torch.ones_like(draw.t)))
        return Loss(drift.square().flatten(1).mean(1))


@final
@dataclass(frozen=True)
class Semigroup:
    """A jump must equal two shorter ones: |x_s - held x_s via the middle|^2 + local * |residual of `row` at s = t|^2.

    Its first term alone is solved by a map that never moves; the second one makes the map move with the data or with a
    teacher.

    Args:
        process: A flow map's process.
        teacher: A denoiser whose estimate the diagonal must match; None takes the drawn data and noise.
        times: Law of t and s, which are sorted; the middle is (t + s) / 2.
        row: Row whose residual trains the diagonal.
        local: Weight of that residual.

    Source: Frans et al. 2025 (shortcut models), eq. 4 and 5, with any span instead of powers of two; Boffi et al. 2024.
    """

    process: Mapped
    teacher: Denoiser[Moments] | None = None
    times: TimeLaw = field(default_factory=UniformTime)
    row: Target = field(default_factory=V)
    local: float = 1.0

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the mean squares of data (B, *S)."""
        draw, s = spans(self.process, data, self.times, None, 0.0, rng=rng, draw=draw)
        middle = (draw.t + s) / 2.0
        with torch.no_grad():
            half = land(self.process, denoiser, draw.x, draw.t, middle, cond, rng)
            answer = land(self.process, denoiser, half, middle, s, cond, rng)
        made = land(self.process, denoiser, draw.x, draw.t, s, cond, rng)
        rows = (made - answer).square().flatten(1).mean(1)
        flow = self.process.process
        if self.teacher is None:
            plain = Denoising(flow, self.row)(Diagonal(denoiser), data, cond, rng=rng, draw=draw).rows
            return Loss(rows + self.local * plain)
        row = flow.row(self.row, draw.t)
        with torch.no_grad():
            wanted = self.teacher(draw.x, draw.t, cond).combine(row)
        own = Diagonal(denoiser)(draw.x, draw.t, cond).read(row, self.row)
        return Loss(rows + self.local * (own - wanted).square().flatten(1).mean(1))
