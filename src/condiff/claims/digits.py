"""Does classifier-free guidance make samples agree with their class? Real digits, an independent judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from condiff.claims.claim import Result, Row, over_seeds, share
from condiff.claims.lab import show, trained
from condiff.core.condition import Condition
from condiff.core.system import System
from condiff.data import Splits, read
from condiff.evaluate.distances import frechet
from condiff.evaluate.judge import judge
from condiff.recipes import digits
from condiff.tasks.generate import batches

CLAIM = "guidance at scale 2 makes at least 98 % of sampled digits read as the class asked for, more than without"
SCALES = (1.0, 2.0)


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        seconds: Training time a seed; 0 leaves it to `steps`.
        num_samples: Samples a seed and guidance scale.
        num_seeds: Seeds.
        steps: Most training steps a seed.
        batch_size: Rows a step; the recipe's if 0.
        widths: Channels of the network; the recipe's if empty.
    """

    seconds: float
    num_samples: int
    num_seeds: int
    steps: int = 1_000_000
    batch_size: int = 0
    widths: tuple[int, ...] = ()


QUICK = Budget(seconds=36.0, num_samples=200, num_seeds=1)
FULL = Budget(seconds=0.0, steps=720, num_samples=500, num_seeds=3)
"""As many steps as two cores do in about two minutes, in steps so that every machine measures the same model."""


def run(*, quick: bool, seed: int, out: Path | None, talk: Callable[[str], None]) -> Result:
    """Train with each seed, sample with and without guidance, and let the judge read the samples."""
    budget = QUICK if quick else FULL
    splits = read("digits")
    num, seeds = budget.num_samples, range(seed, seed + budget.num_seeds)
    scores: dict[float, list[float]] = {scale: [] for scale in SCALES}
    distance: list[float] = []
    calls = 0
    for number in seeds:
        system = _trained(splits, budget, number, talk)
        test, cond = splits.test.rows(torch.arange(num) % len(splits.test))
        for scale in SCALES:
            drawn, used = _draw(system, cond, scale, number)
            calls += used
            right = judge().classify(drawn) == cond.values["label"]
            scores[scale].append(100.0 * float(right.double().mean()))
            talk(f"seed {number}: guidance {scale:g}: {scores[scale][-1]:.1f} % read as asked")
            if scale == SCALES[-1]:
                metric = frechet(drawn, test, features=judge().features, definition=judge().definition, seed=number)
                distance.append(metric.value)
            if out is not None and number == seed:
                every = Condition.of(label=torch.arange(100) % 10)
                grid, used = _draw(system, every, scale, number)
                calls += used
                facts = {"made_by": "condiff reproduce digits", "seed": number, "guidance_scale": scale}
                show(out, f"guidance_{scale:g}.png", grid, facts)
    rows = [
        share("read as asked, guidance 2", scores[2.0], num),
        share("read as asked, no guidance (baseline)", scores[1.0], num),
        over_seeds("Frechet distance to test digits, guidance 2", distance, "", num * len(seeds)),
    ]
    length = f"{budget.seconds:g} s" if budget.seconds else f"{budget.steps} steps"
    return Result(
        system="digits",
        claim=CLAIM,
        data=f"bundled MNIST digits, {len(splits.train)} for training, {length} of training a seed, "
        f"{len(seeds)} seed(s)",
        seed=seed,
        rows=rows,
        effect=f"{rows[1].value:.1f} % without guidance, {rows[0].value:.1f} % with: "
        f"{rows[0].value - rows[1].value:+.1f} points",
        expected="at least 98 % with guidance, and more than without",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: list[Row]) -> bool:
    """Tell whether the claim holds: at least 98 % guided, and above the baseline."""
    return rows[0].value >= 98.0 and rows[0].value > rows[1].value


def _trained(splits: Splits, budget: Budget, seed: int, talk: Callable[[str], None]) -> System[Any, Any]:
    """Train the recipe within the budget; returns the system with averaged weights."""
    options = {"widths": budget.widths} if budget.widths else {}
    settings = replace(
        digits.training,
        steps=budget.steps,
        seconds=budget.seconds,
        batch_size=budget.batch_size or digits.training.batch_size,
    )
    return trained(digits, splits, seed=seed, talk=talk, settings=settings, **options)


def _draw(system: System[Any, Any], cond: Condition, scale: float, seed: int) -> tuple[Tensor, int]:
    """Draw one sample a row of a condition; returns them with the network calls really made."""
    parts = list(batches(system, num_samples=len(cond), cond=cond, guidance_scale=scale, seed=seed, batch_size=128))
    return torch.cat([part for part, _ in parts]), sum(calls for _, calls in parts)
