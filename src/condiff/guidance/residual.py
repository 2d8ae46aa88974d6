"""Residual guidance: a virtual negative estimate in place of the network's, for streams that cannot pay for two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser, bind
from condiff.core.estimate import Moments
from condiff.core.shapes import scale
from condiff.process.gaussian import Gaussian

ANCHOR = "residual.anchor"
"""Condition that holds what the negative estimate points at, shaped like the state."""


@final
@dataclass(frozen=True)
class ResidualCFG:
    """Guidance away from an anchor: the negative estimate is that of a network which always answers the anchor.

    noise_null = delta (x - alpha anchor) / sigma, and the data that go with it; null.lerp(conditional, scale)

    Rows whose condition has the anchor cost one row of the network; the others get theirs from the network's own null
    estimate, in the same batch, and say it in `aux` under the same name, for who wants to keep it. So with the input
    as anchor (self-negative) n steps cost n rows, with the first null estimate (one-time negative) n + 1, and a row
    that never keeps it is under plain guidance.

    The virtual negative moves away together with the guided sample, so errors add up: scales above 1.6 explode where
    plain guidance would not.

    Args:
        denoiser: A denoiser trained with dropped conditions.
        process: The process of its states.
        scale: 1 is plain conditional.
        delta: Share of the virtual noise, in [0, 1]; smaller is weaker. With 0, the negative estimate is no noise.
        names: Conditions to drop for the null estimate; all if empty.

    Raises:
        ValueError: If delta is not in [0, 1].

    Source: Kodaira et al. 2023 (StreamDiffusion), residual classifier-free guidance, by its definition instead of the
        recursion of the official code: equal, and a row can leave and join.
    """

    denoiser: Denoiser[Moments]
    process: Gaussian
    scale: float
    delta: float = 1.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.delta <= 1.0:
            raise ValueError(f"delta must lie in [0, 1], got {self.delta}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the guided estimate.

        Raises:
            ValueError: If there is no condition to guide by and the scale is not 1, or the anchor has another shape.
        """
        return self.bind(cond)(x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the guided denoiser of one condition; errors come with the first call."""
        asked = None if cond is None else cond.without(ANCHOR)
        if self.scale == 1.0:
            return bind(self.denoiser, asked)

        def denoise(x: Tensor, t: Tensor) -> Moments:
            if cond is None or asked is None or not asked.values:
                raise ValueError("guidance needs a condition: pass cond, or use scale 1")
            given, anchor = self._estimates(x, t, asked, cond.values.get(ANCHOR), cond.present.get(ANCHOR))
            null = self.process.complete(x, t, self._pointing(x, t, anchor))
            guided = null.lerp(given, self.scale)
            return Moments(guided.parts, {**given.aux, ANCHOR: anchor})

        return denoise

    def _estimates(
        self, x: Tensor, t: Tensor, asked: Condition, anchor: Tensor | None, known: Tensor | None
    ) -> tuple[Moments, Tensor]:
        """Return the conditional estimate, and every row's anchor: its own, or the data of its null estimate."""
        if anchor is not None and anchor.shape != x.shape:
            raise ValueError(f"the anchor has shape {tuple(anchor.shape)}, the state {tuple(x.shape)}")
        if anchor is not None and known is not None and bool(known.all()):
            return self.denoiser(x, t, asked), anchor
        lacking = torch.arange(len(x)) if known is None else (~known).nonzero().flatten()
        times = t if t.ndim == 0 else torch.cat([t, t[lacking]])
        both = self.denoiser(torch.cat([x, x[lacking]]), times, asked.cat(asked.rows(lacking).null(*self.names)))
        size = len(x)
        given = Moments(
            {name: both.parts[name][:size] for name in both.parts},
            {name: extra[:size] if extra.ndim else extra for name, extra in both.aux.items()},
        )
        filled = torch.empty_like(x) if anchor is None else anchor.clone()
        filled[lacking] = both.parts["data"][size:]
        return given, filled

    def _pointing(self, x: Tensor, t: Tensor, anchor: Tensor) -> Tensor:
        """Return the data that go with delta times the noise which points at the anchor."""
        if self.delta == 1.0:
            return anchor
        alpha, _ = self.process.coefficients(t)
        return self.delta * anchor + scale((1.0 - self.delta) / alpha, x)


def by_input(cond: Condition | None, data: Tensor) -> Condition:
    """Let the input (B, *S) be the anchor: self-negative guidance."""
    return (Condition.of() if cond is None else cond).adding(**{ANCHOR: data})


def by_first(cond: Condition | None, data: Tensor) -> Condition:
    """Leave a place for the anchor, to be filled by the first null estimate: one-time negative guidance."""
    anchored = by_input(cond, torch.zeros_like(data))
    return anchored.null(ANCHOR)
