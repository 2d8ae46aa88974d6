"""Memory and time of a training run, from the shape of the data and the speed of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

BYTES_PER_PARAMETER = 20
"""float32 weight, gradient, two moments of Adam, and the moving average."""

EFFICIENCY = 0.5
"""Share of the speed of a large matrix product that counts as the speed of training."""


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """What the default network of a recipe costs to train.

    Args:
        parameters: Weights.
        operations: Floating-point operations of a forward and backward pass for every position (pixel, voxel, time
            step, token) or, for vectors and poses, for every example; a measured value is time * `EFFICIENCY` *
            `speed()`.
        kept: Bytes kept for the backward pass, likewise.
        measured: Measured on the network itself, rather than counted from a typical one?
    """

    parameters: float
    operations: float
    kept: float
    measured: bool


COSTS: Mapping[str, Cost] = {
    "digits": Cost(0.57e6, 1.5e5, 1_450, True),  # 28x28 grey, batch 64: 59 ms a step at 258 G operations a second
    "images": Cost(9.2e6, 2.5e6, 16_600, True),  # 32x32 colour, batch 32: 0.53 s; 64x64, batch 8: 0.75 s
    "volumes": Cost(1.2e6, 1.9e6, 3_600, False),  # U-Net of 27 taps, widths 16 and 32
    "series": Cost(0.56e6, 3.1e5, 2_600, True),  # 96 steps, batch 64: 38 ms of one core at 100 G operations a second
    "text": Cost(2.0e6, 1.2e7, 24_000, False),
    "vectors": Cost(0.5e6, 3.0e6, 24_000, False),  # MLP: 6 * parameters an example
    "poses": Cost(0.5e6, 3.0e6, 24_000, False),
}
"""By kind of data; "digits" is the smaller network that images of up to `SMALL` pixels get."""

SMALL = 32 * 32


@final
@dataclass(frozen=True, slots=True)
class Proposal:
    """What to run, and what it will cost.

    Args:
        recipe: General recipe of the kind of data.
        command: The command line.
        arguments: Arguments of the recipe that follow from the data.
        steps: Training steps.
        batch_size: Examples a step.
        memory_mib: Estimated memory in MiB.
        seconds: Estimated time.
        rule: How both were estimated.
    """

    recipe: str
    command: str
    arguments: Mapping[str, object]
    steps: int
    batch_size: int
    memory_mib: float
    seconds: float
    rule: str

    def lines(self) -> list[str]:
        """Lines for people."""
        minutes = self.seconds / 60
        return [
            f"proposal: {self.command}",
            f"estimate: {self.memory_mib:,.0f} MiB of memory and "
            f"{f'{minutes:,.0f} minutes' if minutes >= 1.5 else f'{self.seconds:,.0f} seconds'} "
            f"for {self.steps:,} steps of {self.batch_size} ({self.rule})",
        ]


def propose(
    path: str,
    kind: str,
    shape: tuple[int, ...],
    count: int,
    arguments: Mapping[str, object],
    steps: int,
    batch_size: int,
) -> Proposal:
    """Estimate a run on `count` examples of a shape (channels first where there are channels).

    memory = 20 B * parameters + 8 B * data + batch * positions * bytes kept a position;
    time = steps * batch * positions * operations a position / (half the speed of a matrix product here).
    """
    positions = {"vectors": 1, "poses": 1, "text": math.prod(shape)}.get(kind, math.prod(shape[1:]))
    cost = COSTS["digits" if kind == "images" and positions <= SMALL else kind]
    data = count * math.prod(shape)
    memory = BYTES_PER_PARAMETER * cost.parameters + 8 * data + batch_size * positions * cost.kept
    work = cost.operations * positions * batch_size * steps
    flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in arguments.items())
    origin = "measured on the default network" if cost.measured else "counted for a typical network"
    rule = (
        f"rule: {origin} of {cost.parameters / 1e6:g} M parameters, {cost.operations:.2g} operations and "
        f"{cost.kept:,.0f} bytes "
        f"for each of {positions:,} position(s), at half of the {speed() / 1e9:,.0f} G operations a second "
        "that a matrix product reaches here"
    )
    return Proposal(
        kind,
        f"condiff train {path}{flags} --steps {steps}",
        dict(arguments),
        steps,
        batch_size,
        round(memory / 2**20, 1),
        round(work / (EFFICIENCY * speed()), 1),
        rule,
    )


@lru_cache(maxsize=1)
def speed() -> float:
    """Floating-point operations a second of a 512x512 matrix product here, the best of 20."""
    a = np.ones((512, 512), np.float32)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / max(best, 1e-9)
