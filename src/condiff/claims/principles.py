"""Does a flow map need fewer calls than the flow it was made from? Real digits, one network, an independent judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

from condiff.claims.claim import Result, Row, over_seeds
from condiff.claims.lab import Talk, built, distance, drawn, fitted, floor, plot, real, show
from condiff.core.system import System
from condiff.data import Splits, read
from condiff.objectives import Consistency, Denoising, Dropping
from condiff.process import EDM, Diagonal, FlowMap, Karras, LogNormalSigma, Preconditioned, UniformTime, Velocity
from condiff.recipes import principles
from condiff.solvers import Jump
from condiff.train.settings import Training

CLAIM = (
    "with 1, 2 and 4 network calls a MeanFlow map samples closer to real digits than flow matching of the same "
    "network, by a factor of at least 4, 3 and 2"
)
CALLS = (1, 2, 4, 8, 50)
FACTORS = {1: 4.0, 2: 3.0, 4: 2.0}
LOW, HIGH = (0.05, 5.0), (2.0, 200.0)
ALWAYS = {"label": 1.0}


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        steps: Training steps of every model.
        num_samples: Samples that a distance is measured on.
        num_seeds: Seeds of the map and of flow matching.
        extra: Are the map of high frequencies and consistency training run too, with the first seed?
        batch_size: Rows a step.
    """

    steps: int
    num_samples: int
    num_seeds: int
    extra: bool
    batch_size: int = 64


QUICK = Budget(steps=400, num_samples=1000, num_seeds=1, extra=False)
FULL = Budget(steps=1000, num_samples=3000, num_seeds=3, extra=True)


def run(*, quick: bool, seed: int, out: Path | None, talk: Callable[[str], None]) -> Result:
    """Train a map and two flows with each seed, and measure what each draws with few calls."""
    budget = QUICK if quick else FULL
    splits = read("digits8")
    settings = replace(principles.training, steps=budget.steps, batch_size=budget.batch_size)
    bench = Bench(splits, settings, budget.num_samples, talk)
    seeds = range(seed, seed + budget.num_seeds)
    found: dict[str, list[dict[int, float]]] = {}
    for number in seeds:
        jobs: dict[str, Callable[[int], System[Any, Any]]] = {
            "MeanFlow": bench.map_of,
            "flow matching": bench.flow_of,
            "flow matching, high frequencies": lambda number: bench.flow_of(number, *HIGH),
        }
        if budget.extra and number == seed:
            jobs["MeanFlow, high frequencies"] = lambda number: bench.map_of(number, *HIGH)
            jobs["consistency training"] = bench.consistency_of
        for name, job in jobs.items():
            system = job(number)
            found.setdefault(name, []).append(bench.measure(name, system, number))
            if number == seed and name in ("MeanFlow", "flow matching"):
                for calls in (1, 2):
                    digits, used = drawn(system, 60, seed=number, num_steps=calls, cond={})
                    bench.calls += used
                    facts = {"made_by": "condiff reproduce principles", "seed": number, "calls": calls}
                    show(out, f"{name.replace(' ', '_')}_{calls}.png", digits, facts)
    rows = list(table(found, budget.num_samples))
    rows.append(
        Row("real digits against other real digits (floor)", *_fixed(floor(splits, budget.num_samples), budget))
    )
    plot(out, "calls.png", lambda figure: _draw(figure, found))
    ratios = ", ".join(f"{row.value:.1f}" for row in rows[: len(FACTORS)])
    return Result(
        system="principles",
        claim=CLAIM,
        data=f"digits at 8x8, {budget.num_samples} samples against as many training digits in the judge's features, "
        f"{budget.steps} training steps, {len(seeds)} seed(s)",
        seed=seed,
        rows=rows,
        effect=f"the better flow is {ratios} times further from real digits than the map at 1, 2 and 4 calls",
        expected="at least 4, 3 and 2 times",
        holds=verdict(rows),
        calls=bench.calls,
    )


def table(found: dict[str, list[dict[int, float]]], num_samples: int) -> Sequence[Row]:
    """Turn distances by model, seed and number of calls into rows; the ratios to the better flow come first."""
    maps, flows = found["MeanFlow"], [found[name] for name in found if name.startswith("flow matching")]
    rows = []
    for calls in FACTORS:
        ratios = [min(flow[k][calls] for flow in flows) / maps[k][calls] for k in range(len(maps))]
        rows.append(over_seeds(f"better flow over MeanFlow, {_calls(calls)}", ratios, "", num_samples * len(ratios)))
    for name, seeds in found.items():
        for calls in seeds[0]:
            values = [seed[calls] for seed in seeds]
            rows.append(over_seeds(f"Frechet distance, {name}, {_calls(calls)}", values, "", num_samples * len(values)))
    return rows


def verdict(rows: Sequence[Row]) -> bool:
    """Tell whether the claim holds: every ratio reaches its factor, and is above 1 over its whole interval."""
    by_name = {row.name: row for row in rows}
    ratios = [(by_name[f"better flow over MeanFlow, {_calls(calls)}"], least) for calls, least in FACTORS.items()]
    return all(row.value >= least and row.interval[0] > 1.0 for row, least in ratios)


@final
@dataclass
class Bench:
    """Trains and measures; counts the calls that sampling made."""

    splits: Splits
    settings: Training
    num_samples: int
    talk: Talk
    calls: int = 0

    def untrained(self, seed: int, low: float, high: float) -> System[Any, Any]:
        """Build the recipe without classes: every label is dropped, so that one call must choose the digit too."""
        return built(principles, self.splits, seed=seed, low=low, high=high, drop=1.0)

    def map_of(self, seed: int, low: float = LOW[0], high: float = LOW[1]) -> System[Any, Any]:
        """Train a flow map by MeanFlow."""
        system = self.untrained(seed, low, high)
        return fitted(system, self.splits, self.settings, seed=seed, talk=self.talk)

    def flow_of(self, seed: int, low: float = LOW[0], high: float = LOW[1]) -> System[Any, Any]:
        """Train the same network by flow matching, at the same law of times; a step of Jump is then one of Euler."""
        system = self.untrained(seed, low, high)
        process = system.process.process
        flow = replace(
            system,
            process=process,
            denoiser=Diagonal(system.denoiser),
            objective=Dropping(Denoising(process, Velocity(), UniformTime()), ALWAYS),
        )
        return fitted(flow, self.splits, self.settings, seed=seed, talk=self.talk)

    def consistency_of(self, seed: int) -> System[Any, Any]:
        """Train the same network as a consistency model from data, sampled with fresh noise."""
        system = self.untrained(seed, *LOW)
        std = float(system.call.arguments["std"]) if system.call else 0.5
        process = system.process
        net = cast(Preconditioned, cast(FlowMap, system.denoiser).inner).net
        inner = Preconditioned(net, process.process, EDM(std), std)
        objective = Consistency(process, 40, Karras(7.0, 0.02, 20.0), LogNormalSigma(-0.5, 2.0), huber=0.03)
        other = replace(
            system,
            denoiser=FlowMap(inner, low=LOW[0], high=LOW[1]),
            objective=Dropping(objective, ALWAYS),
            solver=Jump(1.0),
        )
        return fitted(other, self.splits, self.settings, seed=seed, talk=self.talk)

    def measure(self, name: str, system: System[Any, Any], seed: int) -> dict[int, float]:
        """Draw with every number of calls and return the distances to real digits."""
        found = {}
        for calls in CALLS:
            digits, used = drawn(system, self.num_samples, seed=seed, num_steps=calls, cond={})
            self.calls += used
            found[calls] = distance(digits, real(self.splits, self.num_samples))
        self.talk(f"seed {seed}: {name}: " + ", ".join(f"{value:.1f} at {k}" for k, value in found.items()))
        return found


def _calls(calls: int) -> str:
    return f"{calls} call" if calls == 1 else f"{calls} calls"


def _fixed(value: float, budget: Budget) -> tuple[float, str, int, tuple[float, float]]:
    return value, "", budget.num_samples, (value, value)


def _draw(figure: Any, found: dict[str, list[dict[int, float]]]) -> None:  # noqa: ANN401 - a matplotlib figure
    axes = figure.subplots()
    for name, seeds in found.items():
        axes.plot(CALLS, [sum(seed[k] for seed in seeds) / len(seeds) for k in CALLS], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Frechet distance to real digits")
    axes.set_xticks(CALLS, [str(k) for k in CALLS])
    axes.legend()
