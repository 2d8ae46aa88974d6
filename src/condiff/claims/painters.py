"""Can the first sampling steps be one exact jump of the data's Gaussian? Real digits, a trained EDM-type network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from condiff.claims.claim import Result, Row, over_seeds
from condiff.claims.lab import distance, drawn, floor, plot, real, show, trained, unconditional
from condiff.core.drivers import trajectory
from condiff.core.rng import RowRng, SharedRng
from condiff.core.system import System
from condiff.data import Splits, read
from condiff.evaluate import commitment, explained_variance, judge8, precision, recall
from condiff.oracles import DataSetIdeal, Fitted, GaussianData, MixtureData
from condiff.recipes import painters
from condiff.solvers import Teleport

CLAIM = "an exact Gaussian jump replaces at least 25 % of the network calls of an EDM sampler at equal quality"
SAVING = 6
"""The skip of the verdict: 23 of 35 calls are left, 34 % saved."""
NAIVE = 7
"""The skip at which a start from plain noise must be worse."""
KAPPAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        num_seeds: Seeds.
        steps: Training steps a seed.
        num_samples: Samples a seed and skip.
        skips: How many of the 17 steps are skipped.
        num_noised: Held-out digits whose scores are compared, and trajectories that are followed.
    """

    num_seeds: int
    steps: int
    num_samples: int
    skips: tuple[int, ...]
    num_noised: int = 400


QUICK = Budget(num_seeds=1, steps=1200, num_samples=800, skips=(6, 7, 9))
FULL = Budget(num_seeds=3, steps=3000, num_samples=3000, skips=(4, 5, 6, 7, 8, 9, 10))


@final
@dataclass
class Found:
    """Measurements by name, one number a seed."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a seed's number."""
        self.values.setdefault(name, []).append(value)


def run(*, quick: bool, seed: int, out: Path | None, talk: Callable[[str], None]) -> Result:
    """Train with each seed, sample whole, teleported and from plain noise, and compare."""
    budget = QUICK if quick else FULL
    splits = unconditional(read("digits8"))
    seeds = range(seed, seed + budget.num_seeds)
    found, calls = Found(), 0
    for number in seeds:
        settings = replace(painters.training, steps=budget.steps)
        system = trained(painters, splits, seed=number, talk=talk, settings=settings)
        calls += _starts(system, splits, budget, number, found, out if number == seed else None, talk)
        _anatomy(system, splits, budget.num_noised, number, found)
    num = budget.num_samples
    rows = [over_seeds(name, values, "", num * len(values)) for name, values in found.values.items()]
    rows.append(over_seeds("FD of real digits to real digits (floor)", [floor(splits, num)], "", num))
    _draw(rows, budget.skips, out)
    value = {row.name: row.value for row in rows}
    naive = value[f"FD plain noise, skip {NAIVE}"], value[f"FD teleport, skip {NAIVE}"]
    return Result(
        system="painters",
        claim=CLAIM,
        data=f"bundled digits at 8x8, {len(splits.train)} for training, {budget.steps} steps a seed, "
        f"{len(seeds)} seed(s), {num} samples each",
        seed=seed,
        rows=rows,
        effect=f"{value[f'calls, skip {SAVING}']:.0f} instead of {value['calls, whole run']:.0f} calls: FD "
        f"{value[f'FD teleport, skip {SAVING}']:.2f} instead of {value['FD, whole run']:.2f}; at skip {NAIVE} "
        f"{naive[0]:.2f} from plain noise and {naive[1]:.2f} teleported",
        expected=f"FD within 5 % and precision and recall within 0.02 at skip {SAVING} (34 % of calls saved), plain "
        f"noise at least 30 % worse than the whole run at skip {NAIVE}, and the Gaussian explains over 99 % of the "
        "score from sigma 2 on",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: Sequence[Row]) -> bool:
    """Tell whether calls are saved at equal quality, the jump is what saves them, and the score is Gaussian there."""
    value = {row.name: row.value for row in rows}
    whole = value["FD, whole run"]
    return (
        value[f"calls, skip {SAVING}"] <= 0.75 * value["calls, whole run"]
        and value[f"FD teleport, skip {SAVING}"] <= 1.05 * whole
        and abs(value[f"precision, skip {SAVING}"] - value["precision, whole run"]) <= 0.02
        and abs(value[f"recall, skip {SAVING}"] - value["recall, whole run"]) <= 0.02
        and value[f"FD plain noise, skip {NAIVE}"] >= 1.3 * whole
        and all(value[f"score explained by the Gaussian, sigma {kappa:g}"] > 0.99 for kappa in KAPPAS if kappa >= 2.0)
    )


def started(system: System[Any, Any], skip: int, known: GaussianData) -> System[Any, Any]:
    """Return the system with the first `skip` steps of its grid replaced by a closed form."""
    until = float(system.grid(system.num_steps)[skip])
    return replace(system, solver=Teleport(known, until, _below(system)))


def _below(system: System[Any, Any]) -> Any:  # noqa: ANN401 - the recipe's own solver
    return cast(Teleport, system.solver).solver


def plain_noise(law: GaussianData) -> GaussianData:
    """Return the law of data without mean and variance: its flow only rescales the noise."""
    return replace(law, mean=torch.zeros_like(law.mean), variances=torch.zeros_like(law.variances), rest=0.0)


def _starts(
    system: System[Any, Any],
    splits: Splits,
    budget: Budget,
    seed: int,
    found: Found,
    out: Path | None,
    talk: Callable[[str], None],
) -> int:
    law, reference = cast(Fitted, system.denoiser).law, real(splits, budget.num_samples)
    whole, calls = drawn(started(system, 0, law), budget.num_samples, seed=seed)
    total = calls

    def quality(samples: Tensor, name: str) -> None:
        pair = samples[:1000], reference[:1000]
        found.add(f"precision, {name}", precision(*pair, features=judge8().features).value)
        found.add(f"recall, {name}", recall(*pair, features=judge8().features).value)

    found.add("calls, whole run", calls)
    found.add("FD, whole run", distance(whole, reference))
    quality(whole, "whole run")
    for skip in budget.skips:
        ends: dict[str, Tensor] = {}
        for name, known in (("teleport", law), ("plain noise", plain_noise(law))):
            ends[name], calls = drawn(started(system, skip, known), budget.num_samples, seed=seed)
            total += calls
            found.add(f"FD {name}, skip {skip}", distance(ends[name], reference))
            found.add(f"RMS to the whole run, {name}, skip {skip}", float((ends[name] - whole).square().mean().sqrt()))
        found.add(f"calls, skip {skip}", calls)
        tele, naive, full = (
            found.values[name][-1]
            for name in (f"FD teleport, skip {skip}", f"FD plain noise, skip {skip}", "FD, whole run")
        )
        talk(f"seed {seed}: skip {skip}, {calls} calls: FD {tele:.2f}, plain noise {naive:.2f}, whole run {full:.2f}")
        if skip == SAVING:
            quality(ends["teleport"], f"skip {skip}")
        facts = {"made_by": "condiff reproduce painters", "seed": seed, "skip": skip}
        if skip == max(budget.skips):
            show(out, "teleport.png", ends["teleport"][:40], facts)
            show(out, "plain_noise.png", ends["plain noise"][:40], facts)
    show(out, "whole.png", whole[:40], {"made_by": "condiff reproduce painters", "seed": seed})
    alone = system.codec.decode(law.sample(budget.num_samples, rng=SharedRng(seed, "gaussian")))
    found.add("FD of samples of the Gaussian alone", distance(alone, reference))
    quality(alone, "the Gaussian alone")
    return total


@torch.no_grad()
def _anatomy(system: System[Any, Any], splits: Splits, num: int, seed: int, found: Found) -> None:
    """Measure how much of the learned score closed forms explain, and the order in which features commit."""
    train, test = (system.codec.encode(part.data) for part in (splits.train, splits.test))
    law, process = cast(Fitted, system.denoiser).law, system.process
    classes = read("digits8").train.conditions["label"]
    forms: Mapping[str, Any] = {
        "the Gaussian": law,
        "ten Gaussians by class": MixtureData.fit(process, train, classes),
        "the training digits": DataSetIdeal(process, train),
    }
    for name, form in forms.items():
        curve = explained_variance(system.denoiser, form, process, test[:num], KAPPAS, rng=SharedRng(seed, "anatomy"))
        for point in curve:
            found.add(f"score explained by {name}, sigma {point.kappa:g}", point.score)
            if form is law:
                found.add(f"data estimate explained by {name}, sigma {point.kappa:g}", point.data)
    grid, rng = system.grid(60), RowRng(seed, range(num))
    x = process.start((num, *system.shape), rng=rng)
    states = [s.x for s in trajectory(process, system.denoiser, _below(system), x, grid, rng=rng)]
    estimates = torch.stack([system.denoiser(x, t, None).parts["data"] for x, t in zip(states, grid, strict=True)])
    kappas = torch.as_tensor(process.schedule(grid)[1])
    kept = law.variances > 0.01 * law.variances.max()
    levels = commitment(estimates, kappas, law.basis[:, kept], law.mean)
    predicted = law.emergence()[kept].to(levels)
    found.add("rank correlation of commitment and sqrt(variance)", _rank_correlation(levels, predicted))
    found.add("median ratio of commitment noise to sqrt(variance)", float((levels / predicted).median()))


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([value.argsort().argsort().double() for value in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _draw(rows: Sequence[Row], skips: Sequence[int], out: Path | None) -> None:
    value = {row.name: row.value for row in rows}

    def chart(figure: Any) -> None:  # noqa: ANN401 - matplotlib is optional
        left, right = figure.subplots(1, 2)
        for name in ("teleport", "plain noise"):
            left.plot(skips, [value[f"FD {name}, skip {skip}"] for skip in skips], "o-", label=name)
        left.axhline(value["FD, whole run"], color="grey", label="whole run, 35 calls")
        left.set(xlabel="steps skipped of 17", ylabel="Fréchet distance", yscale="log")
        left.legend()
        for name in ("the Gaussian", "ten Gaussians by class", "the training digits"):
            shares = [value[f"score explained by {name}, sigma {kappa:g}"] for kappa in KAPPAS]
            right.plot(KAPPAS, shares, "o-", label=name)
        right.set(xlabel="sigma", ylabel="share of the learned score explained", xscale="log", ylim=(-0.2, 1.05))
        right.legend()

    plot(out, "painters.png", chart, (9.0, 3.6))
