"""Paired measurement: variants run in turn in one process on one thread, in CPU time, and only their ratios are used."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Variants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Effort:
    """How much to spend: `smoke` looks for errors and gross regressions only."""

    smoke: bool = False

    @property
    def rounds(self) -> int:
        """Rounds of interleaved measurement."""
        return 5 if self.smoke else 9

    def pick(self, full: int, smoke: int) -> int:
        """Choose a size."""
        return smoke if self.smoke else full


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        goal: "G1" ...
        case: What was measured.
        value: Measured ratio, share or count; nan if it could not be measured.
        limit: The goal.
        above: Must the value be at least the limit (else at most)?
        ours, floor: Readings behind the value, for people.
        neighbours: Neighbour's cost over ours by name, or a reason why it is not there.
        bound: What counts as a gross regression; 1.5 times the goal if None. Rows known to fall short state their own.
        note: What a reader must know.
    """

    goal: str
    case: str
    value: float
    limit: float
    above: bool = False
    ours: str = ""
    floor: str = ""
    neighbours: Mapping[str, float | str] = field(default_factory=dict)
    bound: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Is the goal met?"""
        return self.value >= self.limit if self.above else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """What the table says; a line whose neighbour is missing neither passes nor fails."""
        if math.isnan(self.value):
            return "not measured"
        return "pass" if self.passed else "falls short"

    @property
    def sound(self) -> bool:
        """Is the value on the right side of the generous bound? What was not measured has not regressed."""
        if math.isnan(self.value):
            return True
        if self.bound is not None:
            edge = self.bound
        else:
            edge = self.limit / 1.5 if self.above else self.limit * 1.5
        return self.value >= edge if self.above else self.value <= edge


def seconds(variants: Variants, rounds: int, least: float = 0.02) -> dict[str, float]:
    """Return the median CPU seconds of one call of each variant, measured A B C A B C ...

    Each reading repeats its variant for at least `least` seconds.
    """
    return {name: statistics.median(readings) for name, readings in sweep(variants, rounds, least).items()}


def sweep(variants: Variants, rounds: int, least: float = 0.02) -> dict[str, list[float]]:
    """Return CPU seconds of one call of each variant, round by round."""
    repeats = {}
    for name, run in variants.items():
        run()
        once = _timed(run, 1)
        repeats[name] = max(1, int(least / max(once, 1e-7)))
    readings: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            readings[name].append(_timed(run, repeats[name]))
    return readings


def ratio(readings: Mapping[str, list[float]], a: str, b: str) -> float:
    """Return the median over rounds of the cost of a over the cost of b in the same round."""
    return statistics.median(x / y for x, y in zip(readings[a], readings[b], strict=True))


def _timed(run: Callable[[], object], repeats: int) -> float:
    begin = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - begin) / repeats


SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class Ops(TorchDispatchMode):
    """Counts tensor operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Operations in all."""
        return sum(self.calls.values())

    @property
    def syncs(self) -> int:
        """Operations that read a value back to the host."""
        return sum(self.calls[name] for name in SYNCS)


class Stored(torch.nn.Module):
    """A network that costs nothing: it returns the same tensor every time, so that what is left is the loop."""

    def __init__(self, out: torch.Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        """Return the stored tensor."""
        return self.out
