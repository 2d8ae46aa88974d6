"""What experiments share: training a recipe with a seed, drawing from it while counting calls, and measuring digits.

An experiment on digits at 8x8 reads `digits8`, trains with `trained`, draws with `drawn`, and compares features of
`judge8` by `distance`. At equal numbers of rows `floor` is what real digits reach against other real digits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from condiff.core.rng import key
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits
from condiff.evaluate.distances import frechet_distance, moments
from condiff.evaluate.judge import judge, judge8
from condiff.evaluate.metric import extract
from condiff.tasks.generate import batches
from condiff.tasks.pictures import mosaic, png_bytes
from condiff.train.atomic import write_atomically
from condiff.train.fit import Progress, fit
from condiff.train.recipe import Recipe
from condiff.train.settings import Training

T = TypeVar("T")

Talk = Callable[[str], None]
"""Where an experiment says how far it is."""


def trained(
    recipe: Recipe,
    splits: Splits,
    *,
    seed: int,
    talk: Talk,
    settings: Training | None = None,
    **options: Any,  # noqa: ANN401 - a recipe's own options
) -> System[Any, Any]:
    """Train a recipe on data; the seed names the initial weights, the order of the data and all noise.

    Args:
        recipe: What to build.
        splits: What to train on; the recipe measures its options off them.
        seed: Any integer.
        talk: Told the loss now and then.
        settings: How to train; the recipe's own if None.
        options: The recipe's options, over what it measured.

    Returns: The system with averaged weights.
    """
    system = built(recipe, splits, seed=seed, **options)
    return fitted(system, splits, settings or recipe.training, seed=seed, talk=talk)


def built(recipe: Recipe, splits: Splits, *, seed: int, **options: Any) -> System[Any, Any]:  # noqa: ANN401 - a recipe's own options
    """Build a recipe for data without training it; the seed names the initial weights."""
    arguments = recipe.measured(splits, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "weights"))
        return recipe(**arguments)


def fitted(
    system: System[Any, Any], data: Dataset | Splits, settings: Training, *, seed: int, talk: Talk
) -> System[Any, Any]:
    """Train a system as it is; returns it with averaged weights."""
    progress = Progress.begin(system, settings)
    for report in fit(system, data, settings=settings, seed=seed, progress=progress):
        if report.step % 500 == 0 or report.step == settings.steps:
            talk(f"seed {seed}: step {report.step}, loss {float(report.loss):.4f}")
    return progress.averaged


def side_by_side(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run independent jobs at once, each on one thread of PyTorch's, and return what they return, in order.

    A small network keeps two cores little busier than one (1.2 to 1.4 times); two of them do. Jobs must draw nothing
    from the global random numbers: build networks before, train and sample them here.
    """
    cores = torch.get_num_threads()
    if min(cores, len(jobs)) < 2:
        return [job() for job in jobs]
    try:
        with ThreadPoolExecutor(min(cores, len(jobs)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda job: job(), jobs))
    finally:
        torch.set_num_threads(cores)  # a part of it is kept for the whole process


def drawn(system: System[Any, Any], num_samples: int, *, seed: int, **wanted: Any) -> tuple[Tensor, int]:  # noqa: ANN401 - as `batches`
    """Draw samples (num_samples, *S) in data space, with what `batches` takes, and the calls of one batch.

    Batches of 500 rows: small networks are slow by their number of calls, not of rows.
    """
    parts = list(batches(system, num_samples=num_samples, seed=seed, batch_size=500, **wanted))
    return torch.cat([part for part, _ in parts]), parts[0][1]


def distance(samples: Tensor, reference: Tensor) -> float:
    """Measure the Frechet distance of digits in the features of the judge of their size, 8x8 or 28x28.

    Args:
        samples: Digits (N, 1, 8, 8), (N, 64) or (N, 1, 28, 28).
        reference: Digits of the same size; compare values at equal numbers of rows only.
    """
    reader = judge if samples.shape[-1] == 28 else judge8
    (mean, cov), (other, other_cov) = (
        moments(extract(rows.float(), reader().features, what="digits")) for rows in (samples, reference)
    )
    return frechet_distance(mean, cov, other, other_cov)


def real(splits: Splits, num: int, *, skip: int = 0) -> Tensor:
    """Return `num` real training digits from row `skip` on: the reference that samples are compared with.

    The training digits, since a model is asked to draw from what it saw, and the test digits are too few for a stable
    covariance; copying is measured by itself.
    """
    return splits.train.data[skip : skip + num]


def unconditional(splits: Splits) -> Splits:
    """Leave every condition out of the data."""

    def bare(part: Dataset) -> Dataset:
        return replace(part, conditions={}, present={}, labels={}, meta={**part.meta, "conditions": {}})

    return Splits(bare(splits.train), bare(splits.validation), bare(splits.test))


def floor(splits: Splits, num: int) -> float:
    """Measure the distance of `num` real digits to as many other real digits: no model can be asked for less."""
    return distance(real(splits, num, skip=num), real(splits, num))


def show(out: Path | None, name: str, digits: Tensor, facts: Mapping[str, Any], columns: int = 10) -> None:
    """Write digits as a grid PNG into `out`, if there is one."""
    if out is not None:
        side = round(digits[0].numel() ** 0.5)
        grid = mosaic(digits.reshape(-1, 1, side, side).clamp(-1.0, 1.0), columns)
        write_atomically(out / name, png_bytes(grid, facts))


def plot(out: Path | None, name: str, draw: Callable[[Any], None], size: tuple[float, float] = (6.0, 4.0)) -> None:
    """Write a chart into `out`, if there is one and matplotlib is installed (extra `[plot]`).

    Args:
        out: Folder.
        name: File name, `.png`.
        draw: Called with a matplotlib Figure to draw on.
        size: Inches.
    """
    if out is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(out / name, buffer.getvalue())
