"""Pairings that must not type-check: every line marked REJECTED has an error, and no other line has one."""
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
from condiff.guidance import Energy, Guided
from condiff.objectives import MeanFlow
from condiff.process import Absorbing, Gaussian, Interpolant, Jumps, Mapped
from condiff.solvers import Adams, Heun, Multistep, UniPC


class Contextual:
    """A process whose corruption depends on the condition nonlinearly: it can jump, but has no flow and no tilt."""

    def given(self, cond: Condition | None) -> Self: ...
    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw: ...
    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor: ...
    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor: ...
    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor: ...


def bad(
    gaussian: Gaussian, contextual: Contextual, tokens: Absorbing, denoiser: Denoiser[Moments], energy: Energy,
    logits: Denoiser[Categorical], mapped: Mapped, jumps: Denoiser[Jumps],
) -> None:  # fmt: skip
    a: Solver[Absorbing, Categorical] = Multistep()  # REJECTED exponential multistep on tokens
    b: Solver[Contextual, Moments] = Heun()  # REJECTED Heun on a contextual process
    c: Solver[Interpolant, Moments] = Multistep()  # REJECTED exponential multistep on a three-latent bridge
    d: Solver[Interpolant, Moments] = UniPC()  # REJECTED exponential multistep on a three-latent bridge
    e = Guided(denoiser, contextual, energy)  # REJECTED gradient guidance on a contextual process
    f: Tiltable[Categorical] = gaussian  # REJECTED Gaussian tilt on logits
    g: Solver[Gaussian, Categorical] = Heun()  # REJECTED logits into an ODE solver
    h: Flowing = tokens  # REJECTED tokens have no flow
    i = Guided(logits, gaussian, energy)  # REJECTED gradient guidance of logits on a Gaussian process
    j: Denoiser[Moments] = logits  # REJECTED logits are no means
    k: Process[Moments] = tokens  # REJECTED tokens are not read off means
    m: Solver[Contextual, Moments] = Adams()  # REJECTED Adams on a contextual process
    n: Solver[Mapped, Jumps] = Heun()  # REJECTED jumps into an ODE solver; Diagonal makes them means
    o: Process[Moments] = mapped  # REJECTED a flow map's process is not read off means
    p: Objective[Moments] = MeanFlow(mapped)  # REJECTED an average velocity is no mean
    q: Denoiser[Moments] = jumps  # REJECTED jumps wait for an arrival
