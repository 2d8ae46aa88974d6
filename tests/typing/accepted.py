"""The positive twin of rejected.py: pairings that must type-check, so that a rejection is not for a trivial reason."""
# ruff: noqa: F841

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from torch import Tensor

from condiff.core import (
    Categorical,
    Condition,
    Denoiser,
    Draw,
    Flowing,
    Moments,
    Objective,
    Process,
    Rng,
    Solver,
    Tiltable,
)
from condiff.guidance import CFG, Energy, Guided
from condiff.objectives import MeanFlow
from condiff.process import Absorbing, Diagonal, Gaussian, Interpolant, Jumps, Mapped
from condiff.solvers import Adams, Heun, Jump, Multistep, UniPC


class Contextual:
    """A process whose corruption depends on the condition nonlinearly: it can jump, but has no flow and no tilt."""

    def given(self, cond: Condition | None) -> Self: ...
    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw: ...
    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor: ...
    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor: ...
    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor: ...


def good(
    gaussian: Gaussian, bridge: Interpolant, tokens: Absorbing, contextual: Contextual, denoiser: Denoiser[Moments],
    energy: Energy, logits: Denoiser[Categorical], mapped: Mapped, jumps: Denoiser[Jumps],
) -> None:  # fmt: skip
    a: Solver[Gaussian, Moments] = Multistep()
    b: Solver[Gaussian, Moments] = Heun()
    c: Solver[Interpolant, Moments] = Heun()
    d: Process[Categorical] = tokens
    e: Process[Moments] = contextual
    f: Flowing = gaussian
    g: Flowing = bridge
    h: Tiltable[Moments] = gaussian
    i: Tiltable[Categorical] = tokens
    j: Solver[Gaussian, Moments] = UniPC()
    k: Solver[Interpolant, Moments] = Adams()
    m: Solver[Process[Moments], Moments] = Jump()
    n: Solver[Contextual, Moments] = Jump()
    o: Solver[Absorbing, Categorical] = Jump()
    p = Guided(denoiser, gaussian, energy)
    q: Denoiser[Categorical] = CFG(logits, 2.0)
    r: Denoiser[Moments] = CFG(denoiser, 2.0)
    s: Solver[Mapped, Jumps] = Jump(1.0)
    t: Denoiser[Jumps] = CFG(jumps, 2.0)
    u: Denoiser[Moments] = Diagonal(jumps)
    v: Objective[Jumps] = MeanFlow(mapped)
