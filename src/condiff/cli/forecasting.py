"""Files of forecasts and of filled series: tables with their recipe, pictures, and the way there and back."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.cli.errors import UsageError, usage
from condiff.cli.made import MARK
from condiff.core.rng import key
from condiff.core.system import System
from condiff.data.frequency import DAY, moment
from condiff.data.tables import instant
from condiff.data.tracks import Tracks, read_tracks
from condiff.data.windows import Window
from condiff.tasks.forecast import Forecast, Trained, fitting, forecast, window_of

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles in a table of forecasts."""

MOST_PANELS = 6
"""Series shown in a picture."""


class Left:
    """Says on stderr how far a long job is and how long it will take; in one line that is rewritten on a terminal."""

    def __init__(self, what: str, quiet: bool = False) -> None:
        self.what, self.quiet, self.begun, self.said = what, quiet, time.monotonic(), 0.0
        self.live = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def __call__(self, done: int, total: int) -> None:
        """Tell that `done` of `total` are done; 0 starts the clock again, for who is made before its job begins."""
        now = time.monotonic()
        if done == 0:
            self.begun = now
        if self.quiet or (now - self.said < (0.2 if self.live else 10.0) and done < total) or now - self.begun < 1.0:
            return
        self.said = now
        left = (now - self.begun) * (total - done) / max(done, 1)
        text = f"{self.what}: {done:,} of {total:,}, about {left:,.0f} s left"
        if self.live:
            sys.stderr.write("\r\x1b[K" + (text if done < total else ""))
        elif done < total:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def series_for(system: System[Any, Any], data: str | None) -> tuple[Tracks, str]:
    """Read the series that a verb is asked about: those of `--data`, or those a system was trained on.

    Raises:
        UsageError: If they are not there, cannot be used or do not fit the system, or it does not forecast.
    """
    name = data or system.data.get("meta", {}).get("source")
    if not name:
        raise UsageError("the run does not say what it was trained on; add --data PATH")
    try:
        window = window_of(system)
        return fitting(read_tracks(name, known=columns_of(system)), window), str(name)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error


def columns_of(system: System[Any, Any]) -> tuple[str, ...]:
    """List the columns that a system was told are known in advance, as the user named them."""
    asked = system.data.get("meta", {}).get("read", {}).get("conditions", [])
    return tuple(asked)


def cut_at(tracks: Tracks, text: str, horizon: int) -> tuple[Tracks, list[NDArray[np.float64]]]:
    """Cut series before a time, and keep what came after as the truth.

    Raises:
        UsageError: If the time is none, or no series has values before it.
    """
    seconds = instant(text)
    if seconds is None:
        raise UsageError(f"--from needs a time such as 2024-01-31 or 2024-01-31T12:00, got {text!r}")
    kept, truth = [], []
    for track in tracks.tracks:
        at = int(np.searchsorted(track.seconds[: len(track)], seconds))
        if at and not np.isnan(track.values[:at]).all():
            kept.append(track.until(at, min(horizon, len(track.seconds) - at)))
            truth.append(track.values[at : at + horizon])
    if not kept:
        raise UsageError(f"--from {text}: no series has a value before it")
    return Tracks(tracks.name, tracks.source, tuple(kept), tracks.frequency, tracks.known, tracks.remarks), truth


def _trained(
    system: System[Any, Any], recipe: Mapping[str, Any], progress: Callable[[int, int], None], spent: list[int]
) -> Trained:
    scale = recipe.get("guidance_scale")  # files of earlier versions do not say
    return Trained(system, recipe["num_steps"], recipe["solver"], recipe["memory"], progress, scale, spent.append)


def make_forecast(
    system: System[Any, Any], recipe: Mapping[str, Any], *, tracks: Tracks | None = None, quiet: bool = True
) -> tuple[Forecast, list[Any] | None, int]:
    """Forecast as a recipe says.

    Args:
        system: The system.
        recipe: What was asked for.
        tracks: Its data, if they were read already.
        quiet: Say nothing of how far it is?

    Returns: The forecast, the truth if it begins in the past, and the network calls of each draw.

    Raises:
        UsageError: If the series do not fit, or what is known of their future ends too early.
    """
    tracks = tracks or series_for(system, recipe["data"])[0]
    truth, spent = None, list[int]()
    if recipe["from"]:
        tracks, truth = cut_at(tracks, recipe["from"], recipe["horizon"])
    made = _trained(system, recipe, Left("draws", quiet=quiet), spent)
    with usage():
        found = forecast(
            made, tracks, horizon=recipe["horizon"], num_samples=recipe["num_samples"], seed=recipe["seed"]
        )
    return found, truth, sum(spent) // (found.draws.shape[0] * found.draws.shape[1])


def forecast_rows(found: Forecast, truth: Sequence[Any] | None) -> tuple[list[str], list[list[str]]]:
    """Lay a forecast out as a table: an item and a time a row, its mean and quantiles."""
    heads = [
        "item_id",
        "timestamp",
        "mean",
        *(f"q{100 * level:02.0f}" for level in LEVELS),
        *(["truth"] if truth else []),
    ]
    table = torch.cat([found.mean[:, None], found.quantiles(LEVELS)], 1).numpy()
    rows = []
    for number, (track, times) in enumerate(zip(found.tracks, stamps(list(found.seconds)), strict=True)):
        for step, written in enumerate(times):
            row = [track.name, written, *(_number(value) for value in table[number, :, step])]
            if truth is not None:
                row.append(_number(truth[number][step]) if step < len(truth[number]) else "")
            rows.append(row)
    return heads, rows


def make_filled(
    system: System[Any, Any], recipe: Mapping[str, Any], *, tracks: Tracks | None = None, quiet: bool = True
) -> tuple[list[str], list[list[str]], int, int]:
    """Fill series as a recipe says; arguments as for `make_forecast`.

    Returns: Heads and rows of a table, how many values were filled, and the network calls of each draw of a window.
    """
    tracks = tracks or series_for(system, recipe["data"])[0]
    left, spent, drawn = Left("values", quiet=quiet), list[int](), 0
    counts = [int(np.isnan(track.values).sum()) for track in tracks.tracks]
    times = stamps([track.seconds[: len(track)] for track in tracks.tracks])
    rows: list[list[str]] = []
    for number, track in enumerate(tracks.tracks):
        before, here = sum(counts[:number]), counts[number]

        def tell(done: int, total: int, before: int = before, here: int = here) -> None:
            nonlocal drawn
            drawn += total if done == total else 0
            left(before + here * done // total, sum(counts))

        made = _trained(system, recipe, tell, spent)
        name = key(recipe["seed"], "item", number)
        holes, draws = made.fill(track, num_samples=recipe["num_samples"], seed=name)
        place = {int(step): k for k, step in enumerate(holes)}
        levels = Forecast((track,), draws[None]).quantiles((0.5, 0.05, 0.95))[0].numpy() if len(holes) else None
        for step, value in enumerate(track.values):
            hole = place.get(step)
            cells = ["" if np.isnan(value) else f"{value:.15g}", "0", "", ""]
            if hole is not None and levels is not None:
                cells = [_number(levels[0, hole]), "1", _number(levels[1, hole]), _number(levels[2, hole])]
            rows.append([track.name, times[number][step], *cells])
    heads = ["item_id", "timestamp", "target", "filled", "q05", "q95"]
    return heads, rows, sum(counts), sum(spent) // max(drawn, 1)


def table_bytes(recipe: Mapping[str, Any], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Encode a table with its recipe in the first line."""
    text = io.StringIO()
    text.write(MARK + json.dumps(recipe) + "\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return text.getvalue().encode()


def difference(path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[float, float] | None:
    """Compare a table with what it should be: the largest difference of numbers, and the largest number.

    Returns: None if texts, or the shape, differ.
    """
    lines = list(csv.reader(path.read_text().splitlines()[1:]))
    if [list(heads), *map(list, rows)] == lines:
        return 0.0, 1.0
    if len(lines) != len(rows) + 1 or lines[0] != list(heads):
        return None
    worst, largest = 0.0, 0.0
    for mine, theirs in zip(rows, lines[1:], strict=True):
        # Files of earlier versions have a date at midnight even where other rows have a time.
        if len(mine) != len(theirs) or mine[0] != theirs[0] or instant(mine[1]) != instant(theirs[1]):
            return None
        for one, other in zip(mine[2:], theirs[2:], strict=True):
            if (one == "") != (other == ""):
                return None
            if one:
                worst = max(worst, abs(float(one) - float(other)))
                largest = max(largest, abs(float(one)))
    return worst, largest


def draw_forecast(
    out: Path, found: Forecast, window: Window, truth: Sequence[Any] | None, facts: Mapping[str, Any]
) -> None:
    """Draw history, median and bands of the first series into a PNG; needs matplotlib (extra `[plot]`)."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    from condiff.train.checkpoint import write_atomically

    shown = min(len(found.tracks), MOST_PANELS)
    columns = 1 if shown < 3 else 2
    rows = -(-shown // columns)
    figure = Figure(figsize=(9.0 if columns == 1 else 12.0, 3.4 * rows if rows > 1 else 4.2), layout="constrained")
    bands = found.quantiles((0.05, 0.25, 0.5, 0.75, 0.95)).numpy()
    for number in range(shown):
        axes = figure.add_subplot(rows, columns, number + 1)
        track, horizon = found.tracks[number], found.draws.shape[2]
        ahead = _dates(found.seconds[number])
        back = max(window.context, 2 * horizon)
        past = slice(max(len(track) - back, 0), len(track))
        axes.plot(_dates(track.seconds[past]), track.values[past], color="#333333", linewidth=1.2, label="history")
        there = np.pad(np.isfinite(track.values[past]), 1)
        alone = there[1:-1] & ~there[:-2] & ~there[2:]  # no line goes through a value between two gaps
        axes.plot(_dates(track.seconds[past][alone]), track.values[past][alone], ".", color="#333333", markersize=4)
        low, lower, middle, upper, high = bands[number]
        axes.fill_between(ahead, low, high, color="#1f77b4", alpha=0.2, linewidth=0, label="90 % band")
        axes.fill_between(ahead, lower, upper, color="#1f77b4", alpha=0.35, linewidth=0, label="50 % band")
        axes.plot(ahead, middle, color="#1f77b4", linewidth=1.8, label="median")
        if truth is not None:
            true = truth[number]
            axes.plot(ahead[: len(true)], true, color="#d62728", linewidth=1.2, linestyle="--", label="truth")
        axes.axvline(_dates(track.seconds[past])[-1], color="#999999", linewidth=0.8, linestyle=":")
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.set_title(track.name, fontsize=10)
        axes.margins(x=0.01)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if number == 0:
            axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper left", bbox_to_anchor=(0.0, 1.0))
            axes.set_ylim(top=axes.get_ylim()[1] + 0.14 * float(np.ptp(axes.get_ylim())))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"condiff": json.dumps(facts)})
    write_atomically(out, buffer.getvalue())


def stamps(times: Sequence[NDArray[np.float64]]) -> list[list[str]]:
    """Write the times of every series of a table: dates if all are at midnight, else date and time in every row."""
    dates = all(bool((seconds % DAY == 0).all()) for seconds in times)
    return [[moment(second)[: 10 if dates else None] for second in seconds.tolist()] for seconds in times]


def fingerprint_of(name: str) -> str | None:
    """Return the SHA-256 of a data file; None for a bundled set."""
    from condiff.tasks.pictures import fingerprint

    return fingerprint(Path(name)) if Path(name).is_file() else None


def _dates(seconds: Any) -> Any:  # noqa: ANN401 - arrays of numpy
    return (1000.0 * np.asarray(seconds)).astype("datetime64[ms]").astype(object)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"
