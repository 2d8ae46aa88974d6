"""Guidance by extrapolating between two estimates: classifier-free guidance, autoguidance and compositions.

The scale w is `null.lerp(cond, w)`: 1 is plain conditional, 0 unconditional, above 1 guided. Papers that write
(1 + omega) mean w = 1 + omega; `from_omega` converts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser, bind
from condiff.core.estimate import E, Moments
from condiff.core.shapes import expand, host


def from_omega(omega: float) -> float:
    """Convert a scale of the (1 + omega) convention: 0 there is plain conditional, 1 here."""
    return 1.0 + omega


@final
@dataclass(frozen=True)
class Everywhere:
    """The same scale at all times."""

    def __call__(self, scale: float, t: Tensor) -> Tensor | float:
        """Return the scale."""
        return scale


@final
@dataclass(frozen=True)
class Interval:
    """The scale within low <= t <= high, and 1 (plain conditional) outside, where no second call is made.

    Source: Kynkaanniemi et al. 2024 (guidance interval), on the library's clock.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(f"Interval needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def __call__(self, scale: float, t: Tensor) -> Tensor | float:
        """Return the scale at t: a float when the host knows t, else a tensor of t's shape."""
        value = host(t)
        if value is not None:
            return scale if self.low <= value <= self.high else 1.0
        return torch.where((t >= self.low) & (t <= self.high), scale, 1.0)


@final
@dataclass(frozen=True)
class CFG(Generic[E]):
    """Classifier-free guidance: null.lerp(conditional, scale), in one doubled batch or two calls.

    A condition that carries context (names with a dot, such as cached keys `context.3.k`) is evaluated in two calls,
    because doubling the batch would copy the cache.

    Args:
        denoiser: A denoiser trained with dropped conditions.
        scale: 1 is plain conditional (one call), 0 unconditional.
        names: Conditions to drop for the null estimate; all if empty.
        when: At which times the scale applies.

    Source: Ho and Salimans 2022, eq. 6 with w = their w + 1.
    """

    denoiser: Denoiser[E]
    scale: float
    names: tuple[str, ...] = ()
    when: Everywhere | Interval = field(default_factory=Everywhere)

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> E:
        """Return the guided estimate.

        Raises:
            ValueError: If there is no condition to guide by and the scale is not 1.
        """
        return self.bind(cond)(x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], E]:
        """Return the guided denoiser of one condition; errors come with the first call."""
        plain, pair = bind(self.denoiser, cond), _pair(self.denoiser, cond, self.names)

        def denoise(x: Tensor, t: Tensor) -> E:
            scale = self.when(self.scale, t)
            if not isinstance(scale, Tensor) and scale == 1.0:
                return plain(x, t)
            null, given = pair(x, t)
            return null.lerp(given, scale)

        return denoise


def _pair(
    denoiser: Denoiser[E], cond: Condition | None, names: tuple[str, ...]
) -> Callable[[Tensor, Tensor], tuple[E, E]]:
    """Return what gives (null, conditional) estimates at the same state, in one batch where the condition is small."""
    made: list[Callable[[Tensor, Tensor], E]] = []

    def make() -> None:
        if cond is None:
            raise ValueError("guidance needs a condition: pass cond, or use scale 1")
        null = cond.null(*names)
        if any("." in name for name in cond.values):
            made.extend((bind(denoiser, null), bind(denoiser, cond)))
        else:
            made.append(bind(denoiser, null.cat(cond)))

    def both(x: Tensor, t: Tensor) -> tuple[E, E]:
        if not made:  # only now: at scale 1 nothing is asked for, and nothing may fail
            make()
        if len(made) == 2:
            return made[0](x, t), made[1](x, t)
        return made[0](torch.cat([x, x]), t if t.ndim == 0 else torch.cat([t, t])).halves(x)

    return both


@final
@dataclass(frozen=True)
class Rescaled:
    """CFG whose data estimate keeps the spread of the conditional one: less over-saturation at large scales.

    data' = share * data * std(conditional) / std(data) + (1 - share) * data, std over each row's features

    Args:
        denoiser: A denoiser trained with dropped conditions.
        scale: Guidance scale, 1 is plain conditional.
        share: Between 0 (no rescaling) and 1.
        names: Conditions to drop for the null estimate; all if empty.

    Source: Lin et al. 2024, eq. 15 and 16; theirs acts on the network output, ours on the data estimate.
    """

    denoiser: Denoiser[Moments]
    scale: float
    share: float = 0.7
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the guided estimate; its noise part stays consistent with the state to first order only.

        Raises:
            ValueError: If there is no condition to guide by and the scale is not 1.
        """
        return self.bind(cond)(x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the guided denoiser of one condition; errors come with the first call."""
        if self.scale == 1.0:
            return bind(self.denoiser, cond)
        pair = _pair(self.denoiser, cond, self.names)
        return lambda x, t: self._rescaled(*pair(x, t))

    def _rescaled(self, null: Moments, given: Moments) -> Moments:
        guided = null.lerp(given, self.scale)
        data = guided.parts["data"]
        # A constant row has no spread to match; the floor keeps it as it is.
        floor = torch.finfo(data.dtype).tiny
        ratio = given.parts["data"].flatten(1).std(1) / data.flatten(1).std(1).clamp_min(floor)
        factor = 1.0 + self.share * (torch.where(torch.isfinite(ratio), ratio, 1.0) - 1.0)
        return Moments({**dict(guided.parts), "data": data * expand(factor, data)}, guided.aux)


@final
@dataclass(frozen=True)
class Autoguidance(Generic[E]):
    """Guidance by a worse model of the same data: weak.lerp(denoiser, scale).

    Args:
        denoiser: The good model.
        weak: A smaller or less trained one, on the same process.
        scale: 1 is the good model alone; above 1 moves away from the weak one.

    Source: Karras et al. 2024 (autoguidance), eq. 4.
    """

    denoiser: Denoiser[E]
    weak: Denoiser[E]
    scale: float

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> E:
        """Return the guided estimate, in two calls."""
        return self.bind(cond)(x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], E]:
        """Return the guided denoiser of one condition."""
        good = bind(self.denoiser, cond)
        if self.scale == 1.0:
            return good
        weak = bind(self.weak, cond)
        return lambda x, t: weak(x, t).lerp(good(x, t), self.scale)


@final
@dataclass(frozen=True)
class Composed:
    """Several conditions, each with its own scale: null + sum_i scale_i (only condition i - null).

    Args:
        denoiser: A denoiser trained with independently dropped conditions.
        scales: Scale by condition name; one call for each name, and one for the null.

    Source: Liu et al. 2022 (composable diffusion), eq. 11.
    """

    denoiser: Denoiser[Moments]
    scales: Mapping[str, float]

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the composed estimate.

        Raises:
            ValueError: If there is no condition, or a name is missing from it.
        """
        return self.bind(cond)(x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the composed denoiser of one condition; raises as a call does."""
        missing = sorted(set(self.scales) - set(cond.values if cond is not None else ()))
        if cond is None or missing:
            raise ValueError(f"composed guidance needs conditions {sorted(self.scales)}; missing {missing or 'all'}")
        nothing = bind(self.denoiser, cond.null())
        alone = []
        for name, scale in self.scales.items():
            others = tuple(other for other in cond.values if other != name)
            alone.append((scale, bind(self.denoiser, cond.null(*others) if others else cond)))

        def denoise(x: Tensor, t: Tensor) -> Moments:
            null = nothing(x, t)
            parts = dict(null.parts)
            for scale, one in alone:
                est = one(x, t)
                parts = {key: value + scale * (est.parts[key] - null.parts[key]) for key, value in parts.items()}
            return Moments(parts, null.aux)

        return denoise
