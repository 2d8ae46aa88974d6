"""The command: what it selects, prints and returns."""

from __future__ import annotations

import json

import pytest
from benchmarks import run
from benchmarks.paired import Row


def test_goals_are_selected_by_name(capsys):
    assert run.parse([]).only == run.GOALS == sorted(run.GOALS, key=lambda goal: int(goal[1:]))
    assert run.parse(["--only", "g4, G1"]).only == ["G4", "G1"]
    assert run.parse(["--smoke"]).smoke
    with pytest.raises(SystemExit) as stop:
        run.parse(["--only", "G4,G99"])
    assert stop.value.code == 2
    assert "unknown goal G99" in capsys.readouterr().err


def test_every_group_is_a_module_that_measures():
    import importlib

    for name in run.GROUPS:
        assert callable(importlib.import_module(f"benchmarks.{name}").measure)


def test_a_row_is_a_line_of_the_table():
    rows = [
        Row("G1", "DDIM", 1.234, 1.5, ours="9 us", floor="6 us", neighbours={"diffusers": 8.04, "azula": "skipped"}),
        Row("G2", "2M", 0.9, 10.0, above=True, note="measured twice"),
        Row("G3", "nothing", float("nan"), 1.0),
    ]
    head, rule, *lines = run.render(rows).splitlines()
    assert head.count("|") == rule.count("|") == 9
    assert lines[0] == "| G1 | DDIM | 1.23 | <= 1.5 | pass | 9 us | 6 us | diffusers 8.0x, azula skipped |"
    assert lines[1] == "| G2 | 2M (measured twice) | 0.9 | >= 10 | falls short |  |  |  |"
    assert lines[2] == "| G3 | nothing | nan | <= 1 | not measured |  |  |  |"


def test_a_run_prints_the_table_and_writes_it(tmp_path, capsys):
    """G4 is measured for real: it counts and compiles, and has no clock."""
    path = tmp_path / "rows.json"
    assert run.main(["--smoke", "--only", "G4", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert {row["goal"] for row in rows} == {"G4"}
    assert all(row["verdict"] == "pass" and row["sound"] and row["value"] == 0 for row in rows)
    assert printed.count("| G4 |") == len(rows) >= 8
    assert "1 thread" in printed


def test_a_gross_regression_and_an_error_fail_the_run(tmp_path, capsys, monkeypatch):
    """Modules of the same shape as the real ones: one past its bound, one that breaks, one that only falls short."""
    import sys
    import types

    def module(name, measure):
        made = types.ModuleType(f"benchmarks.{name}")
        made.measure = measure
        monkeypatch.setitem(sys.modules, made.__name__, made)

    module("slow", lambda effort: [Row("G1", "loop", 9.0, 1.5, bound=4.0)])
    module("short", lambda effort: [Row("G2", "loop", 2.5, 2.0)])

    def broken(effort):
        raise RuntimeError("no such thing")

    module("broken", broken)
    monkeypatch.setattr(run, "GROUPS", {"slow": ("G1",), "short": ("G2",), "broken": ("G3",)})
    monkeypatch.setattr(run, "GOALS", ["G1", "G2", "G3"])
    assert run.main(["--only", "G2"]) == 0
    assert "falls short" in capsys.readouterr().out
    assert run.main(["--only", "G1"]) == 1
    assert "gross regression: G1 loop: 9" in capsys.readouterr().out
    path = tmp_path / "rows.json"
    assert run.main(["--only", "G2,G3", "--json", str(path)]) == 1
    said = capsys.readouterr()
    assert "no such thing" in said.err
    assert [row["value"] for row in json.loads(path.read_text())["rows"]] == [2.5, None]
