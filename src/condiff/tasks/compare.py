"""Comparing solvers on one system: quality against network calls, and which to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.codecs import Identity
from condiff.core.condition import Condition
from condiff.core.drivers import trajectory
from condiff.core.rng import RowRng
from condiff.core.shapes import instant
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.evaluate.distances import frechet
from condiff.evaluate.metric import Metric, mean_interval
from condiff.objectives import Denoising
from condiff.oracles import MixtureData, endpoints, patches, ring
from condiff.process import Data, FlowTime, Gaussian, LogLinear, LogSNR, Times
from condiff.process.grid import Grid
from condiff.process.schedule import Flow
from condiff.solvers import Adams, FirstHitting, Ordered, TokenEuler
from condiff.tasks.generate import SOLVERS, batches, condition_of, solver_named

CALLS = (5, 10, 20, 50)
"""Numbers of network calls at which solvers are compared."""

OWN = "the system's own"
"""Name of the solver that the system was built with, when it is none of those with a name."""

TOKENS = (FirstHitting, Ordered, TokenEuler)
"""Solvers for tokens, which have no end point to be near and no distance."""

Features = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True)
class Truth:
    """What samples are compared with.

    Args:
        ends: End point of the flow from each sample's own noise, (N, *S) in data space, or None.
        error: How far `ends` itself may be off, root mean square in units of its spread.
        reference: Rows that samples should be distributed like, (M, *S).
        features: Feature function of the distance between the two.
        definition: What the features are.
        what: What the reference rows are.
    """

    ends: Tensor | None
    error: float
    reference: Tensor
    features: Features
    definition: str
    what: str


@final
@dataclass(frozen=True)
class Point:
    """One solver at one number of network calls.

    Args:
        solver: Its name.
        budget: Calls that were allowed.
        calls: Calls that were made, for each batch.
        num_steps: Steps they bought.
        stochastic: Does it draw noise on its way? Then it has no end point to compare.
        error: Root mean square distance to the end point of the flow, in units of the end points' spread.
        distance: Frechet distance to the reference rows.
    """

    solver: str
    budget: int
    calls: int
    num_steps: int
    stochastic: bool
    error: Metric | None
    distance: Metric

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "solver": self.solver,
            "budget": self.budget,
            "calls": self.calls,
            "num_steps": self.num_steps,
            "stochastic": self.stochastic,
            "error": self.error.to_json() if self.error else None,
            "distance": self.distance.to_json(),
        }


@final
@dataclass(frozen=True)
class Comparison:
    """Every solver at every number of calls, and what to use.

    Args:
        points: What was measured.
        left_out: Why a solver, or a solver at a number of calls, is not among them, by name.
        floor: Distance of the flow's own end points to the reference; None where there are none.
        recommended: The fewest calls whose samples are as good as the best, as far as these samples can tell.
        accurate: The smallest error to the flow, for inversion and editing; None if no solver has one.
        why: The recommendation in words, with its evidence.
    """

    points: tuple[Point, ...]
    left_out: Mapping[str, str]
    floor: Metric | None
    recommended: Point
    accurate: Point | None
    why: str


def candidates(system: System[Any, Any], names: Iterable[str] | None = None) -> dict[str, Solver[Any, Any]]:
    """List solvers of continuous states by name: those asked for, or all that have a name and the system's own.

    Raises:
        ValueError: If a name is unknown.
    """
    found = {name: solver_named(name) for name in (SOLVERS if names is None else names)}
    if names is None:
        found = {name: solver for name, solver in found.items() if not isinstance(solver, TOKENS)}
    if names is None and system.solver not in found.values():
        found[OWN] = system.solver
    return found


def costs(
    system: System[Any, Any], solver: Solver[Any, Any] | str | None, device: torch.device | str = "cpu"
) -> tuple[int, int]:
    """Measure the calls of a solver on this system, its own if None, as (calls at 2 steps, calls of each further step).

    Raises:
        TypeError, ValueError: If the solver does not suit the system's process.
    """
    two, four = (
        next(iter(batches(system, num_samples=1, num_steps=steps, solver=solver, device=device)))[1] for steps in (2, 4)
    )
    return two, (four - two) // 2


def steps_for(cost: tuple[int, int], calls: int) -> int:
    """Return the most steps, >= 2, that a number of calls buys; 0 if it buys fewer than 2."""
    two, each = cost
    return 0 if calls < two else 2 + (calls - two) // max(each, 1)


@torch.no_grad()
def is_stochastic(system: System[Any, Any], solver: Solver[Any, Any], device: torch.device | str = "cpu") -> bool:
    """Tell whether a solver draws noise on its way: two streams, one start."""
    cond = condition_of(system, None, range(1))
    cond = None if cond is None else cond.to(device)
    x = system.process.start((1, *system.shape), rng=RowRng(0, [0], device=device))
    ends = []
    for seed in (1, 2):
        *_, last = trajectory(
            system.process, system.denoiser, solver, x, system.grid(2), cond=cond, rng=RowRng(seed, [0], device=device)
        )
        ends.append(last.x)
    return not torch.equal(*ends)


def fine_ends(
    system: System[Any, Any],
    num_samples: int,
    num_steps: int,
    talk: Callable[[str], None],
    **drawing: Any,  # noqa: ANN401 - as `batches`
) -> tuple[Tensor, float]:
    """Solve the flow finely from each sample's noise with Adams' method of order 3: end points, and their error.

    The error is the distance to the solution with half as many steps, over the end points' spread: an upper bound
    while the method converges.
    """
    talk(f"solving the flow of {num_samples} samples in {num_steps} and {num_steps // 2} steps")
    fine, half = (
        _draw(system, Adams(3), num_samples, steps, **drawing)[0] for steps in (num_steps, max(num_steps // 2, 2))
    )
    return fine, float((fine - half).square().mean().sqrt() / spread(fine))


def spread(rows: Tensor) -> Tensor:
    """Return the root mean square distance of rows (N, *S) from their mean."""
    return (rows - rows.mean(0)).square().mean().sqrt()


def _draw(
    system: System[Any, Any],
    solver: Solver[Any, Any],
    num_samples: int,
    num_steps: int,
    **drawing: Any,  # noqa: ANN401 - as `batches`
) -> tuple[Tensor, int]:
    parts = list(batches(system, num_samples=num_samples, num_steps=num_steps, solver=solver, **drawing))
    return torch.cat([part for part, _ in parts]), max(calls for _, calls in parts)


def compare(
    system: System[Any, Any],
    truth: Truth,
    *,
    num_samples: int,
    calls: Sequence[int] = CALLS,
    solvers: Mapping[str, Solver[Any, Any]] | None = None,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    talk: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measure every solver that suits a system at equal numbers of network calls.

    Args:
        system: A trained or exact system.
        truth: What samples are compared with; its end points are those of the same seed and condition.
        num_samples: Samples for each number, >= 10.
        calls: Numbers of network calls, each >= 1.
        solvers: Solvers by name; all of them if None.
        cond, guidance_scale, seed, batch_size, device: As for `sample`.
        talk: Told what is going on.

    Raises:
        ValueError: If no solver suits the system.
    """
    points: list[Point] = []
    left_out: dict[str, str] = {}
    drawing = {
        "cond": cond,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
    }
    for name, solver in (solvers or candidates(system)).items():
        try:
            cost, noisy = costs(system, solver, device), is_stochastic(system, solver, device)
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # a pairing the process refuses
            left_out[name] = " ".join(str(error).split())
            continue
        for budget in calls:
            steps = steps_for(cost, budget)
            if steps == 0:
                left_out[f"{name} at {budget} calls"] = f"two steps take {cost[0]} calls"
                continue
            samples, used = _draw(system, solver, num_samples, steps, **drawing)
            if not bool(samples.isfinite().all()):
                left_out[f"{name} at {budget} calls"] = "its samples are not finite"
                continue
            point = _judge(samples, truth, name, budget, used, steps, noisy, seed)
            talk(f"{name} at {used} calls: {_said(point)}")
            points.append(point)
    if not points:
        raise ValueError(f"no solver suits this system: {left_out}")
    floor = None if truth.ends is None else _distance(truth.ends, truth, seed)
    return Comparison(tuple(points), left_out, floor, *recommend(points, truth.what))


def _judge(
    samples: Tensor, truth: Truth, name: str, budget: int, used: int, steps: int, noisy: bool, seed: int
) -> Point:
    error = None
    if truth.ends is not None and not noisy:
        unit = float(spread(truth.ends))
        squares = ((samples - truth.ends) / unit).double().square().flatten(1).mean(1)
        low, high = mean_interval(squares, seed=seed, name="error")
        error = Metric(
            name="error",
            value=float(squares.mean().sqrt()),
            interval=(math.sqrt(max(low, 0.0)), math.sqrt(high)),
            n=len(samples),
            definition="root mean square distance to the end point of the flow from the same noise, over the end "
            "points' root mean square distance from their mean; percentile bootstrap over samples",
            unit="spreads",
            seed=seed,
        )
    return Point(name, budget, used, steps, noisy, error, _distance(samples, truth, seed))


def _distance(samples: Tensor, truth: Truth, seed: int) -> Metric:
    return frechet(
        samples.float(), truth.reference.float(), features=truth.features, definition=truth.definition, seed=seed,
        num_resamples=40,
    )  # fmt: skip


def recommend(points: Sequence[Point], what: str) -> tuple[Point, Point | None, str]:
    """Choose the fewest calls whose distance lies within the best one's interval, and the smallest error.

    Returns: The recommended point, the most accurate one (None if none has an error), and the reason in words.
    """
    best = min(points, key=lambda point: point.distance.value)
    good = [point for point in points if point.distance.value <= best.distance.interval[1]]
    least = min(point.calls for point in good)
    chosen = min((point for point in good if point.calls == least), key=lambda point: point.distance.value)
    exact = [point for point in points if point.error is not None]
    accurate = min(exact, key=lambda point: point.error.value if point.error else math.inf) if exact else None
    why = (
        f"{chosen.solver} with {chosen.num_steps} steps ({chosen.calls} calls): Frechet distance to {what} "
        f"{_interval(chosen.distance)}; the best of all is {_interval(best.distance)} by {best.solver} at {best.calls} "
        f"calls, and nothing with fewer calls lies within its interval"
    )
    if accurate is not None and accurate.error is not None:
        why += (
            f"; closest to the flow itself, as inversion and editing need, is {accurate.solver} at {accurate.calls} "
            f"calls, {_interval(accurate.error)} spreads away"
        )
    return chosen, accurate, why


def _interval(metric: Metric) -> str:
    low, high = metric.interval
    return f"{metric.value:.3g} ({low:.3g} to {high:.3g})"


def _said(point: Point) -> str:
    error = f"error {point.error.value:.3g}, " if point.error else ""
    return f"{error}distance {point.distance.value:.3g}"


def exact_systems() -> dict[str, tuple[System[Any, Any], MixtureData]]:
    """Build the exact targets as systems: two mixtures, each on the straight flow and on EDM's noise levels."""
    ways: dict[str, tuple[Gaussian, Grid]] = {
        "flow": (Gaussian(Flow()), FlowTime(0.5)),
        "EDM": (Gaussian(LogLinear.edm()), LogSNR()),
    }
    made: dict[str, tuple[System[Any, Any], MixtureData]] = {}
    for name, build in (("2-D mixture", ring), ("64-D mixture", patches)):
        for way, (process, grid) in ways.items():
            target = build(process)
            system: System[Any, Any] = System(
                process, target, Denoising(process, Data()), Adams(3), Identity(), Times(grid, process.schedule),
                tuple(target.components[0].mean.shape),
            )  # fmt: skip
            made[f"{name}, {way}"] = (system, target)
    return made


def exact_truth(target: MixtureData, num_samples: int, *, seed: int = 0, steps: int = 200) -> Truth:
    """Return the exact end points from the noise of a seed, and as many draws of the target, for `compare`."""
    shape = (num_samples, *target.components[0].mean.shape)
    start = target.process.start(shape, rng=RowRng(seed, range(num_samples)))
    ends = endpoints(target, start, instant(1.0), steps)
    half = endpoints(target, start, instant(1.0), steps // 2)
    drawn = target.sample(4 * num_samples, rng=RowRng(seed + 1, range(4 * num_samples), dtype=torch.float64))
    return Truth(
        ends=ends,
        error=float((ends - half).square().mean().sqrt() / spread(ends)),
        reference=drawn,
        features=lambda x: x.double(),
        definition="the values themselves",
        what="exact draws",
    )
