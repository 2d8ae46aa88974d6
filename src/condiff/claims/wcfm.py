"""Does weighing pairs straighten a flow? W-CFM beside independent, transported and entropic pairs, on real digits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from condiff.claims.claim import Result, Row, over_seeds
from condiff.claims.lab import Talk, distance, drawn, floor, plot, real, show, trained
from condiff.core.drivers import trajectory
from condiff.core.rng import RowRng, SharedRng
from condiff.core.system import System
from condiff.data import Splits, read
from condiff.evaluate import effective_size, path_metrics, tilt
from condiff.process import Coupling, Gibbs, MinibatchOT, Sinkhorn, pair_cost
from condiff.recipes import wcfm
from condiff.solvers import Euler
from condiff.tasks.generate import condition_of

CLAIM = "weighing pairs (kappa 0.1) betters 4-step samples and straightens paths by 15 %, and keeps 50-step samples"
PLAIN, OURS, NEAREST, EXACT = "independent", "W-CFM kappa 0.1", "W-CFM eps 0.3", "OT in 128"
METHODS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"coupling": "independent"},
    "W-CFM kappa 0.3": {"kappa": 0.3},
    OURS: {"kappa": 0.1},
    NEAREST: {"eps": 0.3},
    EXACT: {"coupling": "ot", "chunk": 128, "rounds": 1},
    "OT in 16": {"coupling": "ot", "chunk": 16, "rounds": 1},
    "Sinkhorn": {"coupling": "sinkhorn", "chunk": 128},
}
STEPS = (2, 4, 8, 50)
COUPLINGS: Mapping[str, Coupling] = {
    "W-CFM": Gibbs.scaled(0.1, 64),
    "OT in 256, two rounds": MinibatchOT(),
    "OT of the batch": MinibatchOT(None),
    "Sinkhorn": Sinkhorn(2.0),
}


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        steps: Training steps a model.
        num_samples: Samples a setting.
        num_seeds: Seeds.
        sizes: Batch sizes at which couplings are timed.
        methods: Names of the couplings that are trained, of METHODS.
    """

    steps: int
    num_samples: int
    num_seeds: int
    sizes: tuple[int, ...]
    methods: tuple[str, ...] = tuple(METHODS)


QUICK = Budget(steps=400, num_samples=800, num_seeds=1, sizes=(128, 512), methods=(PLAIN, OURS, EXACT))
FULL = Budget(steps=1200, num_samples=2000, num_seeds=3, sizes=(128, 512, 2048, 4096))


def run(*, quick: bool, seed: int, out: Path | None, talk: Talk) -> Result:
    """Train one unconditional model a coupling and seed; measure few-step quality, paths, weights and price."""
    budget = QUICK if quick else FULL
    splits = read("digits8")
    num, seeds = budget.num_samples, range(seed, seed + budget.num_seeds)
    found: dict[str, list[float]] = {}
    calls = 0
    for number in seeds:
        for method in budget.methods:
            options = METHODS[method]
            settings = replace(wcfm.training, steps=budget.steps)
            # Always dropped: the label is no part of this experiment.
            system = trained(wcfm, splits, seed=number, talk=talk, settings=settings, drop=1.0, **options)
            for steps in STEPS[:-1]:
                samples, used = drawn(system, num, seed=number, cond={}, num_steps=steps)
                calls += used * -(-num // 500)
                found.setdefault(f"FD, {steps} steps, {method}", []).append(distance(samples, real(splits, num)))
                if number == seed and steps == 4:
                    facts = {"made_by": "condiff reproduce wcfm", "seed": number, "coupling": method, "num_steps": 4}
                    show(out, f"{method.replace(' ', '_')}_4_steps.png", samples[:50], facts)
            samples, paths = _paths(system, num, number)
            calls += STEPS[-1]
            found.setdefault(f"FD, {STEPS[-1]} steps, {method}", []).append(distance(samples, real(splits, num)))
            for name, value in paths.items():
                found.setdefault(f"{name}, {method}", []).append(value)
            for name, value in _pairs(system, splits, number).items():
                found.setdefault(f"{name}, {method}", []).append(value)
            own = {name.removesuffix(f", {method}"): v[-1] for name, v in found.items() if name.endswith(f", {method}")}
            last = ", ".join(f"{name} {value:.3g}" for name, value in own.items())
            talk(f"seed {number}, {method}: {last}")
    rows = [over_seeds(name, values, "", num * len(seeds)) for name, values in found.items()]
    least = floor(splits, num)
    rows.append(Row("FD, real digits to other real digits", least, "", num, (least, least)))
    rows += _prices(splits, budget.sizes)
    plot(out, "steps.png", lambda figure: _chart(figure, rows))
    at = {row.name: row.value for row in rows}
    few, bend, many = "FD, 4 steps", "curvature", "FD, 50 steps"
    gains = {name: 100.0 * (1.0 - at[f"{name}, {OURS}"] / at[f"{name}, {PLAIN}"]) for name in (few, bend)}
    reach = "reaches" if at[f"{few}, {OURS}"] <= at[f"{few}, {EXACT}"] else "does not reach"
    return Result(
        system="wcfm",
        claim=CLAIM,
        data=f"bundled MNIST digits at 8x8 without labels, {len(splits.train)} for training, {budget.steps} steps a "
        f"model, {len(seeds)} seed(s), {num} samples a setting",
        seed=seed,
        rows=rows,
        effect=f"4 steps: Frechet distance {at[f'{few}, {PLAIN}']:.2f} plain, {at[f'{few}, {OURS}']:.2f} weighed "
        f"({-gains[few]:+.0f} %), curvature {-gains[bend]:+.0f} %, 50 steps {at[f'{many}, {PLAIN}']:.2f} and "
        f"{at[f'{many}, {OURS}']:.2f}; at 4 steps it {reach} OT ({at[f'{few}, {EXACT}']:.2f})",
        expected="4 steps at least 15 % better, curvature at least 15 % lower, 50 steps at most 30 % worse",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: list[Row]) -> bool:
    """Tell whether the claim holds: few steps better, paths straighter, many steps not much worse."""
    at = {row.name: row.value for row in rows}
    better = at[f"FD, 4 steps, {OURS}"] <= 0.85 * at[f"FD, 4 steps, {PLAIN}"]
    straighter = at[f"curvature, {OURS}"] <= 0.85 * at[f"curvature, {PLAIN}"]
    kept = at[f"FD, 50 steps, {OURS}"] <= 1.3 * at[f"FD, 50 steps, {PLAIN}"]
    return better and straighter and kept


def _paths(system: System[Any, Any], num: int, seed: int) -> tuple[Tensor, dict[str, float]]:
    """Draw samples by 50 Euler steps, and measure the paths they took."""
    cond = condition_of(system, {}, range(num))
    rng = RowRng(seed, range(num))
    grid = system.grid(STEPS[-1])
    x = system.process.start((num, *system.shape), rng=rng)
    solver: Any = Euler()
    steps = trajectory(system.process, system.denoiser, solver, x, grid, cond=cond, rng=rng)
    states = [state.x for state in steps]
    metrics = {metric.name: metric.value for metric in path_metrics(states, grid, seed=seed)}
    named = {"energy": metrics["path_energy"], "curvature": metrics["path_curvature"]}
    return system.codec.decode(states[-1], cond), named


def _pairs(system: System[Any, Any], splits: Splits, seed: int, num: int = 4096) -> dict[str, float]:
    """Measure what the coupling of a system does to pairs: cost, and effective size and tilt of its weights."""
    data = splits.train.data[:num].flatten(1).float()
    rng = SharedRng(seed, "pairs")
    coupling = cast(Any, system.objective).inner.coupling  # of Dropping(Coupled(...))
    noise, weight = coupling.couple(data, rng.normal(data.shape), None, rng=rng)
    weight = torch.ones(len(data)) if weight is None else weight
    cost = float((weight * pair_cost(data, noise)).sum() / weight.sum())
    return {"pair cost": cost, "effective size": effective_size(weight), "tilt": tilt(weight, data)}


def _prices(splits: Splits, sizes: tuple[int, ...]) -> list[Row]:
    """Time each coupling on batches of digits: CPU milliseconds a batch, median of three (large ones once)."""
    rows = []
    for name, coupling in COUPLINGS.items():
        for size in sizes:
            data = splits.train.data[:size].flatten(1).float()
            readings = []
            for k in range(3 if size <= 512 else 1):
                rng = SharedRng(k, "price")
                noise = rng.normal(data.shape)
                begin = time.process_time()
                coupling.couple(data, noise, None, rng=rng)
                readings.append(1e3 * (time.process_time() - begin))
            value = statistics.median(readings)
            rows.append(Row(f"price, batch {size}, {name}", value, "ms", len(readings), (min(readings), max(readings))))
    return rows


def _chart(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib is an extra
    at = {row.name: row.value for row in rows}
    axes = figure.subplots()
    for method in (name for name in METHODS if f"FD, 4 steps, {name}" in at):
        axes.plot(STEPS, [at[f"FD, {steps} steps, {method}"] for steps in STEPS], marker="o", label=method)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axes.set_xlabel("Euler steps")
    axes.set_ylabel("Frechet distance (lower is better)")
    axes.legend()
