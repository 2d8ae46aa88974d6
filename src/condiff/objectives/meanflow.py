"""MeanFlow: an average velocity trained from data alone, or from a teacher, through its own derivative in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import expand, scale
from condiff.objectives.derivative import along
from condiff.process.flowmap import Jumps, Mapped
from condiff.process.gaussian import Gaussian
from condiff.process.schedule import Flow
from condiff.process.target import Velocity
from condiff.process.timelaw import LogitNormal, TimeLaw, draw_times

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An average velocity (x, t, s) -> (x - x_s) / (t - s), shape (B, *S)."""


def spans(
    process: Mapped,
    data: Tensor,
    times: TimeLaw,
    arrivals: TimeLaw | None,
    equal: float,
    *,
    rng: Rng,
    draw: Draw | None,
) -> tuple[Draw, Tensor]:
    """Draw departures and arrivals, one pair a row, and corrupt the data to the departures.

    Args:
        process: The process.
        data: Clean data (B, *S).
        times: Law of the two times, which are then sorted; of the departure alone if there are `arrivals`.
        arrivals: Law of the arrival, which is cut off at the departure.
        equal: Share of rows that arrive where they depart.
        rng: Source of times and noise.
        draw: A corruption that is there already; only the arrival is drawn then.

    Returns: The draw, its t (B,), and arrivals s (B,) <= t.
    """
    rows = data.shape[:1]
    schedule = process.process.schedule
    s = draw_times(arrivals or times, rows, schedule=schedule, rng=rng).to(data.device)
    if draw is None:
        t = draw_times(times, rows, schedule=schedule, rng=rng).to(data.device)
        if arrivals is None:
            t, s = torch.maximum(t, s), torch.minimum(t, s)
        draw = process.draw(data, t, rng=rng)
    t = draw.t.to(s).expand(rows)
    s = torch.where(rng.uniform(rows).to(data.device) < equal, t, torch.minimum(s, t))
    return Draw(draw.x, t, draw.latents), s


def total_derivative(
    average: Average, x: Tensor, t: Tensor, s: Tensor, tangents: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return the derivative of an average velocity along tangents of (x, t, s); nothing is kept for a backward pass."""
    with torch.no_grad():
        return along(average, (x, t, s), tangents)[1]


@final
@dataclass(frozen=True)
class MeanFlow:
    """Squared error of the MeanFlow identity, its target held fixed and every row weighed by its own error.

    target = v - (t - s) D out, D out = the derivative of out(x, t, s) along (v, 1, 0), v the velocity at (x, t);
    loss_b = |out - target|^2 / (held |out - target|^2 + floor)^power

    The value of a row is |out - target|^2 itself, and only its gradient is weighed: at power 1 the weighed value is
    about 1 at all times and says nothing.

    Args:
        process: A flow map's process; its schedule must be Flow, where the velocity is constant along a straight path.
        times: Law of t and s, which are sorted; of t alone if there are `arrivals`.
        arrivals: Law of s, which is cut off at t.
        equal: Share of rows with s = t, which train the velocity itself.
        power, floor: Of the weight; power 0 is the plain squared error.
        scale: Guidance scale w built into the map, 1 is none. It needs rows without a condition: wrap in `Dropping`.
        blend: Share k of the map's own conditional velocity in the guided target; the scale in effect is w / (1 - k).
        guided: Lowest and highest t at which guidance applies.
        teacher: Velocity to distil; None takes that of the drawn data and noise.

    Raises:
        ValueError: If the schedule is not Flow, or a number is out of range.

    Source: Geng et al. 2025 (MeanFlow), eq. 6 to 12 and 19 to 22; appendix B for power and floor. D out is computed for
        rows with s < t only, in a pass of its own, so that the backward pass does not hold it.
    """

    process: Mapped
    times: TimeLaw = field(default_factory=lambda: LogitNormal(-0.4, 1.0))
    arrivals: TimeLaw | None = None
    equal: float = 0.5
    power: float = 1.0
    floor: float = 1e-2
    scale: float = 1.0
    blend: float = 0.0
    guided: tuple[float, float] = (0.0, 1.0)
    teacher: Denoiser[Moments] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.process.process.schedule, Flow):
            raise ValueError(
                f"MeanFlow needs the schedule Flow, got {self.process.process.schedule}; distil with Lagrangian there"
            )
        if not 0.0 <= self.equal <= 1.0 or not 0.0 <= self.blend < 1.0 or self.power < 0.0 or not self.floor > 0.0:
            raise ValueError(
                "MeanFlow needs equal in [0, 1], blend in [0, 1), power >= 0 and floor > 0, got "
                f"{self.equal}, {self.blend}, {self.power} and {self.floor}"
            )

    def __call__(
        self,
        denoiser: Denoiser[Jumps],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the squared errors of data (B, *S)."""
        flow = self.process.process
        draw, s = spans(self.process, data, self.times, self.arrivals, self.equal, rng=rng, draw=draw)
        velocity = self._velocity(denoiser, draw, cond)
        out = average_of(denoiser, flow, cond)(draw.x, draw.t, s)
        target = velocity.clone()
        far = (s < draw.t).nonzero().squeeze(1)
        if len(far):
            some = cond.rows(far) if cond is not None else None
            x, t, arrival, v = draw.x[far], draw.t[far], s[far], velocity[far]
            ones = torch.ones_like(t)
            slope = total_derivative(
                average_of(denoiser, flow, some), x, t, arrival, (v.to(x), ones, torch.zeros_like(ones))
            )
            target[far] = v - scale(t - arrival, slope)
        error = (out - target.to(out)).square().flatten(1).sum(1)
        weighed = error / (error.detach() + self.floor) ** self.power
        return Loss(error.detach() + (weighed - weighed.detach()))

    def _velocity(self, denoiser: Denoiser[Jumps], draw: Draw, cond: Condition | None) -> Tensor:
        """Return the velocity that the target and the derivative go along, guided where that is asked for."""
        flow = self.process.process
        with torch.no_grad():
            if self.teacher is not None:
                v = flow.velocity(draw.x, draw.t, self.teacher(draw.x, draw.t, cond))
            else:
                v = Moments(draw.latents).combine(flow.rates(draw.t))
            if cond is None or (self.scale == 1.0 and self.blend == 0.0):
                return v
            null = average_of(denoiser, flow, cond.null())(draw.x, draw.t, draw.t)
            given = average_of(denoiser, flow, cond)(draw.x, draw.t, draw.t)
            mixed = self.scale * v + (1.0 - self.scale - self.blend) * null + self.blend * given
            low, high = self.guided
            told = torch.stack(list(cond.present.values())).any(0) & (draw.t >= low) & (draw.t <= high)
            return torch.where(expand(told, v), mixed.to(v), v)


def average_of(denoiser: Denoiser[Jumps], flow: Gaussian, cond: Condition | None) -> Average:
    """Return a flow map as a function of (x, t, s) whose value is its average velocity."""
    return lambda x, t, s: denoiser(x, t, cond).to(s).read(flow.row(Velocity(), t), Velocity())
