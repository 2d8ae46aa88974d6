"""The command: what it selects, prints and returns."""

from __future__ import annotations

import importlib
import json
import sys
import types

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


@pytest.fixture
def groups(monkeypatch):
    """Modules of the same shape as the real ones, which take too long here; each is one goal."""

    def install(**measures):
        goals = {name: (f"G{number}",) for number, name in enumerate(measures, 1)}
        for name, measure in measures.items():
            made = types.ModuleType(f"benchmarks.{name}")
            made.measure = measure
            monkeypatch.setitem(sys.modules, made.__name__, made)
        monkeypatch.setattr(run, "GROUPS", goals)
        monkeypatch.setattr(run, "GOALS", [goal for (goal,) in goals.values()])

    return install


def test_a_run_prints_the_table_and_writes_it(tmp_path, capsys, groups):
    efforts = []

    def short(effort):
        efforts.append(effort.smoke)
        return [Row("G1", "loop", 2.5, 2.0), Row("G2", "not asked for", 1.0, 2.0)]

    groups(short=short, other=lambda effort: [Row("G2", "other", 1.0, 2.0)])
    path = tmp_path / "rows.json"
    assert run.main(["--smoke", "--only", "G1", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| G1 | loop | 2.5 | <= 2 | falls short |" in printed
    assert "not asked for" not in printed
    assert "1 thread" in printed
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["goal"], row["value"], row["verdict"], row["sound"]) == ("G1", 2.5, "falls short", True)
    assert efforts == [True]


def test_a_regression_that_stays_fails_the_run(capsys, groups):
    readings = iter([9.0, 3.0])
    groups(
        slow=lambda effort: [Row("G1", "loop", 9.0, 1.5, bound=4.0)],
        spoilt=lambda effort: [Row("G2", "loop", next(readings), 1.5, bound=4.0)],
    )
    assert run.main(["--only", "G1"]) == 1
    assert "gross regression: G1 loop: 9" in capsys.readouterr().out
    assert run.main(["--smoke", "--only", "G1"]) == 0  # a brief run says it, and fails on errors only
    assert "gross regression: G1 loop: 9" in capsys.readouterr().out
    assert run.main(["--only", "G2"]) == 0  # measured again, it is sound
    assert "| G2 | loop | 3 |" in capsys.readouterr().out


def test_an_error_fails_the_run_and_hides_nothing(tmp_path, capsys, groups):
    def broken(effort):
        raise RuntimeError("no such thing")

    groups(broken=broken, short=lambda effort: [Row("G2", "loop", 2.5, 2.0)])
    path = tmp_path / "rows.json"
    assert run.main(["--json", str(path), "--only", "G1,G2"]) == 1
    said = capsys.readouterr()
    assert "no such thing" in said.err
    assert [row["value"] for row in json.loads(path.read_text())["rows"]] == [None, 2.5]
