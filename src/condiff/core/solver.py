"""The solver protocol: a step is an interval map with explicit state (law 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.estimate import E_contra
from condiff.core.process import P_contra
from condiff.core.rng import Rng


@final
@dataclass(frozen=True, slots=True)
class State:
    """Where a solver stands: x (B, *S) and its memory, every leaf batch-major so that rows can leave and join."""

    x: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor | slice) -> State:
        """Keep some rows; index is a bool (B,) or integer (R,) tensor, or a slice, which copies nothing."""
        return State(self.x[index], {name: leaf[index] for name, leaf in self.memory.items()})

    def cat(self, other: State) -> State:
        """Append the rows of another state of the same solver."""
        return State(
            torch.cat([self.x, other.x]),
            {name: torch.cat([leaf, other.memory[name]]) for name, leaf in self.memory.items()},
        )


class Solver(Protocol[P_contra, E_contra]):
    """Moves a state over an interval of time, down (generation) or up (inversion), within what P and E allow."""

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start with no history at state x (B, *S) and time t."""
        ...

    def step(
        self,
        process: P_contra,
        denoise: Callable[[Tensor, Tensor], E_contra],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move the state from time t to time s; `denoise(x, t)` has its condition bound."""
        ...


class Plan(Protocol[E_contra]):
    """The steps of a solver over one grid, their numbers computed beforehand.

    A solver may offer `plan(process, times: Sequence[float]) -> Plan | None` for times that all rows share. The states
    are those of its `step` to rounding, memory included; None says that this process has no plan.
    """

    def run(
        self, denoise: Callable[[Tensor, Tensor], E_contra], state: State, times: Sequence[Tensor], rng: Rng
    ) -> Iterator[State]:
        """Yield the state after every step, from a state without history at the first of the times."""
        ...
