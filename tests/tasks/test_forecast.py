"""Forecasting with a system: scale, seeds, memory, blocks, gaps; and the rolling origin that judges it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nn.nets import scrambled

from condiff.data.frequency import DAY, Frequency
from condiff.data.tracks import Track, Tracks
from condiff.data.windows import cut, windowed_tracks
from condiff.recipes import series
from condiff.tasks import baselines
from condiff.tasks.baselines import (
    Classical,
    LinearQuantile,
    SeasonalErrors,
    SeasonalNaive,
    _History,
    _spread,
    first_season,
    has_classical,
)
from condiff.tasks.forecast import (
    Trained,
    backtest,
    contest,
    fitting,
    forecast,
    held_out,
    row_bytes,
    rows_within,
    select,
    window_of,
)

DAILY = Frequency(DAY)


def tracks_of(*rows, frequency=DAILY, known=0):
    made = []
    for number, row in enumerate(rows):
        row = np.asarray(row, np.float64)
        seconds = np.concatenate([[0.0], frequency.after(0.0, len(row) + 39)])
        advance = np.arange(len(seconds) * known, dtype=np.float64).reshape(len(seconds), known)
        seconds = seconds if known else seconds[: len(row)]
        made.append(Track(f"s{number}", seconds, row, advance))
    return Tracks("made", "made.csv", tuple(made), frequency, tuple(f"k{k}" for k in range(known)))


def wavy(count=120, seed=0):
    rng = np.random.default_rng(seed)
    return 50 + 10 * np.sin(np.arange(count) * 2 * np.pi / 7) + rng.normal(size=count)


@pytest.fixture(scope="module")
def system():
    splits = windowed_tracks(tracks_of(wavy(), wavy(90, 1)), horizon=5, context=12)
    made = series(**{**series.measure(splits), "width": 32, "depth": 1, "num_steps": 3})
    scrambled(made.denoiser)
    return made


def test_scale_law(system):
    """Multiplying a series by 1000 multiplies its forecast by 1000 under the same seed."""
    one = forecast(system, tracks_of(wavy()), num_samples=4).draws
    other = forecast(system, tracks_of(1000.0 * wavy()), num_samples=4).draws
    torch.testing.assert_close(other, 1000.0 * one, rtol=1e-5, atol=1e-2)
    assert float(one.std(1).mean()) > 0.1
    eight = forecast(system, tracks_of(8.0 * wavy()), num_samples=4).draws
    assert torch.equal(eight, 8.0 * one)  # a power of two rounds nothing


def test_a_draw_is_the_same_whatever_else_is_forecast_and_however_much_memory_there_is(system):
    both = tracks_of(wavy(), wavy(90, 1))
    whole = forecast(system, both, num_samples=6).draws
    _, cond = windowed_tracks(both, window=window_of(system)).train.rows(torch.arange(1))
    rows = 2**20 // row_bytes(system, cond)
    assert 1 <= rows < 1000  # one MiB cuts the job into pieces
    many = forecast(Trained(system, memory=1), both, horizon=5, num_samples=600).draws
    torch.testing.assert_close(many[:, :6], whole, rtol=1e-5, atol=1e-4)
    alone = forecast(system, tracks_of(wavy()), num_samples=3).draws
    torch.testing.assert_close(alone[0], whole[0, :3], rtol=1e-5, atol=1e-4)
    assert not torch.allclose(forecast(system, both, num_samples=6, seed=1).draws, whole)


def test_a_longer_horizon_goes_on_in_blocks_on_each_path(system):
    tracks = tracks_of(wavy())
    short, long = (forecast(system, tracks, horizon=h, num_samples=3).draws for h in (5, 12))
    assert long.shape == (1, 3, 12)
    torch.testing.assert_close(long[:, :, :5], short, rtol=1e-5, atol=1e-4)
    assert torch.equal(forecast(system, tracks, horizon=3, num_samples=3).draws, short[:, :, :3])
    assert not torch.allclose(long[0, 0, 5:10], long[0, 1, 5:10])


def test_windows_are_cut_as_they_are_needed(system, monkeypatch):
    """A long horizon cuts a history for every draw: never more than a batch of them at a time."""
    from condiff.tasks import forecast as module

    most = []
    monkeypatch.setattr(
        module,
        "cut",
        lambda window, tracks, *rest, **more: most.append(len(tracks)) or cut(window, tracks, *rest, **more),
    )
    draws = forecast(Trained(system, memory=1), tracks_of(wavy(), wavy(90, 1)), horizon=9, num_samples=300).draws
    _, cond = windowed_tracks(tracks_of(wavy()), window=window_of(system)).train.rows(torch.arange(1))
    assert max(most) == rows_within(1, system, cond) < 300
    few = forecast(Trained(system, memory=1000), tracks_of(wavy(), wavy(90, 1)), horizon=9, num_samples=300).draws
    torch.testing.assert_close(draws, few, rtol=1e-5, atol=1e-4)


def test_rows_within_a_budget(system):
    _, cond = windowed_tracks(tracks_of(wavy()), window=window_of(system)).train.rows(torch.arange(1))
    each = row_bytes(system, cond)
    for memory in (1, 8, 100):
        rows = rows_within(memory, system, cond)
        assert rows == 4096 or 0.3 < rows * each / (memory * 2**20) < 1
        assert rows_within(memory, system, cond, gradients=True) <= max(rows / 2.9, 1) or rows == 4096
    assert rows_within(100_000, system, cond) == 4096


def test_progress_counts_every_draw(system):
    seen = []
    made = Trained(system, progress=lambda done, total: seen.append((done, total)))
    forecast(made, tracks_of(wavy(), wavy(90, 1)), horizon=7, num_samples=3)
    assert seen[-1] == (12, 12)  # two blocks of two series
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("level", [0.0, 7.25, -3e9])
def test_what_never_changed_stays_as_it_is(system, level):
    """A series of constants, of zeros, or with one value: no scale can be read off it, so it is repeated exactly."""
    assert (forecast(system, tracks_of(np.full(60, level)), num_samples=3).draws == level).all()
    assert (forecast(system, tracks_of([level]), num_samples=3).draws == level).all()
    holed = np.full(60, level)
    holed[5:50] = np.nan
    assert (forecast(system, tracks_of(holed), num_samples=3).draws == level).all()


def test_runs_of_missing_values_and_short_histories_give_finite_forecasts(system):
    values = wavy()
    values[70:115] = np.nan
    values[3] = np.nan
    for row in (values, wavy(3), np.r_[wavy(30), np.full(40, np.nan), 50.0]):
        draws = forecast(system, tracks_of(row), num_samples=3).draws
        assert bool(draws.isfinite().all())
        assert float(draws.std(1).mean()) > 0


def test_where_nothing_is_in_sight_the_whole_series_tells_the_scale(system):
    """A gap longer than the window and its lags, before an origin and within a series."""
    sight = window_of(system).reach + window_of(system).length
    values = np.r_[1000.0 + wavy(60), np.full(3 * sight, np.nan), 1000.0 + wavy(60)]
    holes, draws = Trained(system).fill(tracks_of(values).tracks[0], num_samples=20)
    middle = draws[:, len(holes) // 2]
    known = values[~np.isnan(values)]
    assert abs(float(middle.mean()) - known.mean()) < 3 * known.std()
    assert 0.1 * known.std() < float(middle.std()) < 4 * known.std()
    before = tracks_of(values[: 60 + 2 * sight])
    ahead = Trained(system)(before.tracks, 5, num_samples=20, seed=0)
    assert abs(float(ahead.mean()) - known[:60].mean()) < 3 * known.std()
    assert float(ahead.std(1).min()) > 0.1 * known.std()
    before.tracks[0].values[-1] = 5000.0  # a single value in sight is no scale either, and no constant
    assert float(Trained(system)(before.tracks, 5, num_samples=20, seed=0).std(1).min()) > 0


def test_gaps_are_filled_within_and_the_rest_is_left(system):
    values = wavy()
    values[[0, 40, 41, 42, 119]] = np.nan
    values[70:100] = np.nan  # longer than a window
    holes, draws = Trained(system).fill(tracks_of(values).tracks[0], num_samples=4)
    assert holes.tolist() == np.flatnonzero(np.isnan(values)).tolist()
    assert draws.shape == (4, len(holes))
    assert bool(draws.isfinite().all())
    scaled = Trained(system).fill(tracks_of(1000 * values).tracks[0], num_samples=4)[1]
    torch.testing.assert_close(scaled, 1000.0 * draws, rtol=1e-5, atol=1e-1)
    none, empty = Trained(system).fill(tracks_of(wavy()).tracks[0], num_samples=4)
    assert (len(none), empty.shape) == (0, (4, 0))


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        (
            tracks_of(wavy(), frequency=Frequency(3600.0)),
            "a value every hour, but this system was trained on one every day",
        ),
        (tracks_of(wavy(), known=1), "read with k0 known in advance, but this system was trained with nothing"),
    ],
)
def test_series_of_another_kind_are_refused(system, tracks, message):
    with pytest.raises(ValueError, match=message):
        forecast(system, tracks)
    with pytest.raises(ValueError, match="was not trained to forecast"):
        window_of(replace(system, data={"kind": "images"}))
    assert fitting(tracks_of([1.0]), window_of(system)).frequency.name == "day"  # one value has no frequency of its own


def test_a_backtest_shows_the_past_alone():
    values = wavy(200)
    values[190] = np.nan
    tracks = tracks_of(values, known=1)
    window = window_of(replace_window(tracks))
    test = backtest(tracks, 5, held_out(tracks, window))
    assert len(test) == 4
    for track, truth in zip(test.tracks, test.truth, strict=True):
        at = len(track)
        np.testing.assert_array_equal(truth.numpy(), values[at : at + 5])
        assert len(track.seconds) == len(track.known) == at + 5
    assert len(test.tracks[-1]) == 195
    assert len(backtest(tracks, 5, held_out(tracks, window), most=2)) == 2
    with pytest.raises(ValueError, match="no window of 5 steps has a value to compare with"):
        backtest(tracks, 5, np.empty((0, 2), np.int64))


def replace_window(tracks):
    splits = windowed_tracks(tracks, horizon=5, context=12)
    return series(**{**series.measure(splits), "width": 32, "depth": 1})


def test_forecasters_meet_on_the_same_windows(system):
    tracks = tracks_of(wavy(), wavy(90, 1))
    test = backtest(tracks, 5, held_out(tracks, window_of(system)))
    scores = contest({"model": Trained(system), "naive": SeasonalNaive(7)}, test, num_samples=5)
    first = {name: found[0] for name, found in scores.items()}
    assert torch.equal(first["model"].bottom, first["naive"].bottom)
    assert first["naive"].value < first["model"].value  # a network of random weights knows nothing


class Failing:
    """Forecasts nothing finite."""

    paths = True

    def __call__(self, tracks, horizon, *, num_samples, seed):
        raise RuntimeError("some draws are not finite")


def test_the_forecaster_of_least_loss_is_selected(system):
    tracks = tracks_of(wavy(), wavy(90, 1))
    test = backtest(tracks, 5, held_out(tracks, window_of(system)))
    tried = {"failing": Failing(), "wrong season": SeasonalNaive(4), "season": SeasonalNaive(7)}
    best, losses = select(tried, test, num_samples=3)
    assert best == "season"
    assert list(losses) == ["wrong season", "season"]
    assert losses["season"].value < losses["wrong season"].value
    with pytest.raises(RuntimeError, match="none of failing"):
        select({"failing": Failing()}, test, num_samples=3)
    with pytest.raises(ValueError, match="no forecaster"):
        select({}, test)


def test_seasonal_naive_repeats_the_last_season():
    past = np.array([9, 9, 9, 1, 2, 3, 4, np.nan, 6.0])
    track = tracks_of(past).tracks[0]
    assert SeasonalNaive(3)([track], 7, num_samples=2, seed=0)[0, 1].tolist() == [4, 2, 6, 4, 2, 6, 4]
    assert SeasonalNaive(1)([track], 2, num_samples=1, seed=0).flatten().tolist() == [6, 6]
    assert SeasonalNaive(20)([track], 2, num_samples=1, seed=0).isfinite().all()


def test_seasonal_errors_are_those_of_the_past():
    noise = np.random.default_rng(0).normal(size=700)
    past = np.tile([0.0, 10, 20, 30, 40, 50, 60], 100) + noise
    draws = SeasonalErrors(7)([tracks_of(past).tracks[0]], 7, num_samples=400, seed=0)[0]
    torch.testing.assert_close(draws.mean(0), torch.from_numpy(past[-7:]), atol=0.3, rtol=0)
    assert float(draws.std(0).mean()) == pytest.approx(2**0.5, abs=0.15)  # the difference of two noises


def test_the_linear_quantile_model_finds_a_linear_truth():
    rng = np.random.default_rng(1)
    values = np.empty(1500)
    values[0] = 0
    for k in range(1, 1500):
        values[k] = 0.8 * values[k - 1] + rng.normal()
    tracks = tracks_of(values)
    window = window_of(replace_window(tracks))
    told = []
    model = LinearQuantile.fit(tracks, window, progress=lambda *where: told.append(where))
    assert model.gap <= 1e-4
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    test = backtest(tracks, 5, held_out(tracks, window))
    draws = model(test.tracks, 5, num_samples=1, seed=0)
    assert draws.shape == (len(test), 19, 5)
    assert bool((draws.diff(dim=1) >= 0).all())
    last = torch.tensor([track.values[-1] for track in test.tracks])
    for step in range(5):  # the median of an AR(1) is 0.8^h of the last value
        slope = float((draws[:, 9, step] * last).sum() / last.square().sum())
        assert slope == pytest.approx(0.8 ** (step + 1), abs=0.12)
    spread = (draws[:, 14] - draws[:, 4]).mean(0)
    assert float(spread[0]) == pytest.approx(1.349, rel=0.15)  # the quartiles of one noise
    with pytest.raises(ValueError, match="fitted for 5 steps cannot forecast 6"):
        model(test.tracks, 6)


@pytest.mark.parametrize("period", [2, 7, 12])
def test_a_season_on_a_line_is_found_exactly(period):
    season = np.random.default_rng(period).normal(size=period)
    season -= season.mean()
    step = np.arange(5 * period + 3)
    level, found = first_season(40.0 + 0.5 * step + season[step % period], period)
    np.testing.assert_allclose(found, season, atol=1e-12)
    assert level == pytest.approx(40.0 + 0.5 * (period - 1) / 2)


@pytest.mark.slow  # statsmodels takes seconds to load and to fit
@pytest.mark.skipif(not has_classical(), reason="statsmodels is not installed")
@pytest.mark.parametrize("arima", [False, True])
def test_classical_models_follow_a_season(arima):
    values = wavy(140)
    track = tracks_of(values).tracks[0]
    draws = Classical((7,), arima)([track, tracks_of(np.full(50, 3.0)).tracks[0]], 7, num_samples=60, seed=0)
    assert draws.shape == (2, 60, 7)
    torch.testing.assert_close(
        draws[0].mean(0), torch.from_numpy(50 + 10 * np.sin(np.arange(140, 147) * 2 * np.pi / 7)), atol=2.0, rtol=0
    )
    assert (draws[1] == 3.0).all()
    assert torch.equal(
        draws, Classical((7,), arima)([track, tracks_of(np.full(50, 3.0)).tracks[0]], 7, num_samples=60, seed=0)
    )


@pytest.mark.slow  # statsmodels takes seconds to load and to fit
@pytest.mark.skipif(not has_classical(), reason="statsmodels is not installed")
@pytest.mark.parametrize("arima", [False, True])
def test_classical_models_are_fitted_at_every_origin_and_within_their_time(arima):
    """Every window gets its forecast, whatever the time; a long history is cut, and its season keeps its phase."""
    long = 50 + 10 * np.sin(np.arange(2000) * 2 * np.pi / 7) + np.random.default_rng(0).normal(size=2000)
    ends = (1700, 1703, 1999)  # their last 1500 values begin at different places in the week
    track = tracks_of(long).tracks[0]
    windows = [track.until(at, 7) for at in ends]
    right = torch.from_numpy(np.stack([50 + 10 * np.sin(np.arange(at, at + 7) * 2 * np.pi / 7) for at in ends]))
    told, losses = [], []
    for seconds in (60.0, -1.0):
        draws = Classical((7,), arima, seconds, told=told.append)(windows, 7, num_samples=200, seed=0)
        losses.append(float((draws.mean(1) - right).abs().mean()))
    assert told == [
        {"fitted": 3, "earlier": 0, "borrowed": 0, "failed": 0},
        {"fitted": 0, "earlier": 0, "borrowed": 3, "failed": 0},
    ]
    assert losses[0] < 0.5
    assert losses[1] < 10.0 * 2 / np.pi  # better than the mean, though nothing was fitted
    alone = Classical((7,), arima)(windows[:1], 7, num_samples=200, seed=0)
    assert torch.equal(alone[0], Classical((7,), arima)(windows, 7, num_samples=200, seed=0)[0])


@pytest.mark.slow  # statsmodels takes seconds to load and to fit
@pytest.mark.skipif(not has_classical(), reason="statsmodels is not installed")
@pytest.mark.parametrize("arima", [False, True])
def test_later_origins_take_the_parameters_of_the_one_before_when_the_time_is_up(arima, monkeypatch):
    """A clock of one second a look: as many fits as the time allows, at the first origin and then in the middle."""
    rng = np.random.default_rng(2)
    calm, wild = 50 + 10 * np.sin(np.arange(300) * 2 * np.pi / 7), np.cumsum(rng.normal(size=300)) * 5
    track = tracks_of(np.concatenate([calm + rng.normal(size=300), calm + wild])).tracks[0]
    windows = [track.until(at, 7) for at in (200, 300, 400, 500, 600)]
    told, drawn = [], []
    for seconds in (1.5, 2.5, 9.0):
        ticks = iter(range(99))
        with monkeypatch.context() as patch:
            patch.setattr(baselines, "time", SimpleNamespace(monotonic=lambda ticks=ticks: float(next(ticks))))
            drawn.append(Classical((7,), arima, seconds, told=told.append)(windows, 7, num_samples=50, seed=0))
    assert [(counts["fitted"], counts["earlier"]) for counts in told] == [(1, 4), (2, 3), (5, 0)]
    assert all(torch.equal(drawn[0][0], other[0]) for other in drawn)  # the first origin has its fit in any case
    assert torch.equal(drawn[1][1], drawn[0][1])  # before the middle one the first one's parameters stand
    middle = next(w for w in range(5) if not torch.equal(drawn[1][w], drawn[0][w]))
    assert middle == 3  # five origins are halved at the fourth
    assert torch.equal(drawn[1][middle], drawn[2][middle])
    assert not torch.equal(drawn[1][4], drawn[0][4])  # the last one takes the middle one's parameters


def test_fits_are_spread_over_series_and_origins():
    tracks = [replace(track, name=name) for name in "ab" for track in tracks_of(wavy(60)).tracks]
    windows = [track.until(at, 7) for track in tracks for at in (20, 30, 40, 50)]
    flat = tracks_of(np.full(60, 3.0)).tracks[0]
    order = _spread([_History.of(track, (7,)) for track in [flat, *windows]])
    assert order == [1, 5, 3, 7, 2, 4, 6, 8]


def test_a_linear_model_needs_windows_to_learn_from(system):
    with pytest.raises(ValueError, match="made.csv: no training window that changes"):
        LinearQuantile.fit(tracks_of(np.full(200, 5.0)), window_of(system))
