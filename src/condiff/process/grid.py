"""Grids: the times at which a solver stops, from t = 1 down to t = 0.

A grid is called with a schedule and a number of steps, and returns float64 times, shape (num_steps + 1,), decreasing.
On a clock that never reaches zero noise (LogLinear) the last node is t = 0 and `sample` adds one call that returns the
data estimate there, so such grids have num_steps nodes: the number of network calls of a one-call solver is num_steps
in both cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.process import Schedule


class Grid(Protocol):
    """Chooses times for a schedule."""

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times in [0, 1], float64."""
        ...


def _check(num_steps: int) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be an integer of at least 1, got {num_steps!r}")
    return num_steps


def _nodes(schedule: Schedule, num_steps: int) -> int:
    return _check(num_steps) + (1 if schedule(0.0)[1] == 0.0 else 0)


def _by_kappa(schedule: Schedule, kappa: Tensor) -> Tensor:
    """Turn decreasing noise-to-signal ratios into times; the first node is where sampling starts, t = 1."""
    times = torch.as_tensor(schedule.time(-2.0 * torch.log(kappa)), dtype=torch.float64)
    times[0] = 1.0
    if schedule(0.0)[1] == 0.0:
        return torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    if times.numel() > 1:
        times[-1] = 0.0
    return times


@final
@dataclass(frozen=True)
class Uniform:
    """Equal steps of t from `start` to `end`.

    Args:
        start, end: 0 <= end < start <= 1. Sampling starts at t = 1 whatever the first node says, so a start below 1 is
            for targets that are singular there.
    """

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.end < self.start <= 1.0:
            raise ValueError(f"Uniform needs 0 <= end < start <= 1, got start {self.start}, end {self.end}")

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times."""
        return torch.linspace(self.start, self.end, max(_nodes(schedule, num_steps), 1), dtype=torch.float64)


@final
@dataclass(frozen=True)
class Trailing:
    """Equal steps that stop at nodes of a discrete table: t = round(num_train * (1 - k / num_steps)) / num_train.

    Args:
        num_train: Number of entries of the table.

    Source: Lin et al. 2024, table 2 ("trailing").
    """

    num_train: int = 1000

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times.

        Raises:
            ValueError: If more steps are asked for than the table has entries.
        """
        if _check(num_steps) > self.num_train:
            raise ValueError(f"{num_steps} steps do not fit a table of {self.num_train} entries; ask for fewer")
        steps = torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)
        return torch.round(steps * self.num_train) / self.num_train


@final
@dataclass(frozen=True)
class Karras:
    """Noise levels linear in kappa^(1 / rho), kappa = sigma / alpha.

    kappa_i = (max^(1/rho) + i / (N - 1) * (min^(1/rho) - max^(1/rho)))^rho

    Args:
        rho: 7 in the paper; larger puts more nodes at low noise.
        kappa_min, kappa_max: Ends of the grid; on LogLinear these should be its own sigma_min and sigma_max.

    Source: Karras et al. 2022, eq. 5.
    """

    rho: float = 7.0
    kappa_min: float = 0.002
    kappa_max: float = 80.0

    def __post_init__(self) -> None:
        if not (0.0 < self.kappa_min < self.kappa_max and self.rho > 0.0):
            raise ValueError(f"Karras needs 0 < kappa_min < kappa_max and rho > 0, got {self}")

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times."""
        ramp = torch.linspace(0.0, 1.0, _check(num_steps), dtype=torch.float64)
        high, low = self.kappa_max ** (1.0 / self.rho), self.kappa_min ** (1.0 / self.rho)
        return _by_kappa(schedule, (high + ramp * (low - high)) ** self.rho)


@final
@dataclass(frozen=True)
class LogSNR:
    """Equal steps of log-SNR between two noise-to-signal ratios.

    Args:
        kappa_min, kappa_max: Ends of the grid in kappa = sigma / alpha.

    Source: Lu et al. 2022 (DPM-Solver), section 4.3.
    """

    kappa_min: float = 0.002
    kappa_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0.0 < self.kappa_min < self.kappa_max:
            raise ValueError(f"LogSNR needs 0 < kappa_min < kappa_max, got {self}")

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times."""
        ends = math.log(self.kappa_max), math.log(self.kappa_min)
        return _by_kappa(schedule, torch.linspace(*ends, _check(num_steps), dtype=torch.float64).exp())


@final
@dataclass(frozen=True)
class FlowTime:
    """Equal steps of data-scaled flow time u = kappa / (kappa + sigma_data), kappa = sigma / alpha.

    Args:
        sigma_data: Root mean square of the data, > 0: half of the nodes lie below this noise level.
        power: Nodes lie at u(i) with 1 - i / N raised to this power, >= 1; more than 1 puts more nodes at low noise.

    Source: ours; on Flow with sigma_data = 1 it is the uniform grid.
    """

    sigma_data: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if not (self.sigma_data > 0.0 and self.power >= 1.0):
            raise ValueError(f"FlowTime needs sigma_data > 0 and power >= 1, got {self}")

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return decreasing times."""
        alpha, sigma = schedule(1.0)
        top = sigma / (sigma + alpha * self.sigma_data)
        alpha, sigma = schedule(0.0)
        low = sigma / (sigma + alpha * self.sigma_data)
        ramp = torch.linspace(1.0, 0.0, max(_nodes(schedule, num_steps), 1), dtype=torch.float64) ** self.power
        u = low + ramp * (top - low)
        times = torch.as_tensor(
            schedule.time(2.0 * (torch.log1p(-u) - torch.log(u) - math.log(self.sigma_data))), dtype=torch.float64
        )
        times[0] = 1.0
        if times.numel() > 1:
            times[-1] = 0.0
        return times


@final
@dataclass(frozen=True)
class Times:
    """A grid bound to a schedule, as a system holds it: a number of steps in, decreasing times out.

    Args:
        grid: Where the nodes lie.
        schedule: The schedule of the process.
    """

    grid: Grid
    schedule: Schedule

    def __call__(self, num_steps: int) -> Tensor:
        """Return decreasing times in [0, 1], float64."""
        return self.grid(self.schedule, num_steps)
