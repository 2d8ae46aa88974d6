"""Different denoisers at different times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.shapes import expand, host


@final
@dataclass(frozen=True)
class ByTime:
    """The denoiser whose stretch of time holds t: experts for noise levels, or a closed form where it is good enough.

    est = denoisers[k] where edges[k - 1] <= t < edges[k]

    Args:
        denoisers: K denoisers on one process, from the data end to the noise end.
        edges: K - 1 increasing times in [0, 1] between them.

    Where rows stand in several stretches each expert sees the whole batch, and its other rows are thrown away.
    """

    denoisers: tuple[Denoiser[Moments], ...]
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.denoisers) != len(self.edges) + 1:
            raise ValueError(f"{len(self.denoisers)} denoisers need one edge less, got {len(self.edges)}")
        if list(self.edges) != sorted(set(self.edges)) or not all(0.0 <= edge <= 1.0 for edge in self.edges):
            raise ValueError(f"edges are increasing times in [0, 1], got {self.edges}")

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the estimate of the expert in charge."""
        value = host(t)
        if value is not None or t.ndim == 0:
            now = float(t) if value is None else value
            return self.denoisers[sum(now >= edge for edge in self.edges)](x, t, cond)
        edges = torch.tensor(self.edges, dtype=torch.float64, device=t.device)
        charge = torch.bucketize(t.to(torch.float64), edges, right=True)
        parts: dict[str, Tensor] = {}
        for k, denoiser in enumerate(self.denoisers):
            mine = charge == k
            if not bool(mine.any()):
                continue
            # Each expert is asked at times of its own stretch only: others may be singular for it.
            low = self.edges[k - 1] if k else 0.0
            high = self.edges[k] if k < len(self.edges) else 1.0
            est = denoiser(x, torch.where(mine, t, 0.5 * (low + high)), cond)
            for name, part in est.parts.items():
                parts[name] = torch.where(expand(mine, part), part, parts[name]) if name in parts else part
        return Moments(parts)
