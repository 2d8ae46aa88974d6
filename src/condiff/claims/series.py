"""Does a trained forecaster beat what costs nothing? The last eight weeks of two years of hourly traffic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from condiff.claims.claim import Result, Row, over_seeds
from condiff.claims.lab import Talk, plot, trained
from condiff.data.tracks import Tracks, read_tracks
from condiff.data.windows import Window, windowed_tracks
from condiff.evaluate.series import Score
from condiff.recipes import series
from condiff.tasks.baselines import MOST_CELLS, Classical, LinearQuantile, SeasonalErrors, SeasonalNaive, has_classical
from condiff.tasks.forecast import Backtest, Forecaster, Trained, backtest, contest, held_out

CLAIM = (
    "on the last 8 weeks of hourly traffic, forecast a day at a time, the weighted quantile loss is below that of "
    "seasonal naive forecasts (24 h and 168 h) and of a linear quantile model"
)
HORIZON, WEEKS = 24, 8
NAIVE = ("seasonal naive 24 h", "seasonal naive 168 h")
LINEAR, OURS = "linear quantile", "series"
MEASURES = ("ensemble_crps", "mase", "coverage_50", "coverage_80", "coverage_90", "pit_spread", "energy_score")


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        steps: Training steps a model.
        num_samples: Draws a window.
        num_seeds: Seeds.
        linear_cells: Windows times steps that the linear model learns from.
        informed: Measure both models with the temperature of the day to come too?
        classical: Measure exponential smoothing and ARIMA too, where statsmodels is installed?
    """

    steps: int
    num_samples: int
    num_seeds: int
    linear_cells: int
    informed: bool
    classical: bool


QUICK = Budget(steps=500, num_samples=40, num_seeds=1, linear_cells=60_000, informed=False, classical=False)
FULL = Budget(steps=2000, num_samples=100, num_seeds=3, linear_cells=MOST_CELLS, informed=True, classical=True)


def run(*, quick: bool, seed: int, out: Path | None, talk: Talk) -> Result:
    """Train a forecaster a seed, with and without tomorrow's temperature, and score all on the same windows."""
    budget = QUICK if quick else FULL
    seeds = range(seed, seed + budget.num_seeds)
    plain = read_tracks("traffic")
    test = last_weeks(plain)
    free: dict[str, Forecaster] = {NAIVE[0]: SeasonalNaive(24), NAIVE[1]: SeasonalNaive(168)}
    free["past errors 168 h"] = SeasonalErrors(168)
    if budget.classical and has_classical():
        free |= {"ETS": Classical((24, 168)), "ARIMA": Classical((24, 168), arima=True)}
    scores = contest(free, test, num_samples=budget.num_samples, seed=seed)
    found: dict[str, list[dict[str, Score]]] = {name: [_named(each)] for name, each in scores.items()}
    calls = 0
    for known in ((), ("temperature",)) if budget.informed else ((),):
        tracks = read_tracks("traffic", known=known)
        mine = last_weeks(tracks)
        splits = windowed_tracks(tracks, horizon=HORIZON)
        window = Window.from_json(splits.train.meta["window"])  # type: ignore[arg-type]
        suffix = ", temperature known" if known else ""
        linear = LinearQuantile.fit(tracks, window, most=budget.linear_cells)
        rival = contest({LINEAR: linear}, mine, num_samples=budget.num_samples, seed=seed)[LINEAR]
        found[LINEAR + suffix] = [_named(rival)]
        talk(f"weighted quantile loss of {LINEAR}{suffix} {rival[0].value:.4f}, penalty {linear.penalty:g}")
        for number in seeds:
            system = trained(
                series, splits, seed=number, talk=talk, settings=replace(series.training, steps=budget.steps)
            )
            made = contest({OURS: Trained(system)}, mine, num_samples=budget.num_samples, seed=number)[OURS]
            calls += system.num_steps
            found.setdefault(OURS + suffix, []).append(_named(made))
            talk(f"seed {number}: weighted quantile loss of {OURS}{suffix} {made[0].value:.4f}")
    rows = _rows(found, len(test), len(seeds))
    plot(out, "losses.png", lambda figure: _chart(figure, rows))
    at = {row.name: row.value for row in rows}
    return Result(
        system="series",
        claim=CLAIM,
        data=f"bundled hourly traffic, {len(plain.tracks[0]):,} hours, the last {len(test)} days held out; "
        f"{budget.steps} steps a model, {len(seeds)} seed(s), {budget.num_samples} draws a window",
        seed=seed,
        rows=rows,
        effect=f"weighted quantile loss {at[f'WQL, {OURS}']:.4f} against {at[f'WQL, {LINEAR}']:.4f} linear, "
        f"{at[f'WQL, {NAIVE[1]}']:.4f} and {at[f'WQL, {NAIVE[0]}']:.4f} seasonal naive (168 h, 24 h); "
        f"{100 * at[f'coverage_90, {OURS}']:.0f} % of true values in the 90 % band",
        expected="below all three, the 95 % interval of the gain over seeds above zero",
        holds=verdict(rows),
        calls=calls,
    )


def last_weeks(tracks: Tracks) -> Backtest:
    """Set up the windows: the last 56 days, one after the other, within the part that training never sees."""
    splits_at = Window(HORIZON, HORIZON)
    places = held_out(tracks, splits_at)
    return backtest(tracks, HORIZON, places[-7 * WEEKS :])


def verdict(rows: list[Row]) -> bool:
    """Tell whether the claim holds: over each of the three baselines a gain whose interval lies above zero."""
    lows = {row.name: row.interval[0] for row in rows}
    return all(lows[f"gain over {name}"] > 0.0 for name in (*NAIVE, LINEAR))


def _named(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def _rows(found: dict[str, list[dict[str, Score]]], windows: int, num_seeds: int) -> list[Row]:
    rows = []
    for name, seeds in found.items():
        losses = [scores["weighted_quantile_loss"] for scores in seeds]
        if len(losses) > 1:
            rows.append(over_seeds(f"WQL, {name}", [loss.value for loss in losses], "", windows * len(losses)))
        else:  # one forecast, whatever the seed: the interval is that over windows
            rows.append(Row(f"WQL, {name}", losses[0].value, "", windows, losses[0].metric().interval))
    mine = found[OURS]
    for name in (*NAIVE, LINEAR):
        others = found[name] if len(found[name]) == num_seeds else found[name] * num_seeds
        gains = [
            100.0 * (1.0 - one["weighted_quantile_loss"].value / other["weighted_quantile_loss"].value)
            for one, other in zip(mine, others, strict=True)
        ]
        rows.append(over_seeds(f"gain over {name}", gains, "%", windows * num_seeds))
    for measure in MEASURES:
        rows.append(over_seeds(f"{measure}, {OURS}", [s[measure].value for s in mine], "", windows * num_seeds))
    return rows


def _chart(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib is an extra
    axes = figure.subplots()
    losses = [row for row in rows if row.name.startswith("WQL, ")][::-1]
    low = [row.value - row.interval[0] for row in losses]
    high = [row.interval[1] - row.value for row in losses]
    colours = ["#1f77b4" if row.name.startswith(f"WQL, {OURS}") else "#aaaaaa" for row in losses]
    axes.barh([row.name.removeprefix("WQL, ") for row in losses], [row.value for row in losses], color=colours)
    axes.errorbar([row.value for row in losses], range(len(losses)), xerr=[low, high], fmt="none", ecolor="#333333")
    axes.set_xlabel("weighted quantile loss on the last 8 weeks (lower is better)")
