"""What a forecast is measured against: the last season, classical models, and a linear quantile model."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.core.rng import key
from condiff.data.panel import filled
from condiff.data.tracks import Track, Tracks
from condiff.data.windows import Cut, Window, cut, laid_out, origins
from condiff.guidance.observed import pinball
from condiff.nn import look_back
from condiff.tasks.regression import quantile_regression

MOST_HISTORY = 1500
"""Classical models are fitted to the last values of a history: older ones cost time and teach little."""

LEVELS = 19
"""Quantiles of the linear model: 0.05, 0.1, ..., 0.95."""

PENALTIES, CHOOSING, MOST_TRIED = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), (0.1, 0.5, 0.9), 4
"""What the linear model may hold its weights with, and the levels and the number of steps that choose."""

MOST_CELLS = 400_000
"""Windows times steps that the linear model learns from: a day of two years of hours, every window, fits in."""


_Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""Context (N, C), features of every step (H, N, F), truth (H, N) and 1 where it is known."""


@final
@dataclass(frozen=True)
class SeasonalNaive:
    """The value one period ago, as a point: every draw is alike.

    Where that value is missing, the last known one at the same place of an earlier period; the mean if there is none.

    Args:
        period: Steps, >= 1; 1 repeats the last value.
    """

    period: int

    @property
    def paths(self) -> bool:
        """Its one draw is a path."""
        return True

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 1, seed: int = 0) -> Tensor:
        """Forecast; see `Forecaster`."""
        rows = np.stack([_last_season(track.values, self.period, horizon) for track in tracks])
        return torch.from_numpy(rows)[:, None].expand(-1, num_samples, -1)


@final
@dataclass(frozen=True)
class SeasonalErrors:
    """The value one period ago, plus errors that the same forecast made at earlier origins of the same history.

    Args:
        period: Steps, >= 1.
    """

    period: int

    @property
    def paths(self) -> bool:
        """Errors of one origin stay together."""
        return True

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Forecast; see `Forecaster`."""
        found = []
        for number, track in enumerate(tracks):
            past, period = track.values[-MOST_HISTORY:], self.period
            past = filled(past[:, None])[:, 0] if np.isfinite(past).any() else past
            starts = np.arange(len(past) - horizon, period - 1, -1)
            base = _last_season(track.values, period, horizon)
            if not len(starts) or np.isnan(past).any():
                found.append(np.tile(base, (num_samples, 1)))
                continue
            steps = np.arange(horizon)
            errors = past[starts[:, None] + steps] - past[starts[:, None] - period + steps % period]
            rng = np.random.default_rng(key(seed, "seasonal errors", number))
            found.append(base + errors[rng.integers(0, len(errors), num_samples)])
        return torch.from_numpy(np.stack(found))


@final
@dataclass(frozen=True)
class LinearQuantile:
    """A linear quantile regression for every step of the horizon and every level, on what a trained system sees too.

    q(h, level) = w(h, level) . features(h): the context, the lags at that step, the calendar, what is known in advance,
    and 1, all in the window's own units. Fitted to the training windows to 1e-4 of the least loss there is; a penalty
    on the squares of the weights, chosen by the validation windows, keeps few windows from being learned by heart.
    Crossing quantiles are sorted.

    Args:
        window: How series are laid out.
        weight: (H, F, Q).
        penalty: What was chosen.
        gap: Largest distance of a loss from the least one, as a share of it; proven, not estimated.

    Source: Koenker and Bassett 1978.
    """

    window: Window
    weight: Tensor
    penalty: float = 0.0
    gap: float = 0.0

    @property
    def paths(self) -> bool:
        """Quantiles side by side are no paths."""
        return False

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        tracks: Tracks,
        window: Window,
        *,
        penalty: float | None = None,
        most: int = MOST_CELLS,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Self:
        """Fit to the training part of series.

        Args:
            tracks: The series.
            window: How they are laid out; the training windows are those of a system.
            penalty: As in `quantile_regression`; if None, the one of `PENALTIES` whose loss on the validation windows
                is least at three levels and up to four steps, or 1e-2 where there is no such window.
            most: Windows times steps to learn from; with more, every second, third, ... window is taken.
            progress: Told how far it is.

        Raises:
            ValueError: If there is no window to learn from.
        """
        found = cls._part(tracks, window, 0)
        if found is None:
            raise ValueError(f"{tracks.source}: no training window that changes and has a value to learn from")
        every = -(-found[2].numel() // most)
        learned = found[0][::every], found[1][:, ::every], found[2][:, ::every], found[3][:, ::every]
        checked = None if penalty is not None else cls._part(tracks, window, 1)
        trials = 0 if checked is None else min(window.horizon, MOST_TRIED) * len(PENALTIES)
        left = _Steps(trials + 3 * window.horizon, progress)
        if penalty is None:
            penalty = 1e-2 if checked is None else cls._chosen(learned, checked, left)
        made = []
        for step in range(window.horizon):
            made.append(_regressed(learned, step, _levels().tolist(), penalty, 1e-4))
            left.go(3)
        return cls(window, torch.stack([weight for weight, _ in made]), penalty, max(gap for _, gap in made))

    @classmethod
    def _chosen(cls, learned: _Features, checked: _Features, left: _Steps) -> float:
        """Return the penalty whose regressions score best on windows they were not fitted to."""
        horizon = learned[2].shape[0]
        tried = sorted({round(k * (horizon - 1) / max(MOST_TRIED - 1, 1)) for k in range(MOST_TRIED)})
        context, own, truth, seen = checked
        losses = []
        for penalty in PENALTIES:
            loss = 0.0
            for step in tried:
                weight, _ = _regressed(learned, step, CHOOSING, penalty, 1e-2)
                guess = torch.cat([context, own[step]], 1).double() @ weight
                error = pinball(truth[step, :, None], guess, torch.tensor(CHOOSING)).mean(1)
                loss += float((error * seen[step]).sum())
                left.go(1)
            losses.append(loss)
        return PENALTIES[losses.index(min(losses))]

    @torch.no_grad()
    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 1, seed: int = 0) -> Tensor:
        """Forecast by its quantiles, whatever number of draws is asked for; see `Forecaster`.

        Raises:
            ValueError: If the horizon is longer than the one it was fitted for.
        """
        if horizon > self.window.horizon:
            raise ValueError(f"a linear model fitted for {self.window.horizon} steps cannot forecast {horizon}")
        places = np.array([[number, len(track)] for number, track in enumerate(tracks)])
        windows = cut(self.window, tracks, places)
        context, own, _, _ = self._features(self.window, windows)
        q = _linear(context.double(), own.double(), self.weight).transpose(0, 1).sort(2).values[:, :horizon]
        scale, centre = torch.from_numpy(windows.scale), torch.from_numpy(windows.centre)
        return (q * scale[:, None, None] + centre[:, None, None]).transpose(1, 2)

    @classmethod
    def _part(cls, tracks: Tracks, window: Window, part: int) -> _Features | None:
        """Return features of the windows of a part that change and have a value to compare with; None if none has."""
        windows = cut(window, tracks.tracks, origins(tracks.tracks, window, part))
        good = (windows.scale > 0) & ~np.isnan(windows.values[:, -window.horizon :]).all(1)
        return cls._features(window, windows.where(good)) if good.any() else None

    @staticmethod
    def _features(window: Window, windows: Cut) -> _Features:
        """Lay windows out for a regression at every step."""
        data, cond = laid_out(window, windows)
        seen, ahead = cond.values, slice(window.context, None)
        parts = [torch.ones(len(data), 1, window.horizon)]
        if window.lags:
            parts.append(look_back(seen["given"], seen["older"], window.lags)[:, :, ahead])
        parts += [seen[name][:, :, ahead] for name in ("calendar", "known") if name in seen]
        own = torch.cat(parts, 1).permute(2, 0, 1).contiguous()
        context = seen["given"][:, 0, : window.context].contiguous()
        return context, own, data[:, 0, ahead].T.contiguous(), seen["measured"][:, 0, ahead].T.contiguous()


@final
@dataclass(frozen=True)
class Classical:
    """A classical model of every history on its own, simulated from its end (extra `[series]`).

    Parameters are fitted to every history, until the time is up: first to the earliest of each series, then to the one
    in the middle, then to the quarters. What is left takes the parameters fitted to an earlier history of its series; a
    series without any takes those fitted last to another (exponential smoothing) or the optimiser's starting values
    (ARIMA: a regression on the season, and a conditional fit). States are those of each history.

    Args:
        periods: Steps in every natural period, shortest first; empty for none.
        arima: False: exponential smoothing with additive error, damped trend and additive season (ETS(A,Ad,A)), of the
            longest period that the history holds three times. True: ARIMA(2,0,1) around sines and cosines of every
            period, up to five of each.
        seconds: Time for fitting.
        progress: Told how many fits and forecasts are done, and of how many at most.
        told: Told at the end how many windows were forecast with parameters "fitted" to their own history, to an
            "earlier" one of their series, with "borrowed" ones, and by the last season because the model "failed".

    Source: Hyndman et al. 2008 for the state space form of exponential smoothing; its first season is that of a
        decomposition of the whole history. `statsmodels` fits both.
    """

    periods: tuple[int, ...]
    arima: bool = False
    seconds: float = math.inf
    progress: Callable[[int, int], None] = lambda done, total: None
    told: Callable[[Mapping[str, int]], None] = lambda counts: None

    @property
    def paths(self) -> bool:
        """Simulations are paths."""
        return True

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Forecast; see `Forecaster`. A history that is too short or never changes is repeated as it is.

        Raises:
            ImportError: If statsmodels is not installed.
        """
        models = "statsmodels.tsa.arima.model" if self.arima else "statsmodels.tsa.exponential_smoothing.ets"
        import_module(models)  # takes seconds, which are no fitting
        begun = time.monotonic()
        histories = [_History.of(track, self.periods) for track in tracks]
        known: dict[int, NDArray[np.float64]] = {}
        counts = {"fitted": 0, "earlier": 0, "borrowed": 0, "failed": 0}
        found = []
        self.progress(0, 2 * len(tracks))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a poor fit is a poor forecast, and is measured as one
            for number in _spread(histories):
                if time.monotonic() - begun > self.seconds:
                    break
                with suppress(np.linalg.LinAlgError):
                    known[number] = np.asarray(self._fit(self._model(histories[number], horizon)[0]))
                self.progress(len(known), 2 * len(tracks))
            for number, history in enumerate(histories):
                how, drawn = "", None
                if history.changes:
                    how, parameters = self._parameters(number, histories, known)
                    with suppress(np.linalg.LinAlgError):
                        model, outside = self._model(history, horizon)
                        result = model.smooth(model.start_params if parameters is None else parameters)
                        drawn = _simulated(result, horizon, num_samples, key(seed, "classical", number), outside)
                    if drawn is None or not np.isfinite(drawn).all():
                        how, drawn = "failed", None
                    counts[how] += 1
                if drawn is None:
                    period = min(max(history.periods, default=1), len(history.past))
                    drawn = np.tile(_last_season(history.past, period, horizon), (num_samples, 1))
                else:
                    drawn = drawn * history.scale + history.centre
                found.append(drawn)
                self.progress(len(tracks) + number + 1, 2 * len(tracks))
        self.told(counts)
        return torch.from_numpy(np.stack(found))

    def _parameters(
        self, number: int, histories: Sequence[_History], known: Mapping[int, NDArray[np.float64]]
    ) -> tuple[str, NDArray[np.float64] | None]:
        """Choose a window's parameters among those fitted; None for those that an optimiser would start from."""
        mine = histories[number]
        if number in known:
            return "fitted", known[number]
        alike = [other for other in known if histories[other].periods == mine.periods]
        before = [k for k in alike if histories[k].name == mine.name and histories[k].end < mine.end]
        if before:
            return "earlier", known[max(before, key=lambda k: histories[k].end)]
        return "borrowed", known[alike[-1]] if alike and not self.arima else None

    def _model(self, history: _History, horizon: int) -> tuple[Any, NDArray[np.float64] | None]:
        """Set the model up; returns it, and what it is told of the horizon."""
        past, periods = (history.past - history.centre) / history.scale, history.periods
        if not self.arima:
            from statsmodels.tsa.exponential_smoothing.ets import ETSModel

            more: dict[str, Any] = {}
            if periods:  # fitting a first state for every step of a season takes minutes, and forecasts no better
                level, season = first_season(past, max(periods))
                more = {"seasonal": "add", "seasonal_periods": max(periods), "initialization_method": "known"}
                more |= {"initial_level": level, "initial_trend": 0.0, "initial_seasonal": season}
            return ETSModel(past, error="add", trend="add", damped_trend=True, **more), None
        from statsmodels.tsa.arima.model import ARIMA

        step = history.end - len(past) + np.arange(len(past) + horizon)  # seasons keep their phase, wherever it is cut
        rates = sorted({k / period for period in periods for k in range(1, 6) if 2 * k < period})
        waves = [wave(2 * np.pi * rate * step) for rate in rates for wave in (np.sin, np.cos)]
        outside = np.stack(waves, 1) if waves else None
        known = None if outside is None else outside[: len(past)]
        return ARIMA(past, exog=known, order=(2, 0, 1)), None if outside is None else outside[len(past) :]

    def _fit(self, model: Any) -> Any:  # noqa: ANN401 - of statsmodels
        if self.arima:
            return model.fit(method_kwargs={"maxiter": 50}, cov_type="none").params
        return model.fit(disp=False, maxiter=100).params


@final
@dataclass(frozen=True, eq=False)
class _History:
    """What a classical model sees of a series: its last values, gaps filled, and the periods it holds three times."""

    name: str
    end: int
    past: NDArray[np.float64]
    periods: tuple[int, ...]

    @classmethod
    def of(cls, track: Track, periods: Sequence[int]) -> Self:
        past = track.values[-MOST_HISTORY:]
        past = filled(past[:, None])[:, 0] if np.isfinite(past).any() else past
        return cls(track.name, len(track.values), past, tuple(p for p in periods if 3 * p <= len(past)))

    @property
    def changes(self) -> bool:
        """Is there enough to fit a model to?"""
        return len(self.past) >= 20 and float(np.ptp(self.past)) > 0

    @property
    def centre(self) -> float:
        return float(self.past.mean())

    @property
    def scale(self) -> float:
        return float(self.past.std())


def _spread(histories: Sequence[_History]) -> list[int]:
    """Order histories so that those of a series spread ever finer: its first, the middle one, the quarters, ..."""
    of: dict[str, list[int]] = {}
    for number, history in enumerate(histories):
        if history.changes:
            of.setdefault(history.name, []).append(number)
    ranked = []
    for numbers in of.values():
        numbers.sort(key=lambda number: histories[number].end)
        for place, number in enumerate(numbers):
            finest = len(numbers).bit_length()  # halvings that reach every place
            level = next((k for k in range(finest) if place * 2**k % len(numbers) < 2**k), finest)
            ranked.append((level, number))
    return [number for _, number in sorted(ranked)]


def first_season(past: NDArray[np.float64], period: int) -> tuple[float, NDArray[np.float64]]:
    """Decompose a history: its season is the mean deviation from a centred mean over one period, at every place.

    Args:
        past: (T,), at least two periods.
        period: Steps in a season, >= 2.

    Returns: The level of the first period, and the season (period,) from the first step on, of mean 0.
    """
    ends = np.full(period + 1 - period % 2, 1.0)
    if period % 2 == 0:
        ends[[0, -1]] = 0.5  # an even window has no middle
    smooth = np.convolve(past, ends / period, "valid")
    lead = (len(ends) - 1) // 2
    place = (np.arange(len(smooth)) + lead) % period
    deviation = past[lead : lead + len(smooth)] - smooth
    season = np.bincount(place, deviation, period) / np.bincount(place, minlength=period)
    season -= season.mean()
    return float((past[:period] - season).mean()), season


def has_classical() -> bool:
    """Is statsmodels installed?"""
    from importlib.util import find_spec

    return find_spec("statsmodels") is not None


def _simulated(
    result: Any,  # noqa: ANN401 - of statsmodels
    horizon: int,
    count: int,
    seed: int,
    outside: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    more = {} if outside is None else {"exog": outside}
    drawn = result.simulate(horizon, anchor="end", repetitions=count, **more, **_random(result.simulate, seed))
    return np.asarray(drawn, np.float64).reshape(horizon, count).T


def _random(simulate: Callable[..., object], seed: int) -> dict[str, np.random.Generator]:
    """Name the source of random numbers as this version of statsmodels does."""
    name = "rng" if "rng" in inspect.signature(simulate).parameters else "random_state"
    return {name: np.random.default_rng(seed)}


class _Steps:
    """Tells how much of a job is done."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self.done, self.total, self.progress = 0, total, progress
        progress(0, total)

    def go(self, steps: int) -> None:
        self.done += steps
        self.progress(self.done, self.total)


def _regressed(
    part: _Features, step: int, levels: Sequence[float], penalty: float, accuracy: float
) -> tuple[Tensor, float]:
    """Fit one step of the horizon; returns weights (C + F, Q) and the largest gap as a share of its loss."""
    context, own, truth, seen = part
    there = seen[step] > 0
    rows = torch.cat([context[there], own[step, there]], 1)
    if not len(rows):
        return torch.zeros(rows.shape[1], len(levels), dtype=torch.float64), 0.0
    found = quantile_regression(rows, truth[step, there], levels, penalty=penalty, accuracy=accuracy)
    weight = found.weight.clone()
    weight[context.shape[1]] = found.intercept  # the column of ones, which has no weight of its own
    return weight, float((found.gap / found.loss.clamp_min(1e-9)).max())


def _levels() -> Tensor:
    return torch.arange(1, LEVELS + 1) / (LEVELS + 1)


def _linear(context: Tensor, own: Tensor, weight: Tensor) -> Tensor:
    """Apply weights (H, C + F, Q) to a context (B, C), which all steps share, and features of every step (H, B, F)."""
    horizon, _, levels = weight.shape
    shared, single = weight[:, : context.shape[1]], weight[:, context.shape[1] :]
    out = context @ shared.transpose(0, 1).reshape(context.shape[1], horizon * levels)
    return out.reshape(len(context), horizon, levels).transpose(0, 1) + torch.bmm(own, single)


def _last_season(past: NDArray[np.float64], period: int, horizon: int) -> NDArray[np.float64]:
    """Repeat the last period of a history, each place by its last known value; what never was known is the mean."""
    known = past[np.isfinite(past)]
    fallback = float(known.mean()) if len(known) else 0.0
    season = np.full(period, np.nan)
    for back in range(1, len(past) // period + 2):
        if not np.isnan(season).any():
            break
        piece = past[max(len(past) - back * period, 0) : len(past) - (back - 1) * period]
        piece = np.pad(piece, (period - len(piece), 0), constant_values=np.nan)
        season = np.where(np.isnan(season), piece, season)
    season = np.where(np.isnan(season), fallback, season)
    return season[np.arange(horizon) % period]
