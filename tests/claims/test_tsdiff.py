"""The verdict on rows made by hand, one breach at a time; the parts of the experiment; and a run cut short."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from condiff.claims import Row, tsdiff
from condiff.claims.tsdiff import COND, CONTEXT, LINEAR, NAIVE, OURS, SQUARE, WEEK
from condiff.cli.main import main
from condiff.data.tracks import read_tracks

GOOD = {
    OURS: 0.05, SQUARE: 0.06, COND: 0.048, NAIVE: 0.14, WEEK: 0.04, f"90 % band of {OURS}": 90.0,
    f"gain of {NAIVE} refined as chosen": 20.0, f"gain of {LINEAR} refined as chosen": 1.0,
    f"gain of {COND} refined as chosen": -1.0, "LPS, real windows": 0.06, "LPS, synthetic windows": 0.07,
    "LPS, Gaussian windows": 0.09, "gain over models trained for another pattern": 5.0,
}  # fmt: skip


def rows(title="traffic", **changed):
    return [Row(f"{title}: {name}", changed.get(name, value), "", 20, (0.0, 0.0)) for name, value in GOOD.items()]


def test_it_holds_where_every_part_does():
    assert tsdiff.verdict(rows())
    assert tsdiff.verdict([*rows(), *[row for row in rows("demand") if "another pattern" not in row.name]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (OURS, 0.053), (SQUARE, 0.15), (SQUARE, 0.049), (NAIVE, 0.055), (f"90 % band of {OURS}", 79.0),
        (f"90 % band of {OURS}", 97.5), (f"gain of {NAIVE} refined as chosen", -0.1),
        (f"gain of {LINEAR} refined as chosen", -0.1), (f"gain of {COND} refined as chosen", -2.1),
        ("LPS, synthetic windows", 0.1), ("gain over models trained for another pattern", -0.1),
    ],
)  # fmt: skip
def test_one_breach_is_enough(name, value):
    assert not tsdiff.verdict(rows(**{name: value}))
    assert not tsdiff.verdict([*rows("demand"), *rows(**{name: value})])


def test_gaps_lie_in_the_context_and_nowhere_else():
    test = tsdiff.rolling(read_tracks("traffic"), 3, 1)
    for pattern in ("random", "begin", "end"):
        broken = tsdiff.with_gaps(test, pattern, 0)
        for old, new in zip(test.tracks, broken.tracks, strict=True):
            lost = np.isnan(new.values) & ~np.isnan(old.values)
            assert lost[:-CONTEXT].sum() == 0
            assert lost[-CONTEXT:].sum() >= 40
            assert lost[-1] == (pattern == "end") or pattern == "random"
        assert torch.equal(broken.truth.nan_to_num(), test.truth.nan_to_num())


def test_a_surrogate_keeps_the_spectrum_alone():
    windows = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 24)).cumsum(1))
    other = tsdiff.surrogate(windows, 0)
    torch.testing.assert_close(torch.fft.rfft(other).abs()[:, :-1], torch.fft.rfft(windows).abs()[:, :-1])
    torch.testing.assert_close(other.mean(1), windows.mean(1))
    assert float((other - windows).abs().max()) > 0.5


def test_the_second_series_is_hourly_and_whole():
    title, tracks = tsdiff.second()
    assert title in ("demand", "temperature")
    track = tracks.tracks[0]
    assert len(track) == len(track.seconds) >= 2016
    assert set(np.diff(track.seconds)) == {3600.0}


def test_it_runs_from_the_command_line(monkeypatch, tmp_path, capsys):
    budget = tsdiff.Budget({"traffic": 2}, 1, 28, 1, 2, 3, 2, 12, 2)
    monkeypatch.setattr(tsdiff, "QUICK", budget)
    monkeypatch.setattr(tsdiff, "SIZE", {"width": 8, "states": 4, "blocks": 1})
    assert main(["reproduce", "tsdiff", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {f"traffic: {name}" for name in GOOD} <= {row["name"] for row in told["rows"]}
    # Pictures need matplotlib, an extra.
    assert (tmp_path / "r" / "forecasts.png").is_file() == (find_spec("matplotlib") is not None)
