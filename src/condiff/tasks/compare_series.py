"""How good forecasts are for how many calls: solvers, steps and scales of a system on the validation part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from condiff.core.system import System
from condiff.data.tracks import Tracks
from condiff.data.windows import origins
from condiff.evaluate.metric import Metric
from condiff.evaluate.series import Score, band_coverage, weighted_quantile_loss
from condiff.tasks.compare import CALLS, costs, steps_for
from condiff.tasks.compare_text import OWN
from condiff.tasks.forecast import Backtest, Trained, backtest, window_of
from condiff.tasks.generate import SOLVERS, guides, solver_named, suits

FACTORS = (0.0625, 0.25, 1.0, 4.0, 16.0)
"""Scales that are tried where a system guides itself, in units of its own."""

TIED = 0.02
"""Losses this much above the least one count as equal to it."""


@final
@dataclass(frozen=True)
class SeriesPoint:
    """One way of forecasting.

    Args:
        solver: Its name.
        calls: Network calls of a draw.
        steps: Its steps.
        scale: How strongly a system that guides itself is pulled to what is known; None for others.
        score: Weighted quantile loss, window by window.
        cover: Share of true values within the 90 % band.
        seed: Names the resampling of intervals.
    """

    solver: str
    calls: int
    steps: int
    scale: float | None
    score: Score
    cover: Metric
    seed: int = 0

    @property
    def loss(self) -> Metric:
        """The loss with its interval over windows."""
        return self.score.metric(seed=self.seed)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "solver": self.solver,
            "calls": self.calls,
            "steps": self.steps,
            "scale": self.scale,
            "weighted_quantile_loss": self.loss.to_json(),
            "coverage_90": self.cover.to_json(),
        }


def series_quality(
    system: System[Any, Any],
    tracks: Tracks,
    *,
    calls: Sequence[int] | None = None,
    solvers: Sequence[str] | None = None,
    scales: Sequence[float] | None = None,
    most: int = 24,
    num_samples: int = 16,
    seed: int = 0,
    talk: Callable[[str], None] = lambda text: None,
) -> tuple[list[SeriesPoint], Backtest]:
    """Forecast the validation windows with every solver and number of calls, or scale where a system guides itself.

    The test part stays unseen, so that what is chosen here may be judged there.

    Args:
        system: A system that forecasts.
        tracks: Its series.
        calls: Numbers of calls of a draw; `CALLS` and the system's own, or its own alone where scales are compared, if
            None.
        solvers: Names, "own" being the system's; all that suit and its own if None. A system that guides itself has its
            own alone.
        scales: How strongly it is pulled; `FACTORS` times its own if None.
        most: At most so many windows, evenly spread.
        num_samples: Draws of a window.
        seed: Names the draws.
        talk: Told every point.

    Returns: The points, and the windows.

    Raises:
        ValueError: If a solver does not suit, scales are asked of a system that does not guide itself, there is no
            window, or no number of calls is enough for two steps.
    """
    window = window_of(system)
    test = backtest(tracks, window.horizon, origins(tracks.tracks, window, 1), most=most)
    points = []
    for name, way in _ways(system, solvers, scales):
        cost = costs(system, way.solver)
        for steps in _steps(way, cost, calls):
            used = cost[0] + (steps - 2) * cost[1]
            try:
                draws = replace(way, num_steps=steps)(test.tracks, window.horizon, num_samples=num_samples, seed=seed)
            except RuntimeError as error:
                talk(f"{name} at {used} calls is left out: {error}")
                continue
            score, cover = weighted_quantile_loss(draws, test.truth), band_coverage(draws, test.truth, 0.9)
            points.append(SeriesPoint(name, used, steps, way.guidance_scale, score, cover.metric(seed=seed), seed))
            scale = "" if way.guidance_scale is None else f", scale {way.guidance_scale:g}"
            talk(f"{name} at {used} calls{scale}: loss {score.value:.4g}, {cover.value:.0%} in the 90 % band")
    if not points:
        raise ValueError(
            f"nothing to compare: no solver makes two steps of {', '.join(map(str, calls or CALLS))} calls"
        )
    return points, test


def _ways(
    system: System[Any, Any], solvers: Sequence[str] | None, scales: Sequence[float] | None
) -> Iterator[tuple[str, Trained]]:
    """List what is compared, by the name of its solver."""
    if guides(system.solver):
        if solvers is not None and list(solvers) != [OWN]:
            raise ValueError(
                f"this system is guided by its own solver, {type(system.solver).__name__}; leave --solvers out"
            )
        own = float(getattr(system.solver, "scale", 0.0)) or 1.0
        for scale in scales or [factor * own for factor in FACTORS]:
            yield OWN, Trained(system, guidance_scale=scale)
        return
    if scales is not None:
        raise ValueError("this system does not guide itself, so there is no scale to choose; leave --scales out")
    names = solvers or [name for name, build in SOLVERS.items() if suits(build(), system.process)]
    for name in names:
        if name != OWN:
            yield name, Trained(system, solver=name)
    if OWN in names or (solvers is None and system.solver not in [solver_named(name) for name in names]):
        yield OWN, Trained(system)


def _steps(way: Trained, cost: tuple[int, int], calls: Sequence[int] | None) -> list[int]:
    """List the steps of a way: those that numbers of calls buy, and its system's own if none are asked for."""
    own = way.system.num_steps
    if calls is None and way.guidance_scale is not None:
        return [own]
    bought = {steps for n in calls or CALLS if (steps := steps_for(cost, n))}
    return sorted(bought if calls is not None else bought | ({own} - {1}))


def fewest_calls(points: Sequence[SeriesPoint]) -> SeriesPoint:
    """Return the point of fewest calls whose loss is as low as the least, within 2 %; of several the lowest.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("there is no way of forecasting to choose from")
    least = min(point.score.value for point in points)
    good = [point for point in points if point.score.value <= (1.0 + TIED) * least]
    return min(good, key=lambda point: (point.calls, point.score.value))
