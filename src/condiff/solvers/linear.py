"""Solvers that make one call a step and combine what it says linearly: a step is one row of numbers.

x_s = state * x + gains[0] * k_0 + gains[1] * k_1 + ..., k_0 = sum row[name] * z_name, k_1, k_2 ... its earlier values

The numbers depend on the process and the times alone. `Linear.step` evaluates them for the times it is given, shared
or one a row. `Linear.plan` evaluates the same formula once for a whole grid, together with what a network output says
about the latents, so that a step of a loop is left with one to five tensor operations.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor

from condiff.core.estimate import Affine, Moments, Reader, Row
from condiff.core.process import Flowing, NoiseLaw
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, mix, weigh
from condiff.core.solver import Solver, State
from condiff.solvers.history import blank, stamp

Denoise = Callable[[Tensor, Tensor], Moments]
Q = TypeVar("Q", bound=Flowing)


class Weights(NamedTuple):
    """A step: x_s = state * x + sum_j gains[j] k_j + fresh * noise, with k_0 = sum row[name] z_name."""

    state: Scalar
    row: Row
    gains: tuple[Scalar, ...]
    fresh: Scalar = 0.0


class Linear(ABC, Generic[Q]):
    """A solver of one call a step, told by `depth` and `weights` alone; a time is nan where a row has no history."""

    lead: ClassVar[int] = 0
    """How many steps after a start without history take more than the weights: a plan leaves them to `step`."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many earlier values a step combines."""

    @abstractmethod
    def weights(self, process: Q, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Weights:
        """Return the numbers of a step from t to s, given the times of the earlier values, newest first."""

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x with no history."""
        memory: dict[str, Tensor] = {}
        for back in range(1, self.depth + 1):
            memory |= {f"past{back}": torch.zeros_like(x), f"time{back}": blank(x, t)}
        return State(x, memory)

    def step(self, process: Q, denoise: Denoise, state: State, t: Tensor, s: Tensor, rng: Rng) -> State:
        """Move from t to s with one call."""
        return self.advance(process, denoise(state.x, t), state, t, s)

    def advance(self, process: Q, est: Moments, state: State, t: Tensor, s: Tensor) -> State:
        """Move from t to s by the estimate at t."""
        x, memory, depth = state.x, state.memory, self.depth
        row = self.weights(process, t, s, [memory[f"time{j}"] for j in range(1, depth + 1)])
        if depth == 0:
            return State(est.add_to(row.state, x, row.row, row.gains[0]))
        value = est.combine(row.row)
        new = mix(row.state, x, row.gains[0], value)
        for j in range(1, depth + 1):
            new = mix(1.0, new, row.gains[j], memory[f"past{j}"])
        return State(new, self.remember(state, value, t))

    def remember(self, state: State, value: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Return the memory after a step from a state at t whose k_0 was `value`: the earlier ones move back."""
        kept, time = {}, stamp(t, state.x)
        for j in range(1, self.depth + 1):
            kept[f"past{j}"], kept[f"time{j}"] = value, time
            value, time = state.memory[f"past{j}"], state.memory[f"time{j}"]
        return kept

    def plan(self, process: Q, times: Sequence[float]) -> Plan:
        """Compute the numbers of every step between times that all rows share, from a start without history."""
        return Plan(self, process, table(self, process, times))

    def numbers(self, process: Q, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Numbers:
        """Return the numbers of many steps at once: all times (N,), in float64 on the host."""
        return Numbers(t, self.weights(process, t, s, past), self.lead)


class Step(NamedTuple):
    """The weights of one step as floats."""

    state: float
    row: dict[str, float]
    gains: tuple[float, ...]
    fresh: float


class Fold(NamedTuple):
    """A step in terms of a network output: x_s = c x + d out + history, k_0 = a x + b out."""

    c: float
    d: float
    a: float
    b: float


@final
class Numbers:
    """The weights of all steps of a grid, and what becomes of them when k_0 is read off a state and a network output.

    Args:
        t: Where the steps begin, shape (N,).
        weights: Weights of all steps, each number a float or a tensor (N,).
        lead: How many first steps are left to the solver.
    """

    def __init__(self, t: Tensor, weights: Weights, lead: int = 0) -> None:
        self.t, self.weights = t, weights
        row = zip(*map(self._floats, weights.row.values()), strict=True)
        gains = zip(*map(self._floats, weights.gains), strict=True)
        steps = [
            Step(state, dict(zip(weights.row, latents, strict=True)), own, fresh)
            for state, latents, own, fresh in zip(
                self._floats(weights.state), row, gains, self._floats(weights.fresh), strict=True
            )
        ]
        # An end of time that a formula refuses or treats apart shows in numbers that are not finite.
        self.steps = [
            step if i >= lead and all(map(math.isfinite, (step.state, *step.row.values(), *step.gains))) else None
            for i, step in enumerate(steps)
        ]
        self._folds: dict[tuple[Reader, object], list[Fold]] = {}

    def fold(self, reader: Reader, target: object) -> list[Fold]:
        """Return every step in terms of the output that estimates a target; nan where that does not determine it."""
        if not (_constant(reader) and _constant(target)):
            return self._fold(reader, target)
        if (reader, target) not in self._folds:
            self._folds[reader, target] = self._fold(reader, target)
        return self._folds[reader, target]

    def _fold(self, reader: Reader, target: object) -> list[Fold]:
        state, row, (gain, *_), _ = self.weights
        a, b = reader.weights(target, self.t, row)
        return list(map(Fold, *map(self._floats, (state + gain * a, gain * b, a, b))))

    def _floats(self, value: Scalar) -> list[float]:
        numbers: list[float] = torch.as_tensor(value, dtype=torch.float64).expand(len(self.t)).tolist()
        return numbers


class Tabled(Protocol):
    """A solver that gives the numbers of many steps at once."""

    @property
    def depth(self) -> int:
        """How many earlier values a step combines."""
        ...

    def numbers(self, process: Any, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Numbers:  # noqa: ANN401
        """Return the numbers of steps from t to s, shape (N,); `past` are the times of earlier values, nan if none."""
        ...


def table(solver: Tabled, process: Flowing, times: Sequence[float]) -> Numbers:
    """Return a solver's numbers over a grid; a second run over it finds them made, if nothing in them can change."""
    made: Callable[..., Numbers] = _table if _constant(solver) and _constant(process) else _table.__wrapped__
    return made(solver, process, tuple(times))


@functools.lru_cache(maxsize=32)
def _table(solver: Tabled, process: Flowing, times: tuple[float, ...]) -> Numbers:
    depth, count = solver.depth, len(times) - 1
    nodes = torch.tensor((math.nan,) * depth + times, dtype=torch.float64)
    past = [nodes[depth - back : depth - back + count] for back in range(1, depth + 1)]
    return solver.numbers(process, nodes[depth : depth + count], nodes[depth + 1 :], past)


def _constant(value: object) -> bool:
    # A learned schedule, say, may have other numbers tomorrow; frozen dataclasses of numbers have not.
    if is_dataclass(value) and not isinstance(value, type):
        frozen = bool(value.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        return frozen and all(_constant(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, float | int | str | tuple | None)


Value = tuple[float, Tensor]
"""An earlier k_j as a planned loop keeps it: a factor and a tensor, so that one operation makes it."""

_UNREAD = Fold(math.nan, math.nan, math.nan, math.nan)


@final
class Plan:
    """A linear solver over a grid: its steps with numbers computed beforehand.

    Args:
        solver: The solver; it takes the steps whose numbers say nothing.
        process: The process of the states.
        numbers: The numbers of all steps.
        noise: Law of the fresh noise, None if no step draws any.
    """

    def __init__(
        self, solver: Solver[Any, Moments], process: Flowing, numbers: Numbers, noise: NoiseLaw | None = None
    ) -> None:
        self.solver, self.process, self.numbers, self.noise = solver, process, numbers, noise

    def run(self, denoise: Denoise, state: State, times: Sequence[Tensor], rng: Rng) -> Iterator[State]:
        """Yield the state after every step."""
        noise, depth = self.noise, len(self.numbers.weights.gains) - 1
        reader: Reader | None = None
        target: object = None
        folds: list[Fold] = []
        past: tuple[Value, ...] = ()
        for i, step in enumerate(self.numbers.steps):
            t, x = times[i], state.x
            if step is None:
                state = self.solver.step(self.process, denoise, state, t, times[i + 1], rng)
                past = tuple((1.0, state.memory[f"past{j}"]) for j in range(1, min(depth, i + 1) + 1))
                yield state
                continue
            est = denoise(x, t)
            parts, fold = est.parts, _UNREAD
            if type(parts) is Affine and parts.x is x and parts.t is t:
                if parts.reader is not reader or parts.target is not target:
                    reader, target = parts.reader, parts.target
                    folds = self.numbers.fold(reader, target)
                fold, y = folds[i], parts.out
            c, d, a, b = fold
            if c == c:
                new = weigh(c, x, d, y)
            elif depth:
                y, a, b = est.combine(step.row), 0.0, 1.0
                new = weigh(step.state, x, step.gains[0], y)
            else:
                new = est.add_to(step.state, x, step.row, step.gains[0])
            if noise is not None:
                new = weigh(1.0, new, step.fresh, noise.draw(x.shape, rng).to(x))
            if depth == 0:
                state = State(new)
            else:
                if new is x or new is y:
                    new = new.clone()
                for j, (factor, z) in enumerate(past, 1):
                    new.add_(z, alpha=factor * step.gains[j])  # new was made here, so it may be written to
                # k_0 up to a factor, so that one operation makes it
                if a == 0.0:
                    value = b, y
                elif abs(a) > abs(b):
                    value = a, torch.add(x, y, alpha=b / a)
                else:
                    value = b, torch.add(y, x, alpha=a / b)
                past = (value, *past[: depth - 1])
                state = State(new, _History(past, times, i, depth))
            yield state


class _History(Mapping[str, Tensor]):
    """The memory of a planned state, as `Linear.step` would have left it, made when it is read."""

    __slots__ = ("_at", "_depth", "_leaves", "_past", "_times")

    def __init__(self, past: tuple[Value, ...], times: Sequence[Tensor], at: int, depth: int) -> None:
        self._past, self._times, self._at, self._depth = past, times, at, depth
        self._leaves: dict[str, Tensor] = {}

    def _made(self) -> dict[str, Tensor]:
        if not self._leaves:
            x, at = self._past[0][1], self._at
            for j in range(1, self._depth + 1):
                known = j <= len(self._past)
                factor, value = self._past[j - 1] if known else (0.0, x)
                self._leaves[f"past{j}"] = value if factor == 1.0 else value * factor
                self._leaves[f"time{j}"] = stamp(self._times[at - j + 1], x) if known else blank(x, self._times[at])
        return self._leaves

    def __getitem__(self, name: str) -> Tensor:
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return 2 * self._depth
