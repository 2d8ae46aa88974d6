"""Time laws: at which times training corrupts data, and the weight that keeps a loss unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.process import Schedule
from condiff.core.rng import Rng


class TimeLaw(Protocol):
    """A distribution of times, by its quantile function."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Map uniform numbers in [0, 1) to times in [0, 1], float64, increasing in u."""
        ...

    def weight(self, t: Tensor) -> Tensor | None:
        """Return the weight that undoes the law's bias, t's shape, or None where the law itself is the intent."""
        ...


def draw_times(law: TimeLaw, shape: Sequence[int], *, schedule: Schedule, rng: Rng) -> Tensor:
    """Draw times of a prefix shape (B, ...), float64."""
    u = rng.strata(shape) if isinstance(law, Stratified) else rng.uniform(shape)
    return law.quantile(u, schedule)


def _normal_quantile(u: Tensor) -> Tensor:
    quantile: Tensor = torch.special.ndtri(u.clamp(1e-12, 1.0 - 1e-12))
    return quantile


@final
@dataclass(frozen=True)
class UniformTime:
    """Uniform on [low, high].

    Args:
        low, high: 0 <= low < high <= 1; keep off an end where the target is singular.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(f"UniformTime needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return low + u (high - low)."""
        return self.low + u.to(torch.float64) * (self.high - self.low)

    def weight(self, t: Tensor) -> Tensor | None:
        """Return None."""
        return None


@final
@dataclass(frozen=True)
class LogitNormal:
    """logit(t) is normal: more training in the middle of a flow.

    Args:
        mean, std: Of logit(t); std > 0. A positive mean favours noise.

    Source: Esser et al. 2024 (SD3), section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return sigmoid(mean + std * ndtri(u))."""
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u.to(torch.float64)))

    def weight(self, t: Tensor) -> Tensor | None:
        """Return None."""
        return None


@final
@dataclass(frozen=True)
class LogNormalSigma:
    """log(sigma / alpha) is normal, as EDM trains.

    Args:
        mean, std: Of log kappa; -1.2 and 1.2 in the paper.

    Source: Karras et al. 2022, table 1. Levels outside the schedule are clipped to its ends.
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time at which log kappa is mean + std * ndtri(u)."""
        return schedule.time(-2.0 * (self.mean + self.std * _normal_quantile(u.to(torch.float64))))

    def weight(self, t: Tensor) -> Tensor | None:
        """Return None."""
        return None


@final
@dataclass(frozen=True)
class Stratified:
    """Another law with its draws spread evenly over the rows: lower variance between batches.

    In training each of the B rows of the global batch has one of B equal strata, however many workers and accumulation
    parts share it; one offset a batch sees to it that a row is not tied to one noise level. See `Rng.strata`.

    Args:
        inner: The law to spread.

    Source: Kingma et al. 2021 (VDM), appendix I (low-discrepancy times).
    """

    inner: TimeLaw

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the inner law's quantile."""
        return self.inner.quantile(u, schedule)

    def weight(self, t: Tensor) -> Tensor | None:
        """Return the inner law's weight."""
        return self.inner.weight(t)


@final
@dataclass(frozen=True)
class Importance:
    """A piecewise constant density over equal bins of t, with the weights that keep a uniform-time loss unbiased.

    Args:
        density: Unnormalised density a bin, all > 0; for example the root mean square loss of each bin.

    Source: Nichol and Dhariwal 2021, section 3.3, in continuous time.
    """

    density: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.density or min(self.density) <= 0.0:
            raise ValueError("Importance needs at least one bin and every density > 0")

    def _mass(self, device: torch.device) -> Tensor:
        density = torch.tensor(self.density, dtype=torch.float64, device=device)
        return density / density.sum()

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Invert the piecewise linear distribution function."""
        mass = self._mass(u.device)
        end = mass.cumsum(0)
        u = u.to(torch.float64)
        at = torch.searchsorted(end, u.contiguous(), right=True).clamp_max(len(mass) - 1)
        inside = (u - (end[at] - mass[at])) / mass[at]
        return ((at + inside) / len(mass)).clamp(0.0, 1.0)

    def weight(self, t: Tensor) -> Tensor | None:
        """Return 1 / density(t), the density normalised over [0, 1]."""
        mass = self._mass(t.device)
        at = (t * len(mass)).long().clamp(0, len(mass) - 1)
        return 1.0 / (mass[at] * len(mass))
