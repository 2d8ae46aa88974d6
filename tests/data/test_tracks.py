"""Series as people have them: wide and long tables, JSON lines, frames, gluonts; and what is said when they are broken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from condiff.data import sniff
from condiff.data.frequency import moment
from condiff.data.tracks import from_entries, from_frame, from_gluonts, read_tracks

NAN = math.nan


def days(count: int, start: str = "2024-01-01"):
    return np.datetime64(start) + np.arange(count)


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "sales.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_wide_table_has_one_series_a_column_each_of_its_own_length(tmp_path: Path):
    rows = [f"{day},{k if k >= 2 else ''},{10 * k if k < 7 else ''}" for k, day in enumerate(days(10))]
    found = read_tracks(table(tmp_path, "date,north,south", *rows))
    assert [track.name for track in found.tracks] == ["north", "south"]
    assert found.frequency.name == "day"
    north, south = found.tracks
    assert north.values.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]  # unequal lengths: what is missing at the ends is cut off
    assert south.values.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert north.seconds[0] == np.datetime64("2024-01-03").astype("datetime64[s]").astype(float)
    assert len(south.seconds) == 7


def test_a_long_table_has_one_series_an_item(tmp_path: Path):
    rows = [f"{item},{day},{scale * k}" for item, scale, n in ((7, 1, 5), (3, 2, 9)) for k, day in enumerate(days(n))]
    found = read_tracks(table(tmp_path, "item_id,timestamp,target", *rows[::-1]))  # items are numbers, rows unsorted
    assert {track.name: len(track) for track in found.tracks} == {"3": 9, "7": 5}
    assert found.tracks[0].values.tolist() == [2.0 * k for k in range(9)]


def test_gaps_become_missing_values(tmp_path: Path):
    rows = [f"{day},{k}" for k, day in enumerate(days(12)) if k not in (4, 5)]
    rows[2] = rows[2].split(",")[0] + ",NA"
    track = read_tracks(table(tmp_path, "date,v", *rows)).tracks[0]
    np.testing.assert_array_equal(track.values, [0, 1, NAN, 3, NAN, NAN, 6, 7, 8, 9, 10, 11])
    assert len(track.seconds) == 12


def test_covariates_are_used_only_when_they_are_named(tmp_path: Path):
    rows = [
        f"a,{day},{k if k < 8 else ''},{100 + k},{'sun' if k % 2 else 'rain'},north" for k, day in enumerate(days(10))
    ]
    rows += [f"b,{day},{k},{200 + k},sun,south" for k, day in enumerate(days(10))]
    path = table(tmp_path, "item_id,timestamp,target,price,weather,region", *rows)
    plain = read_tracks(path)
    assert plain.known == ()
    assert plain.remarks == (
        "not used: price, weather, region; if the future of a column is known, name it with --condition",
    )
    found = read_tracks(path, known=("price", "weather", "region"))
    assert found.known == ("price", "weather=rain", "weather=sun")
    first, second = found.tracks
    assert len(first) == 8
    assert first.known.shape == (10, 3)  # two rows whose target is empty tell what is known of the future
    assert first.known[9].tolist() == [109.0, 0.0, 1.0]
    assert (first.classes, second.classes) == ({"region": "north"}, {"region": "south"})
    assert first.until(5, 2).known.shape == (7, 3)
    assert len(first.until(5, 2)) == 5
    with pytest.raises(
        ValueError, match=r"\.csv: series 'b': price is known until"
    ):  # b's table ends with its last value
        found.ahead(2)


def test_a_text_beside_a_single_series_is_a_condition_and_no_item(tmp_path: Path):
    rows = [f"{day},{k},{'sun' if k % 3 else 'rain'}" for k, day in enumerate(days(10))]
    path = table(tmp_path, "date,v,weather", *rows)
    (plain,) = read_tracks(path).tracks  # not one series a weather, with gaps
    assert (plain.name, len(plain)) == ("v", 10)
    known = read_tracks(path, known=("weather",))
    assert known.known == ("weather=rain", "weather=sun")
    twice = [f"{day},{k},{store},{'sun' if k % 3 else 'rain'}" for k, day in enumerate(days(10)) for store in "ab"]
    found = read_tracks(table(tmp_path, "date,v,store,weather", *twice), known=("weather",))
    assert [track.name for track in found.tracks] == ["a", "b"]
    assert [t.name for t in read_tracks(table(tmp_path, "date,v,store", *(f"{d},1,Rome" for d in days(3)))).tracks] == [
        "Rome"
    ]


def test_short_items_follow_the_frequency_of_the_others(tmp_path: Path):
    """Series of unequal length: what one or three values cannot tell, the other items do."""
    rows = [f"a,{day},{k}" for k, day in enumerate(days(100))]
    rows += [
        f"{item},{days(100)[k]},{k}" for item, places in (("b", [3]), ("c", [3, 5]), ("d", [3, 5, 8])) for k in places
    ]
    found = {track.name: track.values for track in read_tracks(table(tmp_path, "item_id,date,v", *rows)).tracks}
    np.testing.assert_array_equal(found["c"], [3, NAN, 5])
    np.testing.assert_array_equal(found["d"], [3, NAN, 5, NAN, NAN, 8])
    workdays = np.busday_offset(np.datetime64("2024-01-01"), np.arange(60))
    rows = [f"{item},{day},1" for item, count in (("a", 60), ("b", 5)) for day in workdays[:count]]
    found = read_tracks(table(tmp_path, "item_id,date,v", *rows))
    assert found.frequency.name == "working day"
    assert [len(track) for track in found.tracks] == [60, 5]
    rows = [f"{item},{day},1" for item, dates in (("a", workdays), ("b", days(40))) for day in dates]
    found = read_tracks(
        table(tmp_path, "item_id,date,v", *rows)
    )  # a shop that is closed on Sundays beside one that is not
    assert (found.frequency.name, len(found.tracks[1])) == ("day", 40)
    np.testing.assert_array_equal(np.isnan(found.tracks[0].values[:8]), [False] * 5 + [True] * 2 + [False])


def test_days_without_a_row_are_missing_however_many(tmp_path: Path):
    places = [0, 1, 3, 4, 7, 9, 10, 11, 15, 18, 19, 23]
    (track,) = read_tracks(table(tmp_path, "date,v", *(f"{days(30)[k]},{k}" for k in places))).tracks
    assert np.flatnonzero(~np.isnan(track.values)).tolist() == places


def test_looking_ahead_needs_what_is_known_in_advance(tmp_path: Path):
    rows = [f"{day},{k if k < 8 else ''},{k}" for k, day in enumerate(days(10))]
    path = table(tmp_path, "date,v,price", *rows)
    with pytest.raises(
        ValueError, match=r"price is known until 2024-01-10 .* need it 1 step\(s\) longer; add rows with an empty"
    ):
        read_tracks(path, known=("price",)).ahead(3)
    ahead = read_tracks(table(tmp_path, "date,v", *(row.rsplit(",", 1)[0] for row in rows))).ahead(3).tracks[0]
    assert len(ahead) == 8
    assert (ahead.seconds[-3:] == days(3, "2024-01-09").astype("datetime64[s]").astype(float)).all()
    with pytest.raises(ValueError, match="has one value, so nobody knows when the next one comes"):
        read_tracks(table(tmp_path, "date,v", "2024-01-01,4")).ahead(3)


def test_empty_cells_at_the_end_are_not_known(tmp_path: Path):
    """A price that was not filled in is no price: it ends what is known, and never counts as the mean."""
    rows = [
        f"a,{day},{k if k < 8 else ''},{k if k < 9 else ''},{('rain', 'sun')[k % 2] if k < 10 else ''}"
        for k, day in enumerate(days(12))
    ]
    path = table(tmp_path, "item_id,date,target,price,weather", *rows)
    for known, length in ((("price",), 9), (("weather",), 10), (("price", "weather"), 9)):
        (track,) = read_tracks(path, known=known).tracks
        assert len(track.seconds) == len(track.known) == length
    with pytest.raises(ValueError, match="price is known until 2024-01-09"):
        read_tracks(path, known=("price",)).ahead(2)
    holed = table(
        tmp_path, "date,v,weather", *(f"{day},{k},{'' if k == 2 else 'sun'}" for k, day in enumerate(days(4)))
    )
    np.testing.assert_array_equal(read_tracks(holed, known=("weather",)).tracks[0].known[:, 0], [1, 1, NAN, 1])


def test_json_lines_of_gluonts(tmp_path: Path):
    path = tmp_path / "data.json"
    entries = [
        {
            "start": "2024-01-01",
            "target": [1, None, 3],
            "item_id": "a",
            "feat_dynamic_real": [[5, 6, 7, 8]],
            "feat_static_cat": [4.0],
            "feat_static_real": [0.5],
        },
        {
            "start": "2024-01-02 00:00",
            "target": ["NaN", 2.5],
            "item_id": "b",
            "feat_dynamic_real": [[5, 6]],
            "feat_static_cat": [2],
        },
    ]
    path.write_text("\n".join(map(json.dumps, entries)) + "\n")
    assert sniff(path) == "series"
    with pytest.raises(ValueError, match=r'tell the frequency; add "freq": "h" to every line'):
        read_tracks(path)
    (tmp_path / "metadata.json").write_text('{"freq": "D", "prediction_length": 3}')
    found = read_tracks(path, known=("price",))
    assert found.frequency.name == "day"
    np.testing.assert_array_equal(found.tracks[0].values, [1, NAN, 3])
    assert found.tracks[0].known[:, 0].tolist() == [5, 6, 7, 8]
    assert found.tracks[0].classes == {"static0": "4"}
    assert found.remarks == ("feat_static_real is not used: pass it as a row of feat_dynamic_real",)
    assert found.tracks[1].values.tolist() == [2.5]
    with pytest.raises(ValueError, match="1 row.s. of feat_dynamic_real, but 2 are named"):
        read_tracks(path, known=("price", "promo"))


def dated(write, count=20, decimal="{:.1f}".format, between=","):
    moments = [np.datetime64("2024-01-31") + k for k in range(count)]
    return [
        f"when{between}v",
        *(f"{write(*str(m).split('-'))}{between}{decimal(1000 + k + k / 10)}" for k, m in enumerate(moments)),
    ]


@pytest.mark.parametrize(
    "write",
    [
        lambda y, m, d: f"{d}.{m}.{y}",
        lambda y, m, d: f"{int(d)}.{int(m)}.{y} 00:00",
        lambda y, m, d: f"{m}/{d}/{y}",
        lambda y, m, d: f"{int(d)}/{int(m)}/{y}",
        lambda y, m, d: f"{d}-{m}-{y}",
        lambda y, m, d: f"{y}/{m}/{d}",
    ],
    ids=["points", "points and a time", "month first", "day first", "dashes", "year first"],
)
def test_dates_in_any_order_that_leaves_no_doubt(tmp_path: Path, write):
    found = read_tracks(table(tmp_path, *dated(write)))
    assert found.frequency.name == "day"
    assert moment(found.tracks[0].seconds[0]) == "2024-01-31 00:00:00"
    assert found.tracks[0].values[3] == 1003.3


@pytest.mark.parametrize("sign", ["/", "-"])
def test_dates_that_may_be_read_two_ways_are_refused(tmp_path: Path, sign):
    both = [f"0{1 + k}{sign}02{sign}2024,{k}" for k in range(9)]  # February or nine months
    mixed = [f"{'13' if k % 2 else '02'}{sign}{'02' if k % 2 else '13'}{sign}2024,{k}" for k in range(9)]
    for lines in (both, mixed):
        with pytest.raises(ValueError, match="is not a date that has one meaning: write dates as 2024-01-31"):
            read_tracks(table(tmp_path, "when,v", *lines))


def test_whole_numbers_are_years_where_the_column_is_called_so(tmp_path: Path):
    found = read_tracks(table(tmp_path, "year,v", *(f"{1960 + k},{k}" for k in range(20))))
    assert found.frequency.name == "year"
    assert moment(found.tracks[0].seconds[-1]) == "1979-01-01 00:00:00"
    found = read_tracks(table(tmp_path, "time,v", *(f"{1960 + k},{k}" for k in range(20))))
    assert found.frequency.name == "second"


@pytest.mark.parametrize(
    ("decimal", "values"),
    [
        (lambda v: f"{v:.1f}".replace(".", ","), [1000.0, 1001.1]),
        (lambda v: f"{v:,.1f}".replace(",", " ").replace(".", ",").replace(" ", "."), [1000.0, 1001.1]),
        (lambda v: f"-{v:,.2f}".translate(str.maketrans(",.", ".,")), [-1000.0, -1001.1]),
    ],
    ids=["comma", "points between thousands", "negative"],
)
def test_decimal_commas_where_columns_are_told_apart_otherwise(tmp_path: Path, decimal, values):
    found = read_tracks(table(tmp_path, *dated(lambda *d: "-".join(d), decimal=decimal, between=";")))
    assert found.tracks[0].values[:2].tolist() == values


@pytest.mark.parametrize(
    ("decimal", "between"),
    [(lambda v: f'"{v:,.2f}"', ","), (lambda v: f"{v:,.0f}", ";"), (lambda v: f'"{v:.1f}"'.replace(".", ","), ",")],
    ids=["thousands", "a comma before three digits", "decimals in quotes"],
)
def test_commas_that_may_be_read_two_ways_are_refused(tmp_path: Path, decimal, between):
    lines = dated(lambda *d: "-".join(d), decimal=decimal, between=between)
    path = table(tmp_path, *lines)
    with pytest.raises(
        ValueError, match=r"column v: '1,?000.*' in line 2 is no number that has one meaning: write 1234.5"
    ):
        read_tracks(path)
    beside = [f"{line}{between}{'w' if not k else k}" for k, line in enumerate(lines)]  # not left out beside others
    with pytest.raises(ValueError, match="column v: .* is no number"):
        read_tracks(table(tmp_path, *beside))


@pytest.mark.parametrize(
    ("freq", "name", "second"),
    [("30min", "30 minutes", "2024-01-31T00:30"), ("B", "working day", "2024-02-01"), ("W-SUN", "week", "2024-02-07"), ("2H", "2 hours", "2024-01-31T02"),
     ("ME", "month", "2024-02-29"), ("MS", "month", "2024-02-29"), ("QE-DEC", "3 months", "2024-04-30"), ("Y", "year", "2025-01-31")],
)  # fmt: skip
def test_frequencies_of_pandas(freq, name, second):
    found = from_entries([{"start": "2024-01-31", "target": [1, 2]}], freq=freq)
    assert found.frequency.name == name
    assert found.tracks[0].seconds[1] == np.datetime64(second).astype("datetime64[s]").astype(float)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"target": [1]}, "entry 0 has no start"),
        ({"start": "2024-01-01", "target": [[1, 2], [3, 4]]}, r"target of shape \(2, 2\)"),
        ({"start": "soon", "target": [1]}, "starts at 'soon', which is no date"),
        ({"start": "2024-01-01", "target": ["x"]}, "something that is no number"),
        ({"start": "2024-01-01", "target": [None]}, "no entry has a value"),
    ],
)
def test_broken_entries_are_explained(entry, message):
    with pytest.raises(ValueError, match=message):
        from_entries([entry], freq="D")
    with pytest.raises(ValueError, match="frequency 'fortnight' is not known"):
        from_entries([entry], freq="fortnight")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["date,v", "2024-01-01,1", "2024-01-01,2", "2024-01-02,3"], r"1 time\(s\) appear more than once \(2024-01-01 00:00:00\): keep one row"),
        (["date,store,v", "2024-01-01,1,10.5", "2024-01-01,2,11"], r"if a column tells series apart, call it item_id \(store\?\)"),
        (["date,target", "2024-01-01,1", "2024-01-01,2"], r"if a column tells series apart, call it item_id$"),
        (["item_id,date,v", *(f"a,2024-01-0{k},1" for k in (1, 2, 3)), *(f"b,2024-01-01 0{k}:00,1" for k in (1, 2, 3))],
         "item a has a value every day, but item b every hour: give series of different frequency in files of their own"),
        (["date,v", *(f"2024-10-27 0{h}:00,1" for h in (0, 1, 2, 2, 3, 4))], r"as on local clocks when summer time ends: write times in UTC or with their offset"),
        (["date,v", *(f"2024-01-01 0{h},1" for h in ("0:00", "1:00", "2:00", "2:20", "3:20"))], "times have no regular step"),
        (["date,v", "2024-01-01,", "2024-01-02,"], "no series has a value"),
        (["a,b", "1,2", "3,4"], "no column of times"),
        (["date,v", "2024-01-01,inf", "2024-01-02,1"], "column v: infinite in line 2"),
    ],
)  # fmt: skip
def test_broken_series_are_explained_in_one_line(tmp_path: Path, lines, message):
    path = table(tmp_path, *lines)
    with pytest.raises(ValueError, match=message) as caught:
        read_tracks(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_odd_but_right(tmp_path: Path):
    """Constants, zeros, runs of missing values, the hour that spring leaves out, and local times with their offset."""
    rows = [f"{day},5,0,{k if k < 4 or k > 30 else ''}" for k, day in enumerate(days(40))]
    found = read_tracks(table(tmp_path, "date,five,zero,hole", *rows))
    assert np.isnan(found.tracks[2].values).sum() == 27
    assert set(found.tracks[0].values) == {5.0}
    hours = [f"2024-03-31 {h:02d}:00,{h}" for h in range(8) if h != 2]
    assert (
        np.isnan(read_tracks(table(tmp_path, "time,v", *hours)).tracks[0].values).tolist()
        == [False] * 2 + [True] + [False] * 5
    )
    offset = [
        "2024-10-27T01:00+02:00,1",
        "2024-10-27T02:00+02:00,2",
        "2024-10-27T02:00+01:00,3",
        "2024-10-27T03:00+01:00,4",
    ]
    assert read_tracks(table(tmp_path, "time,v", *offset)).tracks[0].values.tolist() == [1, 2, 3, 4]


def test_the_bundled_traffic():
    found = read_tracks("traffic", known=("temperature",))
    assert (len(found.tracks[0]), found.known, found.frequency.periods) == (17520, ("temperature",), (24, 168))
    assert found.tracks[0].known.shape == (17520, 1)
    with pytest.raises(ValueError, match="no column 'rain' to know in advance; there is temperature"):
        read_tracks("traffic", known=("rain",))


def test_frames_of_pandas():
    pd = pytest.importorskip("pandas")
    index = pd.date_range("2024-01-01", periods=6, freq="h", tz="Europe/Berlin")
    wide = from_frame(pd.DataFrame({"a": range(6), "b": 2.0}, index=index))
    assert [(t.name, t.values.tolist()) for t in wide.tracks] == [("a", [0, 1, 2, 3, 4, 5]), ("b", [2.0] * 6)]
    assert wide.tracks[0].seconds[0] == index[0].timestamp()
    long = pd.DataFrame(
        {"item_id": ["x"] * 3 + ["y"] * 2, "timestamp": [*index[:3], *index[:2]], "target": [1, 2, 3, 4, np.nan]}
    )
    assert {t.name: t.values.tolist() for t in from_frame(long).tracks} == {"x": [1, 2, 3], "y": [4]}
    both = from_frame(long.set_index(["item_id", "timestamp"]))  # item and time as index
    assert [t.name for t in both.tracks] == ["x", "y"]
    with pytest.raises(ValueError, match="columns have several levels; join their names"):
        from_frame(pd.DataFrame([[1, 2]], index=index[:1], columns=pd.MultiIndex.from_product([["a"], ["b", "c"]])))
    months = pd.DataFrame({"v": range(24)}, index=pd.period_range("2020-01", periods=24, freq="M"))
    assert from_frame(months).frequency.name == "month"


@pytest.mark.slow  # the import of gluonts alone takes four seconds
def test_data_sets_of_gluonts():
    pytest.importorskip("gluonts")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from gluonts.dataset.common import ListDataset
        from gluonts.dataset.pandas import PandasDataset

        frame = pd.DataFrame({"target": np.arange(10.0)}, index=pd.date_range("2024-01-01", periods=10, freq="D"))
        made = [
            ListDataset([{"start": "2024-01-01", "target": np.arange(10.0), "item_id": "a"}], freq="D"),
            PandasDataset({"a": frame}),
        ]
        for dataset in made:
            found = from_gluonts(dataset)
            assert found.frequency.name == "day"
            assert [(t.name, t.values.tolist()) for t in found.tracks] == [("a", list(range(10)))]
        long = pd.concat(
            pd.DataFrame({"item_id": name, "timestamp": frame.index, "target": [*range(8), NAN, NAN], "price": k})
            for k, name in ((1.0, "a"), (2.0, "b"))
        )
        static = pd.DataFrame({"region": pd.Categorical(["north", "south"])}, index=["a", "b"])
        whole = PandasDataset.from_long_dataframe(
            long, item_id="item_id", timestamp="timestamp", target="target", feat_dynamic_real=["price"],
            static_features=static, future_length=2, freq="D",
        )  # fmt: skip
        found = from_gluonts(whole, known=("price",))
        for track, price, code in zip(found.tracks, (1.0, 2.0), "01", strict=True):
            assert len(track) == 8
            assert track.known.tolist() == [[price]] * 10  # two steps further than the target
            assert track.classes == {"static0": code}
