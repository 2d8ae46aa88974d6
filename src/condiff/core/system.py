"""A system: everything a recipe returns. It is enough to train, sample, invert and score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, final

from torch import Tensor

from condiff.core.codec import Codec
from condiff.core.condition import Kind
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E
from condiff.core.objective import Objective
from condiff.core.process import P_any
from condiff.core.solver import Solver


@final
@dataclass(frozen=True)
class Call:
    """The recipe call that made a system: its name and bound arguments, JSON-able. Loading is calling it again."""

    name: str
    arguments: Mapping[str, Any]


@final
@dataclass(frozen=True)
class System(Generic[P_any, E]):
    """What a recipe returns.

    Args:
        process: How data are corrupted.
        denoiser: The denoiser; an `nn.Module` if it is to be trained.
        objective: What training minimises.
        solver: The default solver.
        codec: Between user data and the process.
        grid: Times for a number of steps, float64, decreasing from 1 to 0.
        shape: Shape (*S) of one sample in the process's space.
        schema: What each condition name holds.
        num_steps: Default number of solver steps.
        guidance_scale: Default guidance scale, 1 is plain conditional; of a solver that guides by itself, 0 is none.
        data: What it was made for: name, kind, class names, ranges; JSON-able.
        call: The recipe call that made it; None for a system built by hand, which cannot be saved by name.
    """

    process: P_any
    denoiser: Denoiser[E]
    objective: Objective[E]
    solver: Solver[P_any, E]
    codec: Codec
    grid: Callable[[int], Tensor]
    shape: tuple[int, ...]
    schema: Mapping[str, Kind] = field(default_factory=dict)
    num_steps: int = 20
    guidance_scale: float = 1.0
    data: Mapping[str, Any] = field(default_factory=dict)
    call: Call | None = None
