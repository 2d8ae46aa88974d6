"""The traffic experiment, cut to two steps, and its verdict on rows made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from condiff.claims import Row, series
from condiff.cli.main import main
from condiff.data.tracks import read_tracks

NAMES = ("seasonal naive 24 h", "seasonal naive 168 h", "linear quantile")


@pytest.mark.parametrize(
    ("lows", "holds"),
    [((40.0, 10.0, 1.0), True), ((40.0, 10.0, -0.1), False), ((40.0, -1.0, 5.0), False), ((-3.0, 10.0, 5.0), False)],
)
def test_the_verdict_is_a_function_of_the_rows(lows, holds):
    rows = [Row(f"gain over {name}", low + 5, "%", 9, (low, low + 10)) for name, low in zip(NAMES, lows, strict=True)]
    assert series.verdict(rows) is holds


def test_the_windows_are_the_last_eight_weeks():
    tracks = read_tracks("traffic")
    test = series.last_weeks(tracks)
    assert len(test) == 56
    assert [len(track) for track in test.tracks] == list(range(17520 - 56 * 24, 17520, 24))
    truth = tracks.tracks[0].values[-56 * 24 :].reshape(56, 24)
    np.testing.assert_array_equal(test.truth.numpy(), truth)


def test_it_runs_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(series, "QUICK", series.Budget(2, 3, 1, 8000, False, False))
    assert main(["reproduce", "series", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False
    at = {row["name"]: row for row in facts["rows"]}
    assert at["WQL, seasonal naive 168 h"]["value"] == pytest.approx(0.0697, abs=1e-4)  # needs no training
    assert at["WQL, seasonal naive 24 h"]["value"] == pytest.approx(0.1451, abs=1e-4)
    assert {"WQL, series", "WQL, linear quantile", "coverage_90, series"} <= at.keys()
    assert at["WQL, series"]["n"] == 56
