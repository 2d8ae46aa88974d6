"""Does classifier-free guidance make samples agree with their class? Real digits, an independent judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from condiff.claims.claim import Result, Row, over_seeds, share
from condiff.core.rng import key
from condiff.data import read
from condiff.evaluate.distances import frechet
from condiff.evaluate.judge import judge
from condiff.recipes import digits
from condiff.tasks.assess import sample_like
from condiff.tasks.generate import sample
from condiff.tasks.pictures import mosaic, png_bytes
from condiff.train.checkpoint import write_atomically
from condiff.train.fit import Progress, fit

CLAIM = "guidance at scale 2 makes at least 98 % of sampled digits read as the class asked for, more than without"


def run(*, quick: bool, seed: int, out: Path | None, talk: Callable[[str], None]) -> Result:
    """Train with each seed, sample with and without guidance, and let the judge read the samples."""
    splits = read("digits")
    measured = digits.measure(splits)
    num, seeds = (200, [seed]) if quick else (500, [seed, seed + 1, seed + 2])
    seconds = 42.0 if quick else 130.0
    settings = replace(digits.training, steps=1_000_000, seconds=seconds)
    guided: list[float] = []
    plain: list[float] = []
    distance: list[float] = []
    calls = 0
    for number in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(number, "weights"))
            system = digits(**measured)
        progress = Progress.begin(system, settings)
        for report in fit(system, splits, settings=settings, seed=number, progress=progress):
            if report.step % 200 == 0:
                talk(f"seed {number}: step {report.step}, loss {float(report.loss):.4f}")
        averaged = progress.averaged
        for scale, scores in ((1.0, plain), (2.0, guided)):
            drawn, cond = sample_like(averaged, splits.test, num, guidance_scale=scale, seed=number)
            right = judge().classify(drawn) == cond.values["label"]
            scores.append(100.0 * float(right.double().mean()))
            calls += -(-num // 128) * (averaged.num_steps + 1)  # a batch of 128 each; Adams' first step makes two calls
            talk(f"seed {number}: guidance {scale:g}: {scores[-1]:.1f} % read as asked")
            if scale == 2.0:
                metric = frechet(
                    drawn, splits.test.data[:num], features=judge().features, definition=judge().definition, seed=number
                )
                distance.append(metric.value)
        if out is not None and number == seed:
            for scale in (1.0, 2.0):
                picture = mosaic(sample(averaged, num_samples=100, guidance_scale=scale, seed=number), 10)
                facts = {"made_by": "condiff reproduce digits", "seed": number, "guidance_scale": scale}
                write_atomically(out / f"guidance_{scale:g}.png", png_bytes(picture, facts))
    rows = [
        share("read as asked, guidance 2", guided, num),
        share("read as asked, no guidance (baseline)", plain, num),
        over_seeds("Frechet distance to test digits, guidance 2", distance, "", num * len(seeds)),
    ]
    gain = rows[0].value - rows[1].value
    return Result(
        system="digits",
        claim=CLAIM,
        data=f"bundled MNIST digits, 8000 for training, {seconds:g} s of training a seed, {len(seeds)} seed(s)",
        seed=seed,
        rows=rows,
        effect=f"{rows[1].value:.1f} % without guidance, {rows[0].value:.1f} % with: {gain:+.1f} points",
        expected="at least 98 % with guidance, and more than without",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: list[Row]) -> bool:
    """Tell whether the claim holds: at least 98 % guided, and above the baseline."""
    return rows[0].value >= 98.0 and rows[0].value > rows[1].value
