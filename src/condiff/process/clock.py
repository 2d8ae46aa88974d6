"""Clocks: the variable in which a solver takes its steps.

The probability flow of a Gaussian process is the same curve in any rescaled state y = x / m(t) and any monotone clock
tau(t); only the discretisation differs. In `Ratio` and `FlowTime` coordinates the velocity is a constant row of (data,
noise), so a straight estimate is followed exactly: Euler there is DDIM. Frames are finite wherever their clock is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

from torch import Tensor

from condiff.core.estimate import Row
from condiff.core.process import Flowing
from condiff.core.shapes import Scalar, known
from condiff.process.gaussian import Gaussian


class Frame(NamedTuple):
    """Coordinates at one time: y = x / size on the clock tau, with dy/dtau = row * (data, noise, ...)."""

    size: Scalar
    tau: Scalar
    row: Row


class Clock(Protocol):
    """Chooses the coordinates of a step."""

    def frame(self, process: Flowing, t: Tensor) -> Frame:
        """Return the frame of a process at time t."""
        ...


def _gaussian(process: Flowing, clock: object) -> Gaussian:
    if not isinstance(process, Gaussian):
        raise TypeError(f"{clock} needs a Gaussian process, got {type(process).__name__}; use ProcessTime()")
    return process


@final
@dataclass(frozen=True)
class ProcessTime:
    """The process's own t and state: works for every flow; infinite rates where the schedule has them (VP at 0)."""

    def frame(self, process: Flowing, t: Tensor) -> Frame:
        """Return (1, t, rates)."""
        return Frame(1.0, known(t), process.rates(t))


@final
@dataclass(frozen=True)
class Ratio:
    """EDM's coordinates: y = x / alpha on kappa = sigma / alpha, dy/dkappa = noise; infinite where alpha = 0.

    Source: Karras et al. 2022, eq. 4.
    """

    def frame(self, process: Flowing, t: Tensor) -> Frame:
        """Return (alpha, kappa, noise).

        Raises:
            ValueError: Where alpha = 0.
        """
        alpha, sigma = _gaussian(process, self).coefficients(t)
        if not isinstance(alpha, Tensor) and alpha == 0.0:
            raise ValueError("Ratio is infinite where alpha = 0 (t = 1 of this schedule); use FlowClock or ProcessTime")
        return Frame(alpha, sigma / alpha, {"noise": 1.0})


@final
@dataclass(frozen=True)
class FlowClock:
    """Data-scaled flow time: y = x / m and tau = sigma / (scale m), where m = alpha + sigma / scale.

    dy/dtau = scale * noise - data. Finite at both ends of every schedule, with tau = 0 at the data and 1 at pure noise.

    Args:
        scale: Noise level that takes half the clock, > 0; the root mean square of the data is a good choice.

    Source: ours; rectified flow's own time on the Flow schedule at scale 1.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"FlowClock needs scale > 0, got {self.scale}")

    def frame(self, process: Flowing, t: Tensor) -> Frame:
        """Return (alpha + sigma / scale, tau, scale * noise - data)."""
        alpha, sigma = _gaussian(process, self).coefficients(t)
        size = alpha + sigma / self.scale
        return Frame(size, sigma / self.scale / size, {"data": -1.0, "noise": self.scale})


@final
@dataclass(frozen=True)
class Natural:
    """Finite at both ends whatever the process: FlowClock for a Gaussian one, a bridge's own time for a bridge.

    A linear step in the time of a log-linear schedule, say, overshoots by factors of hundreds at few steps.

    Args:
        scale: As for `FlowClock`.
    """

    scale: float = 1.0

    def frame(self, process: Flowing, t: Tensor) -> Frame:
        """Return the frame of the clock that fits."""
        clock: Clock = FlowClock(self.scale) if isinstance(process, Gaussian) else ProcessTime()
        return clock.frame(process, t)
