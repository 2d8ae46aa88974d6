"""`condiff eval` of a run that forecasts: a rolling origin over the test part, with the baselines beside it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from condiff.cli.forecasting import Left, series_for
from condiff.cli.output import say
from condiff.core.system import System
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
    tracks, name = series_for(system, arguments.data)
    count = arguments.num_samples or DRAWS
    test = backtest(tracks, window.horizon, held_out(tracks, window), most=arguments.windows)
    say(f"forecasting {len(test)} windows of {window.horizon} steps, {count} draws each")
    forecasters: dict[str, Forecaster] = {MODEL: Trained(system, progress=Left("draws"))}
    forecasters |= baselines(tracks, window, test, quick=arguments.quick, seed=arguments.seed)
    scores: dict[str, list[Score]] = {}
    for title, forecaster in forecasters.items():
        scores |= contest({title: forecaster}, test, num_samples=count, seed=arguments.seed)
    mine = {score.name: score for score in scores[MODEL]}
    gains = {}
    for title, found in scores.items():
        first = next((score for score in found if score.name == "weighted_quantile_loss"), None)
        if title != MODEL and first is not None and first.value > 0:
            gains[title] = mine[first.name].gain(first, seed=arguments.seed).to_json()
    told = {
        title: [replace(score.metric(seed=arguments.seed)).to_json() for score in found]
        for title, found in scores.items()
    }
    return {
        "run": arguments.run,
        "data": name,
        "split": "test",
        "n": count,
        "windows": len(test),
        "horizon": window.horizon,
        "seed": arguments.seed,
        "num_steps": system.num_steps,
        "guidance_scale": system.guidance_scale,
        "metrics": told.pop(MODEL),
        "baselines": told,
        "gains": gains,
        "condition_use": None,
    }


def baselines(tracks: Any, window: Any, test: Backtest, *, quick: bool, seed: int) -> dict[str, Forecaster]:  # noqa: ANN401
    """Collect the forecasters to compare with; the classical ones take a while and are left out of a quick look."""
    shortest = min(len(track) for track in test.tracks)
    periods = [period for period in tracks.frequency.periods if period < shortest] or [1]
    found: dict[str, Forecaster] = {f"seasonal_naive_{period}": SeasonalNaive(period) for period in periods}
    found[f"seasonal_errors_{periods[-1]}"] = SeasonalErrors(periods[-1])
    found["linear_quantile"] = LinearQuantile.fit(tracks, window, seed=seed, progress=Left("steps of the linear model"))
    if quick:
        return found
    if not has_classical():
        say("ETS and ARIMA are left out: pip install condiff[series]")
        return found
    for title, arima in (("ets", False), ("arima", True)):
        found[title] = Classical(tracks.frequency.periods, arima, Left(f"windows of {title}"))
    return found


def lines(facts: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Lay the result out for people: a row a forecaster, a column a measure."""
    every = {MODEL: facts["metrics"], **facts["baselines"]}
    heads = [metric["name"] for metric in facts["metrics"]]
    rows = []
    for title, metrics in every.items():
        values = {metric["name"]: f"{metric['value']:.3g}" for metric in metrics}
        rows.append([title, *(values.get(head, "") for head in heads)])
    return rows, heads
