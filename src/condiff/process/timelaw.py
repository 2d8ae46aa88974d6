"""Time laws: at which times training corrupts data, and the weight that keeps a loss unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

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


@final
class LossAware(nn.Module):
    """Times drawn where the loss is large, learned while training, with the weights that keep a loss unbiased.

    density of a bin ~ (1 - even) rms_bin / sum of rms + even / bins, rms_bin the root mean square of its last losses

    Until every bin has its losses times are uniform. `quantile` and `weight` are those of `Importance`.

    Args:
        bins: Equal bins of time.
        memory: Losses that a bin remembers.
        even: Share that stays uniform, in (0, 1].

    Raises:
        ValueError: If a number is out of range.

    Source: Nichol and Dhariwal 2021, section 3.3, and DiffuSeq's values but for the bins: one for every step of 2,000
        stays uniform for long, and forever on little data.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, bins: int = 50, *, memory: int = 10, even: float = 0.001) -> None:
        super().__init__()
        if min(bins, memory) < 1 or not 0.0 < even <= 1.0:
            raise ValueError(f"LossAware needs bins and memory >= 1 and even in (0, 1], got {bins}, {memory}, {even}")
        self.even = even
        self.register_buffer("losses", torch.zeros(bins, memory))
        self.register_buffer("seen", torch.zeros(bins, dtype=torch.int64))

    @property
    def ready(self) -> bool:
        """Has every bin its losses?"""
        return bool((self.seen >= self.losses.shape[1]).all())

    @property
    def law(self) -> Importance | UniformTime:
        """The law as it stands."""
        if not self.ready:
            return UniformTime()
        root = self.losses.double().square().mean(1).sqrt()
        total = root.sum()
        share = root / total if float(total) > 0.0 else torch.full_like(root, 1.0 / len(root))
        return Importance(tuple(((1.0 - self.even) * share + self.even / len(root)).tolist()))

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the law's quantile."""
        return self.law.quantile(u, schedule)

    def weight(self, t: Tensor) -> Tensor | None:
        """Return the law's weight."""
        return self.law.weight(t)

    def note(self, t: Tensor, loss: Tensor) -> None:
        """Remember losses (B,) at times t (B,)."""
        bins, memory = self.losses.shape
        at = (t * bins).long().clamp(0, bins - 1).tolist()
        for k, value in zip(at, loss.detach().to(self.losses.dtype), strict=True):
            self.losses[k, int(self.seen[k]) % memory] = value
            self.seen[k] += 1
