"""Targets: what a network regresses, as a row r_data * data + r_noise * noise (law 3).

With the state x = alpha * data + sigma * noise, the output out = r_data * data + r_noise * noise and
det = alpha * r_noise - sigma * r_data,
data = (r_noise * x - sigma * out) / det and noise = (alpha * out - r_data * x) / det.
V, EDM and (but for VP at t = 0) Velocity have det != 0 at all times; Data is singular where sigma = 0, Noise where
alpha = 0, Score at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from condiff.core.process import Schedule
from condiff.core.shapes import Num
from condiff.process.scalar import ratio, sqrt


@final
@dataclass(frozen=True)
class Data:
    """The clean data ("x0"); det = -sigma."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (1, 0)."""
        return t * 0.0 + 1.0, t * 0.0


@final
@dataclass(frozen=True)
class Noise:
    """The noise ("epsilon"); det = alpha."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (0, 1)."""
        return t * 0.0, t * 0.0 + 1.0


@final
@dataclass(frozen=True)
class V:
    """v = alpha * noise - sigma * data; det = alpha^2 + sigma^2. Source: Salimans and Ho 2022."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (-sigma, alpha)."""
        alpha, sigma = schedule(t)
        return -sigma, alpha


@final
@dataclass(frozen=True)
class Velocity:
    """dx/dt of the probability flow; for Flow it is noise - data. Source: Lipman et al. 2023, time reversed."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return the rates of (alpha, sigma)."""
        return schedule.rates(t)


@final
@dataclass(frozen=True)
class Drift:
    """The part of dx/dt that is not the noise's: alpha' data, and for a bridge alpha' data + beta' source."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (alpha', 0)."""
        return schedule.rates(t)[0], t * 0.0


@final
@dataclass(frozen=True)
class Score:
    """The score -noise / sigma of normal noise; det = -alpha / sigma. Source: Song et al. 2021."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (0, -1 / sigma)."""
        _, sigma = schedule(t)
        return t * 0.0, ratio(t * 0.0 - 1.0, sigma)


@final
@dataclass(frozen=True)
class EDM:
    """EDM's F = (data - c_skip x) / c_out, of unit variance at every time when data have standard deviation sigma_data.

    r_data = sigma / (sigma_data q), r_noise = -alpha sigma_data / q, q = sqrt(alpha^2 sigma_data^2 + sigma^2)

    Args:
        sigma_data: Standard deviation of the data, > 0.

    Source: Karras et al. 2022, table 1, written for any (alpha, sigma): balanced v with the opposite sign.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0.0:
            raise ValueError(f"EDM needs sigma_data > 0, got {self.sigma_data}")

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (r_data, r_noise)."""
        alpha, sigma = schedule(t)
        q = sqrt(alpha * alpha * self.sigma_data**2 + sigma * sigma)
        return sigma / (self.sigma_data * q), -alpha * self.sigma_data / q
