"""`condiff bench solvers`: one JSON object, files beside the run, the same numbers for the same seed."""

from __future__ import annotations

import json

import pytest

from condiff.cli.main import main

FEW = ["--solvers", "ddim,sde", "--calls", "3", "--fine", "20", "-n", "10"]


def answer(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_run_is_compared_and_the_files_lie_in_it(run, capsys):
    facts = answer(capsys, "bench", "solvers", run, *FEW)
    assert facts == json.loads((run / "bench_solvers.json").read_text())
    found = facts["systems"]["digits"]
    assert [(row["solver"], row["calls"], row["stochastic"]) for row in found["rows"]] == [
        ("ddim", 3, False),
        ("sde", 3, True),
    ]
    assert found["rows"][0]["error"]["n"] == 10
    assert found["rows"][1]["error"] is None
    assert found["reference"] == "1000 held-out rows of digits"
    assert "judge" in found["rows"][0]["distance"]["definition"]
    assert found["recommendation"]["solver"] in ("ddim", "sde")
    assert found["recommendation"]["most_accurate"] == "ddim"
    pytest.importorskip("matplotlib")
    assert (run / "bench_solvers.png").stat().st_size > 5000


def test_a_run_without_its_data_is_compared_with_other_noise(tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "\n".join(f"{k},{k * k % 7}" for k in range(400)) + "\n")
    out = tmp_path / "run"
    words = ["train", rows, "--out", out, "--steps", "2", "--batch-size", "8", "--width", "16", "--sample-every", "0"]
    assert main([str(word) for word in words]) == 0
    known = answer(capsys, "bench", "solvers", out, *FEW)
    assert "held-out rows" in known["systems"]["vectors"]["reference"]
    rows.unlink()
    alone = answer(capsys, "bench", "solvers", out / "model.safetensors", *FEW, "--out", tmp_path / "here")
    assert alone["systems"]["vectors"]["reference"] == "fine solutions from other noise"
    assert alone["systems"]["vectors"]["rows"][0]["error"] == known["systems"]["vectors"]["rows"][0]["error"]
    assert (tmp_path / "here" / "bench_solvers.json").is_file()
    assert main(["bench", "solvers", str(out), "--guidance-scale", "2"]) == 2
    assert "takes no condition" in capsys.readouterr().err
    assert main(["bench", "solvers", str(out), "--data", "digits", "-n", "10"]) == 2
    assert "shape" in capsys.readouterr().err


def test_exact_targets_need_no_run_and_print_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["bench", "solvers", "--exact", "--solvers", "ddim,dpm2m", "--calls", "4,8", "--fine", "20", "-n", "10"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out.count("recommended: ") == 4
    assert "64-D mixture, EDM: Frechet distance to exact draws, by network calls" in out
    facts = json.loads((tmp_path / "bench" / "bench_solvers.json").read_text())
    error = {
        (name, row["solver"], row["budget"]): row["error"]["value"]
        for name, found in facts["systems"].items()
        for row in found["rows"]
    }
    assert len(error) == 16
    assert all(error[name, "dpm2m", 8] < error[name, "ddim", 4] for name in facts["systems"])
    assert "bench_solvers.json" in err
