"""Windows of series: split by time only, scaled by their past only, and nothing of the future where it may not be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from condiff.data import read
from condiff.data.frequency import Frequency
from condiff.data.tracks import Track, Tracks
from condiff.data.windows import Window, cut, laid_out, origins, plan, windowed_tracks

HOUR = Frequency(3600.0)


def made(*values, frequency=HOUR, known=(), classes=()):
    tracks = []
    for number, row in enumerate(values):
        row = np.asarray(row, np.float64)
        seconds = np.concatenate([[0.0], frequency.after(0.0, len(row) + 49)])
        advance = np.stack([seconds / 3600 * 10.0] * len(known), 1) if known else np.empty((len(seconds), 0))
        tracks.append(Track(f"s{number}", seconds, row, advance, dict(classes)))
    return Tracks("made", "made.csv", tuple(tracks), frequency, tuple(known))


def wavy(count, seed=0):
    rng = np.random.default_rng(seed)
    return 100 + 20 * np.sin(np.arange(count) * 2 * np.pi / 24) + rng.normal(size=count)


def test_a_window_is_planned_by_the_period_and_the_amount_of_data():
    window = plan(made(wavy(2000)))
    assert (window.horizon, window.context, window.lags) == (24, 72, (24, 48, 72, 96, 120, 144, 168, 336))
    assert plan(made(wavy(300))).lags == (24, 48, 72, 96)  # no lag that most windows could not look back
    with pytest.raises(ValueError, match="no lag can be 300"):
        plan(made(wavy(300)), lags=[24, 300])
    short = plan(made(wavy(60)), horizon=5)
    assert (short.context, short.lags) == (43, ())
    assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window
    months = made(wavy(200), frequency=Frequency(30.4 * 86400, 1))
    assert (plan(months).horizon, plan(months).context, plan(months).yearly) == (12, 36, True)


@pytest.mark.parametrize(("count", "horizon", "most"), [(20, 24, 6), (13, 5, 3), (1, 3, None), (2, 1, None)])
def test_a_horizon_longer_than_the_history_is_one_clear_line(count, horizon, most):
    with pytest.raises(
        ValueError, match=rf"longest series has {count} step\(s\), but a horizon of {horizon} needs"
    ) as caught:
        plan(made(wavy(count)), horizon=horizon)
    assert ("--horizon of at most" in str(caught.value)) == (most is not None)
    if most:
        assert f"at most {most}" in str(caught.value)
        plan(made(wavy(count)), horizon=most)  # and that advice works


def test_time_alone_splits_and_no_training_window_sees_what_is_held_out():
    tracks = made(wavy(1000), wavy(400), wavy(30))
    window = replace(plan(tracks, horizon=10), context=24)
    parts = [origins(tracks.tracks, window, part) for part in range(3)]
    for number, length in ((0, 1000), (1, 400)):
        train, validation, test = (p[p[:, 0] == number, 1] for p in parts)
        assert train.max() + 10 == length - 2 * (length // 10)
        assert validation.min() >= length - 2 * (length // 10)
        assert validation.max() + 10 == length - length // 10
        assert test.min() >= length - length // 10
        assert test.max() + 10 == length  # the last window ends with the series
        assert set(np.diff(test)) == {10}
    assert not (parts[1][:, 0] == 2).any()  # too short to be held out: it only teaches
    assert (parts[0][:, 0] == 2).any()
    assert len(origins(made(wavy(100_000)).tracks, window, 0)) < 25_000


def test_scale_is_read_off_what_lies_before_the_horizon():
    series = wavy(500)
    tracks = made(series).tracks
    window = Window(12, 24, (24,), HOUR)
    places = np.array([[0, 100], [0, 300]])
    one = cut(window, tracks, places)
    past = series[100 - 48 : 100]
    assert one.centre[0] == pytest.approx(past.mean())
    assert one.scale[0] == pytest.approx(past.std())
    np.testing.assert_allclose(one.values[0] * one.scale[0] + one.centre[0], series[52:112])
    later = series.copy()
    later[100:112] += 1e6
    other = cut(window, made(later).tracks, places)
    np.testing.assert_array_equal(one.values[0, :48], other.values[0, :48])
    assert one.scale[0] == other.scale[0]
    data, cond = laid_out(window, one)
    _, changed = laid_out(window, other)
    for name in cond.values:
        assert torch.equal(cond.values[name][0], changed.values[name][0]), name
    assert torch.equal(cond.values["given"][:, 0, :24], data[:, 0, :24])
    assert not cond.values["given"][:, :, 24:].any()


def test_scale_law_of_windows():
    """Multiplying a series by 1000 changes no window, and its scale by 1000."""
    window = Window(12, 24, (24,), HOUR)
    places = np.array([[0, 100], [0, 31]])
    one, other = (cut(window, made(factor * wavy(500)).tracks, places) for factor in (1.0, 1000.0))
    np.testing.assert_allclose(other.values, one.values, atol=1e-12)
    np.testing.assert_allclose(other.scale, 1000 * one.scale, rtol=1e-12)


def test_small_changes_of_a_large_value_are_changes():
    series = 1e12 + 100.0 * wavy(60)  # milliseconds since 1970 that vary by a second or two
    found = cut(Window(8, 16, (), HOUR), made(series).tracks, np.array([[0, 40]]))
    assert found.scale[0] == pytest.approx(series[24:40].std(), rel=1e-3)
    constant = cut(Window(8, 16, (), HOUR), made(np.full(60, 0.1)).tracks, np.array([[0, 40]]))
    assert constant.scale[0] == 0  # though the mean of sixteen tenths rounds


def test_missing_values_and_short_histories_are_flagged_and_never_numbers():
    series = wavy(60)
    series[40:45] = np.nan
    window = Window(8, 16, (24,), HOUR)
    found = cut(window, made(series).tracks, np.array([[0, 46], [0, 5]]))
    data, cond = laid_out(window, found)
    assert cond.values["given"][0, 1].tolist() == [1] * 10 + [0] * 5 + [1] + [0] * 8
    assert cond.values["measured"][0, 0].tolist() == [1] * 10 + [0] * 5 + [1] * 9
    assert cond.values["given"][1, 1].tolist() == [0] * 11 + [1] * 5 + [0] * 8  # the series begins within the window
    assert not cond.values["older"][1].any()
    for value in (data, *cond.values.values()):
        assert bool(value.isfinite().all())


def test_what_is_known_in_advance_and_classes_are_aligned():
    tracks = made(wavy(300), wavy(200), known=("price",), classes={"region": "north"})
    splits = windowed_tracks(tracks, horizon=6, context=12)
    window = Window.from_json(splits.train.meta["window"])
    assert window.labels == {"item": ("s0", "s1"), "region": ("north",)}
    places = np.array([[1, 50], [0, 100], [1, 20]])
    found = cut(window, tracks.tracks, places)
    assert found.classes["item"].tolist() == [1, 0, 1]
    price = found.known[:, 0] * window.std[0] + window.mean[0]
    np.testing.assert_allclose(price[:, 12], [500.0, 1000.0, 200.0], rtol=1e-4)  # at the origin, ten times its hour
    hours = np.arctan2(found.calendar[:, 0, 12], found.calendar[:, 2, 12]) / (2 * np.pi) * 24 % 24
    np.testing.assert_allclose(hours, [50 % 24, 100 % 24, 20], atol=1e-3)
    stranger = replace(tracks, tracks=(replace(tracks.tracks[0], name="new", classes={}),))
    _, cond = laid_out(window, cut(window, stranger.tracks, np.array([[0, 50]])))
    assert not cond.present["item"].any()
    assert not cond.present["region"].any()


def test_what_never_changes_teaches_nothing():
    with pytest.raises(ValueError, match="never changes before any of its windows"):
        windowed_tracks(made(np.full(200, 7.3)))
    with pytest.raises(ValueError, match="never changes before any of its windows"):
        windowed_tracks(made(np.zeros(200)))
    splits = windowed_tracks(made(np.full(200, 7.3), wavy(200)))
    assert splits.train.meta["flat_windows"] > 0
    assert set(splits.train.conditions["item"].tolist()) == {1}


def test_reading_with_a_horizon(tmp_path):
    path = tmp_path / "sales.csv"
    days = np.datetime64("2024-01-01") + np.arange(200)
    path.write_text("\n".join(["date,v,price", *(f"{day},{5 + k % 7},{k}" for k, day in enumerate(days))]))
    splits = read(path, horizon=0, conditions=("price",))
    assert splits.train.data.shape[1:] == (1, 21 + 7)
    assert splits.train.conditions["known"].shape[1] == 1
    assert splits.train.meta["read"] == {"horizon": 0, "conditions": ["price"]}
    for wrong, message in (
        ({"horizon": 3, "length": 9}, "give --context, not --length"),
        ({"context": 9}, "a context of 9 steps needs a horizon"),
        ({"horizon": -1}, "horizon must be at least 0"),
        ({"horizon": 3, "conditions": ("cost",)}, "no column 'cost' to know in advance"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path, **wrong)
    with pytest.raises(ValueError, match="horizon and context are for series, but this is images"):
        read("digits8", horizon=3)
