"""Forecasting series and filling their gaps with a trained system, and judging forecasts by rolling origins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.drivers import sample as run
from condiff.core.rng import RowRng, key
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.data.frequency import Frequency
from condiff.data.tracks import Track, Tracks
from condiff.data.windows import Cut, Window, cut, laid_out, origins
from condiff.evaluate.series import (
    Score,
    ensemble_quantiles,
    forecast_scores,
    seasonal_scale,
    weighted_quantile_loss,
)
from condiff.tasks.generate import Counted, check_solver, evaluating, guides

Progress = Callable[[int, int], None]
"""Told how many draws are done, and of how many."""

MEMORY = 512
"""Default budget of a forecast's working memory in MiB."""

RESERVE = 32
"""MiB of it that libraries take once, measured; smaller budgets keep half."""

MOST_ROWS = 4096
"""Most draws at a time: larger batches are no faster."""

MOST_DRAWS = 1 << 20
"""Draw k of series w is random stream w * MOST_DRAWS + k, whatever else is forecast."""


class Forecaster(Protocol):
    """Anything that forecasts: a trained system, or a baseline."""

    @property
    def paths(self) -> bool:
        """Are its draws paths, whose steps belong together?"""
        ...

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int, seed: int) -> Tensor:
        """Forecast the next steps of series.

        Args:
            tracks: What may be seen: values up to the origin; times, and what is known in advance, to the horizon.
            horizon: Steps to forecast.
            num_samples: Draws N of every series.
            seed: Names the draws.

        Returns: (W, N, horizon), float64, in the units of the series.
        """
        ...


def window_of(system: System[Any, Any]) -> Window:
    """Return how a system lays series out.

    Raises:
        ValueError: If it was not trained to forecast.
    """
    plain = system.data.get("meta", {}).get("window")
    if plain is None:
        raise ValueError(
            f"this system makes {system.data.get('kind', 'something else')} and was not trained to forecast; train one "
            "with: condiff train series.csv --horizon 24"
        )
    return Window.from_json(plain)


@final
@dataclass(frozen=True)
class Trained:
    """A trained system as a forecaster and filler of gaps.

    A horizon longer than the system's is reached in blocks, each path going on from its own draws. A series whose
    history never changes is forecast to stay as it is: no scale could be read off it.

    Args:
        system: Trained on windows of series.
        num_steps: Solver steps; the system's default if None.
        solver: Solver's name; the system's if None.
        guidance_scale: How strongly a system that guides itself is pulled to what is known; its own if None.
        memory: Budget of working memory in MiB; it sets how many draws are made at a time, and changes nothing else.
        progress: Told how far it is.
        spent: Told after every batch how many rows the network has computed for it, all its calls together.
    """

    system: System[Any, Any]
    num_steps: int | None = None
    solver: str | None = None
    memory: int = MEMORY
    progress: Progress = lambda done, total: None
    guidance_scale: float | None = None
    spent: Callable[[int], None] = lambda rows: None

    @property
    def paths(self) -> bool:
        """Draws of whole windows are paths."""
        return True

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Forecast; see `Forecaster`.

        Raises:
            ValueError: If a number is out of range or the system does not forecast.
            RuntimeError: If a draw is not finite.
        """
        window = window_of(self.system)
        if horizon < 1 or not 1 <= num_samples <= MOST_DRAWS:
            raise ValueError(f"a forecast needs a horizon and draws of at least 1, got {horizon} and {num_samples}")
        blocks = -(-horizon // window.horizon)
        ends = [extended(track, window, blocks) for track in tracks]
        made = np.empty((len(tracks), num_samples, 0))
        total, done = blocks * len(tracks) * num_samples, 0
        self.progress(done, total)
        for block in range(blocks):
            # All draws of a series begin with one history, and go on each from its own.
            repeat = 1 if block else num_samples

            def windows(start: int, stop: int, made: NDArray[np.float64] = made, repeat: int = repeat) -> Cut:
                paths = []
                for row in range(start, stop):
                    w, k = divmod(row * repeat, num_samples)
                    paths.append(replace(ends[w], values=np.concatenate([ends[w].values, made[w, k]])))
                return cut(window, paths, np.array([[number, len(path)] for number, path in enumerate(paths)]))

            parts, rows = [], len(tracks) * num_samples
            for part in self._draw(windows, rows, repeat, num_samples, window.context, key(seed, "block", block)):
                parts.append(part[:, window.context :].copy())
                done += len(part)
                self.progress(done, total)
            ahead = np.concatenate(parts).reshape(len(tracks), num_samples, window.horizon)
            made = np.concatenate([made, ahead], 2)
        return torch.from_numpy(made[:, :, :horizon])

    def fill(self, track: Track, *, num_samples: int = 100, seed: int = 0) -> tuple[NDArray[np.int64], Tensor]:
        """Draw what is missing within a series, from what surrounds it.

        Every missing step is drawn in the window in whose middle it lies best; windows overlap by half.

        Args:
            track: The series.
            num_samples: Draws N.
            seed: Names the draws.

        Returns: Steps that are missing, int64 (M,), and their draws (N, M) in the units of the series.
        """
        window = window_of(self.system)
        holes = np.flatnonzero(np.isnan(track.values))
        if not len(holes):
            return holes, torch.empty((num_samples, 0), dtype=torch.float64)
        length = window.length
        half = max(length // 2, 1)
        last = max(len(track) - length, 0)
        starts = np.minimum(np.arange(0, last + half, half), last)
        centre = starts + length / 2
        home = np.abs(holes[:, None] - centre[None]).argmin(1)
        used, place = np.unique(home, return_inverse=True)
        whole = replace(track, seconds=_times(track.seconds, window.frequency, last + length))
        places = np.stack([np.zeros(len(used), np.int64), starts[used] + window.context], 1)

        def windows(start: int, stop: int) -> Cut:
            return cut(window, [whole], places[start:stop], upto=window.reach + length)

        parts, done, total = [], 0, len(used) * num_samples
        for part in self._draw(windows, total, num_samples, num_samples, length, key(seed, "fill")):
            parts.append(part)
            done += len(part)
            self.progress(done, total)
        drawn = np.concatenate(parts).reshape(len(used), num_samples, length)
        return holes, torch.from_numpy(drawn[place, :, holes - starts[home]].T.copy())

    def chosen(self) -> Solver[Any, Any]:
        """Return the solver as it is asked for.

        Raises:
            ValueError: If it does not suit the system, or cannot take a guidance scale.
        """
        solver = check_solver(self.system, self.solver)
        if self.guidance_scale is None:
            return solver
        if not guides(solver):
            raise ValueError("this system does not guide itself, so a guidance scale cannot be used; leave it out")
        scaled: Solver[Any, Any] = replace(cast(Any, solver), scale=self.guidance_scale)
        return scaled

    @torch.no_grad()
    def _draw(
        self, windows: Callable[[int, int], Cut], rows: int, repeat: int, num_samples: int, shown: int, seed: int
    ) -> Iterator[NDArray[np.float64]]:
        """Draw rows, `repeat` of every window, (rows, L) in the units of the series, as many at a time as fit.

        Windows are cut as they are needed: `windows(start, stop)` returns those of these numbers.
        """
        window, system, solver = window_of(self.system), evaluating(self.system), self.chosen()
        grid = system.grid(system.num_steps if self.num_steps is None else self.num_steps)
        size = rows_within(
            self.memory, system, laid_out(window, windows(0, 1), shown=shown)[1], gradients=guides(solver)
        )
        for start in range(0, rows, size):
            index = torch.arange(start, min(start + size, rows))
            first = start // repeat
            found = windows(first, int(index[-1]) // repeat + 1)
            seen = laid_out(window, found, shown=shown)[1]
            which = index // repeat - first
            series, draw = index // num_samples, index % num_samples
            given = seen.rows(which)
            if "level" in system.schema:  # a guided system spreads its draws over the quantiles
                given = given.adding(level=levels_of(draw, num_samples))
            counted = Counted(system.denoiser)
            x = run(
                system.process,
                counted,
                solver,
                (len(index), *system.shape),
                grid,
                cond=given,
                rng=RowRng(seed, (series * MOST_DRAWS + draw).tolist()),
            )
            self.spent(counted.rows)
            out = system.codec.decode(x, given)[:, 0].double().numpy()
            if not np.isfinite(out).all():
                raise RuntimeError("some draws are not finite; train longer, or use more --steps or another --solver")
            scale, centre = found.scale[which.numpy()][:, None], found.centre[which.numpy()][:, None]
            yield np.where(scale > 0, out, 0.0) * scale + centre


@final
@dataclass(frozen=True, eq=False)
class Forecast:
    """A forecast of several series.

    Args:
        tracks: The series, with times to the horizon.
        draws: (W, N, H) in the units of the series.
    """

    tracks: tuple[Track, ...]
    draws: Tensor

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Times of the forecast, (W, H)."""
        horizon = self.draws.shape[2]
        return np.stack([track.seconds[len(track) : len(track) + horizon] for track in self.tracks])

    @property
    def mean(self) -> Tensor:
        """Mean of the draws, (W, H)."""
        return self.draws.mean(1)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles of the draws, (W, Q, H)."""
        return ensemble_quantiles(self.draws, levels)


def forecast(
    system: System[Any, Any] | Forecaster,
    tracks: Tracks,
    *,
    horizon: int | None = None,
    num_samples: int = 100,
    seed: int = 0,
) -> Forecast:
    """Forecast what follows the last value of every series.

    Args:
        system: A trained system, or any forecaster.
        tracks: The series, as `read_tracks` reads them.
        horizon: Steps; the system's own if None.
        num_samples: Draws of every series.
        seed: Names the draws.

    Raises:
        ValueError: If the series do not fit the system, or what is known in advance ends too early.
    """
    made = Trained(system) if isinstance(system, System) else system
    if isinstance(made, Trained):
        window = window_of(made.system)
        tracks = fitting(tracks, window)
        horizon = horizon or window.horizon
    if horizon is None:
        raise ValueError("a forecaster that is no system needs a horizon")
    ahead = tracks.ahead(horizon)
    return Forecast(ahead.tracks, made(ahead.tracks, horizon, num_samples=num_samples, seed=seed))


def fitting(tracks: Tracks, window: Window) -> Tracks:
    """Check that series are of a system's kind.

    Raises:
        ValueError: If their frequency or what is known of them differs.
    """
    if tracks.frequency.seconds and not tracks.frequency.like(window.frequency):
        raise ValueError(
            f"{tracks.source} has a value every {tracks.frequency.name}, but this system was trained on one every "
            f"{window.frequency.name}; resample the data or train another"
        )
    if tracks.known != window.known:
        raise ValueError(
            f"{tracks.source} is read with {', '.join(tracks.known) or 'nothing'} known in advance, but this system "
            f"was trained with {', '.join(window.known) or 'nothing'}"
        )
    return replace(tracks, frequency=window.frequency)


@final
@dataclass(frozen=True, eq=False)
class Backtest:
    """Windows of a rolling origin, with the truth set apart.

    Args:
        tracks: What a forecaster may see at every origin.
        truth: What came, (W, H), NaN where missing.
        scale: Mean absolute seasonal difference of every history, (W,), for MASE.
        items: Name of the series of every window.
    """

    tracks: tuple[Track, ...]
    truth: Tensor
    scale: Tensor
    items: tuple[str, ...]

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.tracks)


def backtest(tracks: Tracks, horizon: int, places: NDArray[np.int64], *, most: int | None = None) -> Backtest:
    """Set up windows of a rolling origin: each sees its past alone.

    Args:
        tracks: The series.
        horizon: Steps.
        places: (W, 2), number of the series and first step of the horizon, as `origins` lists them.
        most: Keep at most so many windows, evenly spread; all if None.

    Raises:
        ValueError: If no window has a true value.
    """

    def known(number: int, at: int) -> bool:
        return bool((~np.isnan(tracks.tracks[number].values[at : at + horizon])).any())

    kept = [(int(number), int(at)) for number, at in places if known(int(number), int(at))]
    if most is not None and len(kept) > most:
        kept = [kept[round(k * (len(kept) - 1) / max(most - 1, 1))] for k in range(most)]
    if not kept:
        raise ValueError(f"{tracks.source}: no window of {horizon} steps has a value to compare with; add rows")
    seen, truth, scale = [], [], []
    for number, at in kept:
        track = tracks.tracks[number]
        seen.append(track.until(at, horizon))
        after = track.values[at : at + horizon]
        truth.append(np.pad(after, (0, horizon - len(after)), constant_values=np.nan))
        scale.append(seasonal_scale(torch.from_numpy(track.values[:at]), tracks.frequency.period))
    return Backtest(
        tuple(seen),
        torch.from_numpy(np.stack(truth)),
        torch.tensor(scale, dtype=torch.float64),
        tuple(tracks.tracks[number].name for number, _ in kept),
    )


def held_out(tracks: Tracks, window: Window, horizon: int | None = None) -> NDArray[np.int64]:
    """List the origins of the test part, one horizon after the other, the last ending with its series."""
    return origins(tracks.tracks, replace(window, horizon=horizon or window.horizon), 2)


def levels_of(draw: Tensor, num_samples: int) -> Tensor:
    """Return the quantile level k / (N + 1) of draws 0 to N - 1 of a series, (B,) to float32 (B, 1)."""
    return ((draw + 1.0) / (num_samples + 1.0))[:, None].float()


def rows_within(memory: int, system: System[Any, Any], cond: Condition, *, gradients: bool = False) -> int:
    """Count the rows that a network may compute at a time within so many MiB of working memory, at least one.

    Args:
        memory: MiB.
        system: Whose network.
        cond: Condition of one row or more.
        gradients: With gradients a network keeps about three times what it computes.

    What a row really takes is up to 1.3 times what `row_bytes` counts, measured with two threads.
    """
    room = max(memory - RESERVE, memory / 2) * 2**20
    return min(MOST_ROWS, max(1, int(room / (1.4 * row_bytes(system, cond) * (3 if gradients else 1)))))


def row_bytes(system: System[Any, Any], cond: Condition) -> int:
    """Measure the bytes of all that a network computes for one row: a bound of its working memory without gradients."""
    found = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401 - whatever a layer returns
        nonlocal found
        if isinstance(output, Tensor):
            found += output.numel() * output.element_size()

    def layers(module: nn.Module) -> list[nn.Module]:
        return [part for part in module.modules() if not list(part.children())]

    if not isinstance(system.denoiser, nn.Module):
        return 8 * math.prod(system.shape)
    hooks = [layer.register_forward_hook(count) for layer in layers(system.denoiser)]
    try:
        one = cond.rows(torch.zeros(1, dtype=torch.int64))
        if "level" in system.schema:
            one = one.adding(level=torch.full((1, 1), 0.5))
        with torch.no_grad():
            system.denoiser(torch.zeros(1, *system.shape), torch.tensor(0.5), one)
    finally:
        for hook in hooks:
            hook.remove()
    inputs = sum(value[0].numel() * value.element_size() for value in cond.values.values())
    return found + inputs + 16 * math.prod(system.shape)


def extended(track: Track, window: Window, blocks: int) -> Track:
    """Cut a history to what a window can see, and its times and what is known of them to whole blocks."""
    keep = min(len(track), window.reach + window.context)
    if (~np.isnan(track.values[len(track) - keep :])).sum() < 2:
        keep = len(track)  # what is in sight does not tell the scale
    stop = len(track) + blocks * window.horizon
    first = len(track) - keep
    known = track.known[first:stop]
    lacks = (stop - first) - len(known)
    return replace(
        track,
        seconds=_times(track.seconds, window.frequency, stop)[first:stop],
        values=track.values[first:],
        known=np.pad(known, ((0, lacks), (0, 0)), constant_values=np.nan),
    )


def _times(seconds: NDArray[np.float64], frequency: Frequency, stop: int) -> NDArray[np.float64]:
    more = stop - len(seconds)
    return np.concatenate([seconds, frequency.after(float(seconds[-1]), more)]) if more > 0 else seconds


def contest(
    forecasters: Mapping[str, Forecaster], test: Backtest, *, num_samples: int = 100, seed: int = 0
) -> dict[str, list[Score]]:
    """Score several forecasters on the same windows.

    Args:
        forecasters: By name.
        test: The windows.
        num_samples: Draws of every window, where a forecaster draws.
        seed: Names draws and the random part of ranks.

    Returns: Scores by name; each list is what `forecast_scores` can tell of its draws.
    """
    horizon = test.truth.shape[1]
    found = {}
    for name, forecaster in forecasters.items():
        draws = forecaster(test.tracks, horizon, num_samples=num_samples, seed=seed)
        found[name] = forecast_scores(draws, test.truth, scale=test.scale, paths=forecaster.paths, seed=seed)
    return found


def select(
    forecasters: Mapping[str, Forecaster], test: Backtest, *, num_samples: int = 100, seed: int = 0
) -> tuple[str, dict[str, Score]]:
    """Choose one of several forecasters, or settings of one, on windows that later judge nothing.

    Args:
        forecasters: By name; the first of equals is chosen.
        test: Windows, such as those of the validation part.
        num_samples: Draws of every window.
        seed: Names the draws, the same for all.

    Returns: The name of the one with the least weighted quantile loss, and the losses of all by name. A forecaster that
        fails to draw finite numbers has no loss and is not chosen.

    Raises:
        ValueError: If there is no forecaster.
        RuntimeError: If all of them fail.
    """
    if not forecasters:
        raise ValueError("there is no forecaster to choose from")
    horizon, losses = test.truth.shape[1], {}
    for name, forecaster in forecasters.items():
        try:
            draws = forecaster(test.tracks, horizon, num_samples=num_samples, seed=seed)
        except RuntimeError:
            continue
        losses[name] = weighted_quantile_loss(draws, test.truth)
    if not losses:
        raise RuntimeError(f"none of {', '.join(forecasters)} drew finite numbers")
    return min(losses, key=lambda name: losses[name].value), losses
