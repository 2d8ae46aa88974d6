"""`condiff eval` of a run that forecasts: a rolling origin over the test part, with the baselines beside it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from condiff.cli.forecasting import Left, series_for
from condiff.cli.output import say
from condiff.core.system import System
from condiff.data.tracks import Tracks
from condiff.data.windows import Window
from condiff.evaluate.series import Score
from condiff.tasks.baselines import Classical, LinearQuantile, SeasonalErrors, SeasonalNaive, has_classical
from condiff.tasks.forecast import Backtest, Forecaster, Trained, backtest, contest, held_out, window_of

MOST_WINDOWS = 100
"""Windows of the test part that are scored, evenly spread."""

DRAWS = 100

MODEL = "model"


def evaluate(system: System[Any, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a run that forecasts; returns what `condiff eval --json` prints.

    Raises:
        ValueError: If the series do not fit, or none has a test part.
    """
    window = window_of(system)
    model = Trained(system, guidance_scale=arguments.guidance_scale, progress=Left("draws"))
    model.chosen()  # what cannot be asked of it is said before anything is measured
    tracks, name = series_for(system, arguments.data)
    count = arguments.num_samples or DRAWS
    test = backtest(tracks, window.horizon, held_out(tracks, window), most=arguments.windows)
    say(f"forecasting {len(test)} windows of {window.horizon} steps, {count} draws each")
    forecasters: dict[str, Forecaster] = {MODEL: model}
    fits: dict[str, Mapping[str, int]] = {}
    forecasters |= baselines(
        tracks, window, test, quick=arguments.quick, seed=arguments.seed, seconds=arguments.fit_seconds, fits=fits
    )
    scores: dict[str, list[Score]] = {}
    for title, forecaster in forecasters.items():
        scores |= contest({title: forecaster}, test, num_samples=count, seed=arguments.seed)
    mine = {score.name: score for score in scores[MODEL]}
    gains = {}
    for title, found in scores.items():
        first = next((score for score in found if score.name == "weighted_quantile_loss"), None)
        if title != MODEL and first is not None and first.value > 0:
            gains[title] = mine[first.name].gain(first, seed=arguments.seed).to_json()
    told = {title: [score.metric(seed=arguments.seed).to_json() for score in found] for title, found in scores.items()}
    return {
        "run": arguments.run,
        "data": name,
        "split": "test",
        "n": count,
        "windows": len(test),
        "horizon": window.horizon,
        "seed": arguments.seed,
        "quick": arguments.quick,
        "num_steps": system.num_steps,
        "guidance_scale": system.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "metrics": told.pop(MODEL),
        "baselines": told,
        "gains": gains,
        "fits": fits,
        "condition_use": None,
    }


def baselines(
    tracks: Tracks,
    window: Window,
    test: Backtest,
    *,
    quick: bool,
    seed: int,
    seconds: float,
    fits: dict[str, Mapping[str, int]],
) -> dict[str, Forecaster]:
    """Collect the forecasters to compare with; the classical ones are left out of a quick look.

    Args:
        tracks: The series.
        window: How the run lays them out.
        test: The windows that will be forecast.
        quick: Leave the classical ones out?
        seed: Names the order in which the linear model learns.
        seconds: Time for fitting each classical one.
        fits: Receives how each of them was fitted, once it has forecast.
    """
    shortest = min(len(track) for track in test.tracks)
    periods = [period for period in tracks.frequency.periods if period < shortest] or [1]
    found: dict[str, Forecaster] = {f"seasonal_naive_{period}": SeasonalNaive(period) for period in periods}
    found[f"seasonal_errors_{periods[-1]}"] = SeasonalErrors(periods[-1])
    left = Left("linear quantile model")
    try:
        found["linear_quantile"] = LinearQuantile.fit(tracks, window, progress=left)
    except ValueError as error:
        say(f"the linear quantile model is left out: {error}")
    if quick:
        return found
    if not has_classical():
        say("ETS and ARIMA are left out: pip install condiff[series]")
        return found

    def told(title: str, counts: Mapping[str, int]) -> None:
        fits[title] = {**counts, "seconds": round(seconds)}
        if counts["earlier"]:
            say(
                f"{title}: {seconds:g} s of fitting were up; {counts['earlier']} of {len(test)} windows are forecast "
                f"with parameters fitted to an earlier origin of their series, {counts['fitted']} with their own"
            )
        if counts["borrowed"]:
            say(
                f"{title}: {seconds:g} s of fitting were up; {counts['borrowed']} of {len(test)} windows are forecast "
                "with parameters that were not fitted to their series; --fit-seconds gives more"
            )
        if counts["failed"]:
            say(f"{title}: could not be fitted to {counts['failed']} of {len(test)} windows; their last season stands")

    for title, arima in (("ets", False), ("arima", True)):
        left = Left(f"fits and forecasts of {title}")
        found[title] = Classical(tracks.frequency.periods, arima, seconds, left, partial(told, title))
    return found


def losses(facts: dict[str, Any]) -> list[list[str]]:
    """Lay out the main measure for people: a forecaster a row, its loss, and how far the run is below it."""
    every = {MODEL: facts["metrics"], **facts["baselines"]}
    rows = []
    for title, metrics in every.items():
        for metric in metrics:
            if metric["name"] == "weighted_quantile_loss":
                gain = facts["gains"].get(title)
                low, high = metric["interval"]
                beside = (
                    [f"{100 * gain['value']:.1f} %", "{:.1f} to {:.1f} %".format(*(100 * g for g in gain["interval"]))]
                    if gain
                    else ["", ""]
                )
                rows.append([title, f"{metric['value']:.4g}", f"{low:.4g} to {high:.4g}", *beside])
    return rows


def lines(facts: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Lay the result out for people: a row a forecaster, a column a measure."""
    every = {MODEL: facts["metrics"], **facts["baselines"]}
    heads = [metric["name"] for metric in facts["metrics"]]
    rows = []
    for title, metrics in every.items():
        values = {metric["name"]: f"{metric['value']:.3g}" for metric in metrics}
        rows.append([title, *(values.get(head, "") for head in heads)])
    return rows, heads
