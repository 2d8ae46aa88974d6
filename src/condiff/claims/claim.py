"""What an experiment returns: rows, and a verdict computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch

from condiff.evaluate.metric import wilson


@final
@dataclass(frozen=True)
class Row:
    """One measured number.

    Args:
        name: What was measured.
        value: The number.
        unit: Its unit, "" for a plain number.
        n: Size of the sample it was measured on.
        interval: 95 % interval (low, high).
    """

    name: str
    value: float
    unit: str
    n: int
    interval: tuple[float, float]


@final
@dataclass(frozen=True)
class Result:
    """The outcome of an experiment.

    Args:
        system: Slug of the system.
        claim: What was tested.
        data: On what.
        seed: First seed.
        rows: What was measured, baseline included.
        effect: The effect in one line, with numbers.
        expected: What the claim predicts, in one line.
        holds: The verdict, a function of the rows.
        calls: Network calls made, for sampling.
    """

    system: str
    claim: str
    data: str
    seed: int
    rows: Sequence[Row]
    effect: str
    expected: str
    holds: bool
    calls: int

    def to_json(self, seconds: float) -> dict[str, Any]:
        """Return the result as plain JSON."""
        return {
            "system": self.system,
            "claim": self.claim,
            "data": self.data,
            "seed": self.seed,
            "rows": [{**asdict(row), "interval": list(row.interval)} for row in self.rows],
            "effect": self.effect,
            "expected": self.expected,
            "holds": self.holds,
            "seconds": round(seconds, 2),
            "calls": self.calls,
        }


class Experiment(Protocol):
    """A system's small experiment."""

    def __call__(self, *, quick: bool, seed: int, out: Path | None, talk: Callable[[str], None]) -> Result:
        """Run it; pictures go to `out` if there is one."""
        ...


def over_seeds(name: str, values: Sequence[float], unit: str, n: int) -> Row:
    """Return the mean of a number over seeds with its 95 % interval: Student's t over seeds.

    With one value the interval is that value alone, and `n` says how little that is.
    """
    # Two-sided 97.5 % points of Student's t for 1 to 9 degrees of freedom.
    points: Mapping[int, float] = {
        1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262,
    }  # fmt: skip
    data = torch.tensor(values, dtype=torch.float64)
    mean = float(data.mean())
    if len(values) == 1:
        return Row(name, mean, unit, n, (mean, mean))
    half = points.get(len(values) - 1, 1.96) * float(data.std()) / len(values) ** 0.5
    return Row(name, mean, unit, n, (mean - half, mean + half))


def single(name: str, value: float, n: int, unit: str = "") -> Row:
    """Return a number that was measured once, or counted; its interval is itself."""
    return Row(name, float(value), unit, n, (float(value), float(value)))


def share(name: str, percent: Sequence[float], n: int) -> Row:
    """Return a mean percentage over seeds, n draws a seed; with one seed the interval is Wilson's for those draws."""
    if len(percent) > 1:
        return over_seeds(name, percent, "%", n * len(percent))
    low, high = wilson(round(percent[0] * n / 100.0), n)
    return Row(name, percent[0], "%", n, (100.0 * low, 100.0 * high))
