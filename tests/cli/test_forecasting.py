"""`condiff train`, `forecast`, `impute`, `eval` and `replay` of series, on a run of two steps."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from condiff.cli.main import main
from condiff.data.tracks import read_tracks

DAYS = np.datetime64("2024-01-01") + np.arange(130)


def table(path, factor=1.0, days=120):
    lines = ["item_id,timestamp,target,price"]
    for item, size in (("apples", 100), ("pears", 40)):
        for k, day in enumerate(DAYS):
            value = "" if k >= days or k in (50, 51) else f"{factor * (size * (1 + (k % 7 == 5)) + k % 3):.6f}"
            lines.append(f"{item},{day},{value},{1 + (k % 11 == 0)}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("series")
    table(place / "sales.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = "train sales.csv --horizon 5 --condition price --out run --steps 2 --batch-size 8 --width 32 --depth 1"
        assert main(words.split()) == 0
    return place


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def rows(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# condiff {")
    return list(csv.DictReader(lines[1:]))


def test_a_forecast_is_a_table_with_its_recipe_and_replays(folder, capsys):
    assert main("forecast run --out f.csv -n 8 --steps 2 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["series"], told["horizon"], told["made_by"]) == (2, 5, "condiff forecast")
    assert told["calls"] == 3  # one a step of the solver, and one for the last estimate
    found = rows(folder / "f.csv")
    assert [row["item_id"] for row in found] == ["apples"] * 5 + ["pears"] * 5
    assert found[0]["timestamp"] == str(DAYS[120])
    assert list(found[0])[2:] == ["mean", "q05", "q10", "q25", "q50", "q75", "q90", "q95"]
    levels = np.array([[float(row[name]) for name in list(row)[3:]] for row in found])
    assert (np.diff(levels, axis=1) >= 0).all()
    assert main(["replay", "f.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "equal"
    (folder / "g.csv").write_text((folder / "f.csv").read_text().replace(found[3]["q50"], "1e9"))
    assert main(["replay", "g.csv"]) == 1
    assert "different" in capsys.readouterr().out
    assert main("info f.csv --json".split()) == 0


def test_the_scale_law_holds_from_file_to_file(folder):
    table(folder / "thousand.csv", factor=1000.0)
    for name in ("sales", "thousand"):
        assert main(f"forecast run --data {name}.csv --out {name}_f.csv -n 4 --steps 2".split()) == 0
    one, other = (rows(folder / f"{name}_f.csv") for name in ("sales", "thousand"))
    for a, b in zip(one, other, strict=True):
        assert float(b["q50"]) == pytest.approx(1000 * float(a["q50"]), rel=1e-4, abs=0.1)


def test_a_forecast_from_the_past_stands_beside_the_truth(folder, capsys):
    pytest.importorskip("matplotlib")
    assert main("forecast run --from 2024-04-10 --out p.csv --plot p.png -n 4 --steps 2".split()) == 0
    found = rows(folder / "p.csv")
    assert found[0]["timestamp"] == "2024-04-10"
    assert float(found[0]["truth"]) == 100 + 100 % 3
    with Image.open(folder / "p.png") as picture:
        assert json.loads(picture.info["condiff"])["from"] == "2024-04-10"
    assert main("replay p.csv".split()) == 0
    assert main("replay p.png".split()) == 1
    assert "replay the table that was made with it" in capsys.readouterr().err


def test_gaps_are_filled_and_the_rest_comes_back(folder, capsys):
    assert main("impute run --out i.csv -n 4 --steps 2 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["filled"], told["calls"]) == (4, 3)
    found = rows(folder / "i.csv")
    assert len(found) == 240
    assert [row["timestamp"] for row in found if row["filled"] == "1"] == [str(DAYS[50]), str(DAYS[51])] * 2
    assert all(float(row["q05"]) <= float(row["target"]) <= float(row["q95"]) for row in found if row["filled"] == "1")
    assert float(found[5]["target"]) == 100 * 2 + 5 % 3
    assert main("replay i.csv".split()) == 0
    table(folder / "again.csv")
    assert main("impute run --data again.csv --out j.csv -n 4 --steps 2".split()) == 0
    table(folder / "again.csv", factor=2.0)
    assert main("replay j.csv".split()) == 1
    assert "have changed since" in capsys.readouterr().out


def test_times_of_a_table_are_written_alike(folder, capsys):
    hours = np.datetime64("2024-01-01T00") + np.arange(200)
    lines = [f"{hour},{'' if k in (70, 71, 72, 73) else k % 24 + k % 5}" for k, hour in enumerate(hours)]
    (folder / "hours.csv").write_text("\n".join(["time,v", *lines]))
    words = "--horizon 6 --out runs.csv --steps 1 --batch-size 8 --width 32 --depth 1"
    assert main(f"train hours.csv {words}".split()) == 0
    assert main("forecast runs.csv --horizon 18 --out h.csv -n 4 --steps 2".split()) == 0
    assert [row["timestamp"] for row in rows(folder / "h.csv")][15:17] == ["2024-01-09 23:00:00", "2024-01-10 00:00:00"]
    old = (folder / "h.csv").read_text().replace("2024-01-10 00:00:00", "2024-01-10")
    (folder / "h.csv").write_text(old)  # as earlier versions wrote midnight
    capsys.readouterr()
    assert main("replay h.csv --json".split()) == 0
    (folder / "h.csv").write_text(old.replace("2024-01-10,", "2024-01-11,"))
    assert main("replay h.csv --json".split()) == 1
    assert main("impute runs.csv --out hi.csv -n 4 --steps 2".split()) == 0
    assert rows(folder / "hi.csv")[72]["timestamp"] == "2024-01-04 00:00:00"
    assert main("info runs.csv".split()) == 0  # a folder of this name is a run


@pytest.mark.parametrize("verb", ["forecast", "impute"])
def test_data_are_never_overwritten(folder, capsys, verb):
    table(folder / "mine.csv")
    mine, learned = (folder / "mine.csv").read_bytes(), (folder / "sales.csv").read_bytes()
    for out in ("mine.csv", f"{folder}/mine.csv", "sales.csv"):
        capsys.readouterr()
        assert main(f"{verb} run --data mine.csv --out {out} -n 4 --steps 1".split()) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"--out {out} would overwrite the data" in last
    assert ((folder / "mine.csv").read_bytes(), (folder / "sales.csv").read_bytes()) == (mine, learned)


def test_a_table_that_was_filled_is_data_again(folder):
    assert main("impute run --out full.csv -n 4 --steps 2".split()) == 0
    found = read_tracks("full.csv")
    assert [track.name for track in found.tracks] == ["apples", "pears"]
    assert found.missing == 0
    broken = (folder / "full.csv").read_text().splitlines()
    broken[9] = broken[9].replace(",0,,", ",0,")
    (folder / "full.csv").write_text("\n".join(broken))
    with pytest.raises(ValueError, match="line 10: expected 6 cells"):
        read_tracks("full.csv")


def test_values_between_two_gaps_are_seen(tmp_path):
    pytest.importorskip("matplotlib")
    from condiff.cli.forecasting import draw_forecast
    from condiff.data.frequency import DAY, Frequency
    from condiff.data.tracks import Track
    from condiff.data.windows import Window
    from condiff.tasks.forecast import Forecast

    dark = []
    for name, values in (("every other", [1.0, np.nan] * 10), ("none", [np.nan] * 20)):
        track = Track("a", DAY * np.arange(22), np.array(values), np.empty((22, 0)))
        found = Forecast((track,), torch.full((1, 3, 2), 1.0))
        draw_forecast(tmp_path / f"{name}.png", found, Window(2, 20, frequency=Frequency(DAY)), None, {})
        with Image.open(tmp_path / f"{name}.png") as picture:
            dark.append(int((np.asarray(picture.convert("RGB")) == 51).all(2).sum()))
    assert dark[0] > dark[1] + 50


def test_what_was_there_comes_back_to_the_last_digit(folder):
    values = [123456789.25 + k % 7 if k not in (60, 61) else "" for k in range(120)]
    (folder / "large.csv").write_text(
        "\n".join(["date,v,price", *(f"{d},{v},1" for d, v in zip(DAYS, values, strict=False))])
    )
    assert main("impute run --data large.csv --out l.csv -n 4 --steps 2".split()) == 0
    found = rows(folder / "l.csv")
    assert [float(row["target"]) for row in found if row["filled"] == "0"] == [v for v in values if v != ""]
    assert float(found[60]["q05"]) < float(found[60]["q95"])  # bands far smaller than the level keep their digits


def test_progress_of_several_series_counts_them_together(folder, monkeypatch):
    from condiff.cli import forecasting

    told = []
    monkeypatch.setattr(forecasting, "Left", lambda what, quiet: lambda done, total: told.append((done, total)))
    assert main("impute run --out i2.csv -n 4 --steps 2".split()) == 0
    assert told == [(2, 4), (4, 4)]


def test_an_evaluation_has_baselines_on_the_same_windows(folder, capsys):
    assert main("eval run --quick -n 10 --windows 3 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["windows"] == 3
    assert set(told["baselines"]) == {"seasonal_naive_7", "seasonal_errors_7", "linear_quantile"}
    for metric in told["metrics"]:
        assert metric["definition"]
        assert metric["interval"][0] <= metric["value"] <= metric["interval"][1]
    assert {metric["name"] for metric in told["metrics"]} >= {
        "weighted_quantile_loss",
        "ensemble_crps",
        "mase",
        "energy_score",
    }
    assert told["gains"]["linear_quantile"]["name"] == "weighted_quantile_loss_gain"
    page = (folder / "run" / "report.html").read_text()
    assert "Beside baselines" in page
    assert main("eval run --quick -n 10 --windows 3".split()) == 0
    said = capsys.readouterr().out
    gain, loss = told["gains"]["linear_quantile"], told["baselines"]["linear_quantile"][0]
    row = next(line for line in said.splitlines() if f"{100 * gain['value']:.1f} %" in line)
    assert row.startswith("linear_quantile")
    assert f"{loss['interval'][0]:.4g} to {loss['interval'][1]:.4g}" in row  # every loss with its interval
    lines = [f"{day},5,1" for day in DAYS[:100]]
    (folder / "still.csv").write_text("\n".join(["date,v,price", *lines]))
    assert main("eval run --data still.csv --quick -n 10 --windows 3 --json".split()) == 0
    said = capsys.readouterr()
    assert "the linear quantile model is left out: still.csv: no training window" in said.err
    assert json.loads(said.out)["metrics"][0]["value"] == 0  # what never changed is forecast exactly


def test_an_evaluation_on_other_data_stands_beside_the_runs_own(folder, capsys):
    words = "-n 10 --windows 3 --quick"
    assert main(f"eval run {words} --json".split()) == 0
    own = (folder / "run" / "eval.json").read_bytes()
    assert main(f"eval run --data {folder}/sales.csv {words}".split()) == 0  # the same file, by another name
    assert (folder / "run" / "eval.json").read_bytes() != own  # it says what was typed
    assert main(f"eval run {words}".split()) == 0
    assert (folder / "run" / "eval.json").read_bytes() == own
    for place in ("jan", "feb"):
        (folder / place).mkdir()
        table(folder / place / "new sales.csv", factor=3.0)
        capsys.readouterr()
        assert main(["eval", "run", "--data", f"{place}/new sales.csv", *words.split()]) == 0
        assert "run/eval-" in capsys.readouterr().err
    names = {path.name: json.loads(path.read_text())["data"] for path in (folder / "run").glob("eval-*sales*.json")}
    assert names == {
        "eval-new-sales.csv.json": "jan/new sales.csv",
        "eval-feb-new-sales.csv.json": "feb/new sales.csv",  # another file of that name
    }
    assert main(["eval", "run", "--data", "feb/new sales.csv", *words.split()]) == 0
    assert len(list((folder / "run").glob("eval-*sales*.json"))) == 2
    assert (folder / "run" / "eval.json").read_bytes() == own
    page = (folder / "run" / "report.html").read_text()
    assert page.count("<h2>Evaluation</h2>") >= 3
    assert "condiff eval run -n 10 --seed 0 --windows 3 --quick --data &#x27;feb/new sales.csv&#x27;" in page


@pytest.mark.parametrize(
    ("words", "code", "needle"),
    [
        ("forecast run --horizon 40 --out x.csv", 2, "price is known until 2024-05-09"),
        ("forecast run --data nowhere.csv --out x.csv", 2, "nowhere.csv"),
        ("forecast run --from soon --out x.csv", 2, "--from needs a time"),
        ("forecast run --from 1999-01-01 --out x.csv", 2, "no series has a value before it"),
        ("forecast run --solver eule --out x.csv", 2, "did you mean 'euler'"),
        (
            "forecast run --data hourly.csv --out x.csv",
            2,
            "a value every hour, but this system was trained on one every day",
        ),
        ("impute run --data bare.csv --out x.csv", 2, "no column 'price' to know in advance"),
        ("sample run", 2, "use condiff forecast run --data PATH"),
        ("train flat.csv --out y", 2, "never changes before any of its windows"),
        ("train zero.csv --out y", 2, "never changes before any of its windows"),
        ("train one.csv --out y", 2, "the longest series has 1 step(s), but a horizon of"),
        ("train twice.csv --out y", 2, "1 time(s) appear more than once (2024-01-04 00:00:00): keep one row for each"),
        (
            "train clocks.csv --out y",
            2,
            "as on local clocks when summer time ends: write times in UTC or with their offset",
        ),
        ("train mixed.csv --out y", 2, "give series of different frequency in files of their own"),
        ("train digits --horizon 5 --out y", 2, "horizon and context are for series, but this is images"),
        ("train traffic --horizon 9000 --out y", 2, "the longest series has 17520 step(s)"),
        ("train sales.csv --horizon 90 --out y", 2, "give a --horizon of at most 39"),
        ("train hourly.csv --condition cost --out y", 2, "no column 'cost' to know in advance. There are v, price"),
        ("train hourly.csv --condition prcie --out y", 2, "did you mean 'price'?"),
        ("train bare2.csv --horizon 5 --out y", 2, "no column of times; name one timestamp"),
        ("train empty.csv --horizon 5 --out y", 2, "the file is empty"),
        ("train holed.csv --horizon 5 --out y", 2, "validation part (horizons from 2024-04-17 00:00:00 to 2024-04-22"),
    ],
)
def test_wrong_input_gets_one_line(folder, capsys, words, code, needle):
    hours = [f"{DAYS[k // 24]} {k % 24:02d}:00,{k % 24},{1}" for k in range(100)]
    (folder / "hourly.csv").write_text("\n".join(["date,v,price", *hours]))
    (folder / "bare.csv").write_text("\n".join(["date,v", *(f"{day},{k}" for k, day in enumerate(DAYS))]))
    (folder / "flat.csv").write_text("\n".join(["date,v", *(f"{day},5" for day in DAYS)]))
    (folder / "bare2.csv").write_text("a,b\n1,2\n3,4")
    (folder / "empty.csv").write_text("")
    holed = [f"{day},{'' if 90 < k < 126 else k}" for k, day in enumerate(DAYS)]
    (folder / "holed.csv").write_text("\n".join(["date,v", *holed]))
    (folder / "zero.csv").write_text("\n".join(["date,v", *(f"{day},0" for day in DAYS)]))
    (folder / "one.csv").write_text("date,v\n2024-01-01,5")
    (folder / "twice.csv").write_text(
        "\n".join(["date,v", *(f"{day},{k}" for k, day in enumerate(DAYS)), f"{DAYS[3]},1"])
    )
    clocks = [f"2024-10-27 {h:02d}:00,{h}" for h in (0, 1, 2, 2, 3, 4, 5, 6)]
    (folder / "clocks.csv").write_text("\n".join(["date,v", *clocks]))
    mixed = [*(f"a,{day},{k}" for k, day in enumerate(DAYS)), *(f"b,{row[:16]},{k}" for k, row in enumerate(hours))]
    (folder / "mixed.csv").write_text("\n".join(["item_id,date,v", *mixed]))
    assert main(words.split()) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert needle in said[-1], said
    assert not (folder / "x.csv").exists()


def test_progress_says_how_long_it_will_take(capsys, monkeypatch):
    from condiff.cli import forecasting

    clock = iter([0.0, 0.5, 20.0, 21.0, 40.0])
    monkeypatch.setattr(forecasting.time, "monotonic", lambda: next(clock))
    told = forecasting.Left("draws")
    for done in (1, 50, 51, 100):
        told(done, 100)
    assert capsys.readouterr().err.splitlines() == ["draws: 50 of 100, about 20 s left"]  # not at once, nor too often


def test_time_left_is_counted_from_where_a_job_begins(capsys, monkeypatch):
    """A baseline waits for the others: what they took is not its own time."""
    from condiff.cli import forecasting

    clock = iter([0.0, 100.0, 120.0])
    monkeypatch.setattr(forecasting.time, "monotonic", lambda: next(clock))
    told = forecasting.Left("windows")
    for done in (0, 50):
        told(done, 100)
    assert capsys.readouterr().err.splitlines()[-1] == "windows: 50 of 100, about 20 s left"


def test_the_doctor_proposes_a_horizon(folder, capsys):
    assert main(["doctor", "sales.csv"]) == 0
    assert "condiff train sales.csv --horizon 7" in capsys.readouterr().out
    entries = [{"start": "2024-01-01", "target": list(range(400)), "freq": "h"}] * 2
    (folder / "entries.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert main(["doctor", "entries.jsonl"]) == 0
    assert "condiff train entries.jsonl --horizon 24" in capsys.readouterr().out
    (folder / "broken.jsonl").write_text('{"start": "2024-01-01", "target": [1, 2]}')
    assert main(["doctor", "broken.jsonl"]) == 1
    assert "tell the frequency" in capsys.readouterr().out


def test_a_run_that_guides_itself_takes_a_scale_and_makes_windows(folder, capsys):
    words = (
        "train tsdiff --data sales.csv --horizon 5 --lags 7 --out guided --steps 2 --batch-size 8 --width 8 --blocks 1"
    )
    assert main(words.split()) == 0
    assert main("forecast guided --out a.csv -n 4 --steps 3".split()) == 0
    assert main("forecast guided --out b.csv -n 4 --steps 3 --guidance-scale 0".split()) == 0
    one, other = rows(folder / "a.csv"), rows(folder / "b.csv")
    assert [row["timestamp"] for row in one] == [row["timestamp"] for row in other]
    assert [row["q50"] for row in one] != [row["q50"] for row in other]
    assert main(["replay", "b.csv"]) == 0
    assert main("sample guided -n 3 --steps 2 --out w.csv".split()) == 0
    assert len(rows(folder / "w.csv")) == 3
    capsys.readouterr()
    for words, said in (
        ("forecast guided --solver ddim", "guided by its own solver"),
        ("forecast run --guidance-scale 2", "does not guide itself"),
        ("train tsdiff --data sales.csv --horizon 5 --lags 7,x --out other", "whole number"),
        ("train tsdiff --data sales.csv --lags 0 --out other", "1 to 10^9"),
    ):
        assert main(words.split()) == 2
        assert said in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_anything_is_made(folder, monkeypatch, capsys):
    monkeypatch.setattr("condiff.cli.forecast_verb.find_spec", lambda name: None)
    assert main("forecast run --out none.csv --plot none.png".split()) == 2
    assert capsys.readouterr().err == "condiff: --plot needs matplotlib: pip install condiff[plot]\n"
    assert not (folder / "none.csv").exists()


def test_solvers_of_a_run_are_compared_on_the_validation_part(folder, capsys):
    assert main("bench solvers run --solvers ddim,heun --calls 3,7 -n 10 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "run" / "bench_solvers.json").read_text())
    assert [(row["solver"], row["calls"], row["scale"]) for row in told["rows"]] == [
        ("ddim", 3, None), ("ddim", 7, None), ("heun", 3, None), ("heun", 7, None)
    ]  # fmt: skip
    losses = [row["weighted_quantile_loss"]["value"] for row in told["rows"]]
    assert told["split"] == "validation"
    chosen = told["recommendation"]
    picked = [row for row in told["rows"] if (row["solver"], row["calls"]) == (chosen["solver"], chosen["calls"])]
    assert picked[0]["weighted_quantile_loss"]["value"] <= 1.02 * min(losses)
    # What is recommended can be asked for.
    words = f"forecast run --steps {chosen['steps']} --solver {chosen['solver']} -n 4 --out b.csv"
    assert main(words.split()) == 0
    capsys.readouterr()


def test_scales_of_a_run_that_guides_itself_are_compared(folder, capsys):
    words = (
        "train tsdiff --data sales.csv --horizon 5 --lags 7 --out pulled --steps 2 --batch-size 8 --width 8 --blocks 1"
    )
    assert main(words.split()) == 0
    capsys.readouterr()
    assert main("bench solvers pulled --calls 3 --scales 2,8 -n 10 --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["calls"], row["scale"]) for row in told["rows"]] == [(3, 2.0), (3, 8.0)]
    assert told["recommendation"]["solver"] is None
    chosen = told["recommendation"]
    assert chosen["guidance_scale"] in (2.0, 8.0)
    end = "smallest scale tried, so look at smaller" if chosen["guidance_scale"] == 2.0 else "largest scale tried"
    assert end in chosen["why"]
    found = {}
    for scale in ("0", "8"):
        assert main(f"eval pulled --steps 3 --guidance-scale {scale} --quick -n 10 --json".split()) == 0
        found[scale] = json.loads(capsys.readouterr().out)
        assert (found[scale]["num_steps"], found[scale]["guidance_scale"]) == (3, float(scale))
    assert found["0"]["metrics"][0]["value"] != found["8"]["metrics"][0]["value"]
    for wrong, said in (
        ("eval run --guidance-scale 2", "does not guide itself"),
        ("bench solvers pulled --solvers ddim", "leave --solvers out"),
        ("bench solvers pulled --scales 2 --guidance-scale 2", "give one of them"),
        ("bench solvers pulled --fine 50", "--fine cannot be used"),
        ("bench solvers pulled --top-p 0.5", "--top-p cannot be used"),
        ("bench solvers run --scales 2", "leave --scales out"),
        ("bench solvers run --calls 1 --solvers ddim", "two steps"),
    ):
        assert main(wrong.split()) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
