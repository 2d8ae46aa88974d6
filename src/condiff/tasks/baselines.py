"""What a forecast is measured against: the last season, classical models, and a linear quantile model."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condiff.core.rng import key
from condiff.data.panel import filled
from condiff.data.tracks import Track, Tracks
from condiff.data.windows import Cut, Window, cut, laid_out, origins
from condiff.guidance.observed import pinball
from condiff.nn import look_back

MOST_HISTORY = 1500
"""Classical models are fitted to the last values of a history: older ones cost time and teach little."""

LEVELS = 19
"""Quantiles of the linear model: 0.05, 0.1, ..., 0.95."""


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
    and 1, all in the window's own units. Fitted to the training windows by Adam on the pinball loss; crossing quantiles
    are sorted.

    Args:
        window: How series are laid out.
        weight: (H, F, Q).

    Source: Koenker and Bassett 1978.
    """

    window: Window
    weight: Tensor

    @property
    def paths(self) -> bool:
        """Quantiles side by side are no paths."""
        return False

    @classmethod
    def fit(
        cls,
        tracks: Tracks,
        window: Window,
        *,
        steps: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Self:
        """Fit to the training part of series.

        Args:
            tracks: The series.
            window: How they are laid out; the training windows are those of a system.
            steps: Optimiser steps of 256 windows; 40 passes over the data, at least 300 and at most 2000, if None.
            seed: Names their order.
            progress: Told how far it is.

        Raises:
            ValueError: If there is no window to learn from.
        """
        places = origins(tracks.tracks, window, 0)
        windows = cut(window, tracks.tracks, places)
        good = (windows.scale > 0) & ~np.isnan(windows.values[:, -window.horizon :]).all(1)
        if not good.any():
            raise ValueError(f"{tracks.source}: no training window that changes and has a value to learn from")
        context, own, truth, seen = cls._features(window, windows.where(good))
        steps = min(max(40 * len(context) // 256, 300), 2000) if steps is None else steps
        levels = _levels()
        weight = nn.Parameter(torch.zeros(window.horizon, context.shape[1] + own.shape[2], len(levels)))
        optimiser = torch.optim.Adam([weight], lr=0.02)
        rng = torch.Generator().manual_seed(key(seed, "linear quantile"))
        progress(0, steps)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 0.02 * (1.0 - step / steps) ** 2 + 1e-5
            index = torch.randint(len(context), (256,), generator=rng)
            guess = _linear(context[index], own[:, index], weight)
            loss = (pinball(truth[:, index, None], guess, levels) * seen[:, index, None]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % 50 == 49:
                progress(step + 1, steps)
        return cls(window, weight.detach())

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
        q = _linear(context, own, self.weight).transpose(0, 1).sort(2).values.double()[:, :horizon]
        scale, centre = torch.from_numpy(windows.scale), torch.from_numpy(windows.centre)
        return (q * scale[:, None, None] + centre[:, None, None]).transpose(1, 2)

    @staticmethod
    def _features(window: Window, windows: Cut) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the context (N, C), features of every step (H, N, F), truth (H, N) and where it is known."""
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

    Parameters are fitted once a series, to the earliest history asked for, and only until the time is up; states are
    those of each history. A series whose turn comes later takes the parameters fitted last (exponential smoothing) or
    the optimiser's starting values (ARIMA: a regression on the season, and a conditional fit).

    Args:
        periods: Steps in every natural period, shortest first; empty for none.
        arima: False: exponential smoothing with additive error, damped trend and additive season (ETS(A,Ad,A)), of the
            longest period that the history holds three times. True: ARIMA(2,0,1) around sines and cosines of every
            period, up to five of each.
        seconds: Time for fitting.
        progress: Told how many windows are done.
        told: Told at the end how many windows were forecast with parameters "fitted" to their series, with "borrowed"
            ones, and by the last season because the model "failed".

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
        found, begun = [], time.monotonic()
        known: dict[tuple[str, tuple[int, ...]], NDArray[np.float64]] = {}
        counts = {"fitted": 0, "borrowed": 0, "failed": 0}
        self.progress(0, len(tracks))
        for number, track in enumerate(tracks):
            past = filled(track.values[-MOST_HISTORY:, None])[:, 0] if np.isfinite(track.values).any() else track.values
            periods = tuple(period for period in self.periods if 3 * period <= len(past))
            drawn = None
            if len(past) >= 20 and np.ptp(past) > 0:
                centre, scale = float(past.mean()), float(past.std())
                first = len(track.values) - len(past)  # seasons keep their phase, wherever a history is cut
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a poor fit is a poor forecast, and is measured as one
                    model, outside = self._model((past - centre) / scale, first, horizon, periods)
                    try:
                        name, late = (track.name, periods), time.monotonic() - begun > self.seconds
                        if name not in known and not late:
                            known[name] = np.asarray(self._fit(model))
                        same = [parameters for (_, other), parameters in known.items() if other == periods]
                        borrowed = same[-1] if same and not self.arima else model.start_params
                        result = model.smooth(known.get(name, borrowed))
                        drawn = _simulated(result, horizon, num_samples, key(seed, "classical", number), outside)
                    except np.linalg.LinAlgError:
                        drawn = None
                if drawn is not None and np.isfinite(drawn).all():
                    drawn = drawn * scale + centre
                    counts["fitted" if name in known else "borrowed"] += 1
                else:
                    drawn = None
                    counts["failed"] += 1
            if drawn is None:
                base = _last_season(past, min(max(periods, default=1), len(past)), horizon)
                drawn = np.tile(base, (num_samples, 1))
            found.append(drawn)
            self.progress(number + 1, len(tracks))
        self.told(counts)
        return torch.from_numpy(np.stack(found))

    def _model(
        self, past: NDArray[np.float64], first: int, horizon: int, periods: Sequence[int]
    ) -> tuple[Any, NDArray[np.float64] | None]:
        """Set the model up; returns it, and what it is told of the horizon."""
        if not self.arima:
            from statsmodels.tsa.exponential_smoothing.ets import ETSModel

            more: dict[str, Any] = {}
            if periods:  # fitting a first state for every step of a season takes minutes, and forecasts no better
                level, season = first_season(past, max(periods))
                more = {"seasonal": "add", "seasonal_periods": max(periods), "initialization_method": "known"}
                more |= {"initial_level": level, "initial_trend": 0.0, "initial_seasonal": season}
            return ETSModel(past, error="add", trend="add", damped_trend=True, **more), None
        from statsmodels.tsa.arima.model import ARIMA

        step = first + np.arange(len(past) + horizon)
        rates = sorted({k / period for period in periods for k in range(1, 6) if 2 * k < period})
        waves = [wave(2 * np.pi * rate * step) for rate in rates for wave in (np.sin, np.cos)]
        outside = np.stack(waves, 1) if waves else None
        known = None if outside is None else outside[: len(past)]
        return ARIMA(past, exog=known, order=(2, 0, 1)), None if outside is None else outside[len(past) :]

    def _fit(self, model: Any) -> Any:  # noqa: ANN401 - of statsmodels
        if self.arima:
            return model.fit(method_kwargs={"maxiter": 50}, cov_type="none").params
        return model.fit(disp=False, maxiter=100).params


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
