"""Wrong input: one clear line that names the thing, the right exit code, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from cli.conftest import TINY
from PIL import Image

from condiff.cli.main import main


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(capsys, words, code, *needles, folder=None):
    """Run a wrong command: its exit code, its one line, and that a folder stayed as it was."""
    before = contents(folder) if folder is not None else None
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("condiff: "), err
    assert "Traceback" not in err
    assert out == ""
    for needle in needles:
        assert str(needle) in last, last
    if folder is not None:
        assert contents(folder) == before


USAGE = [
    (["samle"], ["sample"]),
    (["classify", "x"], ["classify", "sample"]),
    (["forecast"], ["RUN"]),
    (["forecast", "nowhere"], ["nowhere"]),
    (["forecast", "x", "--out", "x.png"], ["--out", "x.png", ".csv"]),
    (["forecast", "x", "--plot", "x.csv"], ["--plot", "x.csv", ".png"]),
    (["forecast", "x", "--horizon", "0"], ["--horizon", "0"]),
    (["forecast", "x", "--horizont", "3"], ["--horizont", "--horizon"]),
    (["impute", "nowhere"], ["nowhere"]),
    (["--bogus"], ["--bogus"]),
    (["train"], ["RECIPE_OR_PATH"]),
    (["train", "digit"], ["digit", "digits"]),
    (["train", "no/such/folder"], ["no/such/folder"]),
    (["train", "digits", "--step", "5"], ["--step", "--steps"]),
    (["train", "digits", "--steps", "0"], ["steps", "at least 1"]),
    (["train", "digits", "--steps", "many"], ["--steps", "many"]),
    (["train", "digits", "--batch-size", "-4"], ["batch_size"]),
    (["train", "digits", "--learning-rate", "fast"], ["--learning-rate", "fast"]),
    (["train", "digits", "--precision", "fp8"], ["fp8", "bf16"]),
    (["train", "digits", "--widths", "a,b"], ["--widths"]),
    (["train", "digits", "--seed", "x"], ["--seed"]),
    (["train", "digits", "--data", "nowhere"], ["nowhere"]),
    (["train", "mni152"], ["volumes"]),
    (["train", "digits", "--device", "quantum"], ["quantum"]),
    (["train", "digits", "--batch-size", "10", "--accumulate", "3"], ["10", "3"]),
    (["sample", "nowhere"], ["nowhere"]),
    (["sample"], ["RUN"]),
    (["info", "nowhere"], ["nowhere"]),
    (["replay", "nowhere.png"], ["nowhere.png"]),
    (["doctor", "nowhere"], ["nowhere"]),
    (["eval", "nowhere"], ["nowhere"]),
    (["reproduce", "digit"], ["digit"]),
    (["reproduce", "images"], ["images", "digits"]),
    (["systems", "extra"], ["extra"]),
    (["bench"], ["kind", "solvers"]),
    (["bench", "solver", "x"], ["solver", "solvers"]),
    (["bench", "solvers"], ["RUN", "--exact"]),
    (["bench", "--json"], ["kind", "solvers"]),
    (["bench", "solvers", "nowhere"], ["nowhere"]),
    (["bench", "solvers", "x", "--exact"], ["--exact", "x"]),
    (["bench", "solvers", "--exact", "--data", "digits"], ["--data", "--exact"]),
    (["bench", "solvers", "--exact", "--guidance-scale", "2"], ["--guidance-scale", "--exact"]),
    (["bench", "solvers", "--exact", "--calls", "5,0"], ["--calls", "0"]),
    (["bench", "solvers", "--exact", "--calls", "1,5"], ["--calls", "at least 2"]),
    (["bench", "solvers", "--exact", "--calls", "few"], ["--calls", "few"]),
    (["bench", "solvers", "--exact", "--solvers", "eule"], ["eule", "euler"]),
    (["bench", "solvers", "--exact", "-n", "3"], ["-n", "10"]),
    (["bench", "solvers", "--exact", "--fine", "5"], ["--fine", "20"]),
    (["bench", "solvers", "--exact", "--bogus"], ["--bogus"]),
]


@pytest.mark.parametrize(("words", "needles"), USAGE, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_wrong_usage(words, needles, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capsys, words, 2, *needles, folder=tmp_path)


SAMPLING = [
    (["-n", "0"], ["-n", "0"]),
    (["-n", "1e9"], ["1e9"]),
    (["--steps", "0"], ["--steps"]),
    (["--steps", "two"], ["two"]),
    (["--solver", "eule"], ["eule", "euler"]),
    (["--guidance-scale", "nan"], ["nan"]),
    (["--guidance-scale", "much"], ["much"]),
    (["--cond", "label"], ["NAME=VALUE"]),
    (["--cond", "label=12"], ["12", "0 to 9"]),
    (["--cond", "label=-1"], ["-1"]),
    (["--cond", "lable=1"], ["lable", "label"]),
    (["--cond", "label=cat"], ["cat"]),
    (["--cond", "label=1", "--cond", "label=2"], ["twice"]),
    (["--seed", "-1"], ["--seed"]),
    (["--batch-size", "0"], ["--batch-size"]),
    (["--precision", "fp16"], ["--precision", "fp16", "bf16"]),
    (["--out", "x.gif"], [".gif"]),
]


@pytest.mark.parametrize(("words", "needles"), SAMPLING, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_wrong_sampling(words, needles, run, capsys):
    refused(capsys, ["sample", run, *words], 2, *needles, folder=run)


def test_a_run_is_not_overwritten(run, capsys):
    refused(capsys, ["train", "digits", "--out", run], 2, "--resume", folder=run)


def test_a_file_where_a_folder_should_be(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    refused(capsys, ["train", "digits", "--out", tmp_path / "file"], 2, "file", folder=tmp_path)


def test_an_unwritable_place(run, capsys):
    (run / "file").write_text("mine")
    refused(capsys, ["sample", run, "-n", "1", "--steps", "1", "--out", run / "file" / "x.png"], 2, "file", folder=run)


def test_resume_under_another_recipe_is_refused(run, capsys):
    words = ["train", "digits", "--out", run, "--resume", *TINY, "--steps", "4", "--widths", "8,24"]
    assert main([str(word) for word in words]) == 2
    assert "widths" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "foreign", "newer", "no json", "other network"])
def test_damaged_weights(kind, run, capsys):
    path = run / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8 : 8 + size])

    def with_header(change):
        change(head)
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    def newer(head):
        header = json.loads(head["__metadata__"]["condiff"])
        head["__metadata__"]["condiff"] = json.dumps({**header, "format": 99})

    def other(head):
        header = json.loads(head["__metadata__"]["condiff"])
        header["arguments"]["widths"] = [8, 8]
        head["__metadata__"]["condiff"] = json.dumps(header)

    made = {
        "truncated": lambda: content[: len(content) // 2],
        "empty": lambda: b"",
        "garbage": lambda: b"\x00" * 100,
        "foreign": lambda: with_header(lambda h: h.pop("__metadata__")),
        "newer": lambda: with_header(newer),
        "no json": lambda: with_header(lambda h: h["__metadata__"].update(condiff="{")),
        "other network": lambda: with_header(other),
    }[kind]()
    path.write_bytes(made)
    needle = {"newer": "upgrade", "foreign": "condiff"}.get(kind, "")
    refused(capsys, ["sample", run, "-n", "1"], 1, "model.safetensors", needle, folder=run)


@pytest.mark.parametrize("kind", ["no recipe", "truncated", "text"])
def test_pictures_that_cannot_be_replayed(kind, tmp_path, capsys):
    path = tmp_path / "x.png"
    Image.new("L", (8, 8)).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:20])
    if kind == "text":
        path.write_text("hello")
    refused(capsys, ["replay", path], 1, "x.png", folder=tmp_path)


@pytest.mark.parametrize("kind", ["truncated image", "not an image", "empty folder", "nan", "pickle", "one row"])
def test_bad_data(kind, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    target = folder
    if kind in ("truncated image", "not an image"):
        for k in range(6):
            Image.new("RGB", (8, 8), (k, k, k)).save(folder / f"{k}.png")
        bad = folder / "3.png"
        bad.write_bytes(bad.read_bytes()[:40] if kind == "truncated image" else b"not an image")
    if kind == "nan":
        target = folder / "x.npz"
        np.savez(target, x=np.full((20, 3), np.nan, np.float32))
    if kind == "pickle":
        target = folder / "x.npz"
        np.savez(target, x=np.array([{"a": 1}], dtype=object))
    if kind == "one row":
        target = folder / "x.npz"
        np.savez(target, x=np.zeros((1, 3), np.float32))
    words = ["train", target, "--out", tmp_path / "run", "--steps", "1"]
    before = contents(folder)
    code = main([str(word) for word in words])
    err = capsys.readouterr().err
    assert code in (1, 2)
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("condiff: ")
    assert contents(folder) == before


def test_a_full_disk_loses_nothing(run):
    """No file may grow past 20 KB: saving fails, and what was there stays whole."""
    before = contents(run)
    script = (
        "import resource, signal, sys\n"
        "import torch\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from condiff.cli.main import main\n"
        f"sys.exit(main(['train', 'digits', '--out', {str(run)!r}, '--resume', '--steps', '4', '--batch-size', '8', "
        "'--widths', '8,16', '--precision', 'fp32', '--log-every', '1', '--validate-every', '0', '--sample-every', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("condiff: ")
    assert "Traceback" not in done.stderr
    after = contents(run)
    assert after["model.safetensors"] == before["model.safetensors"]
    assert not [name for name in after if ".tmp" in name]
    assert all(after[name] == before[name] for name in before if name.startswith("checkpoint-3"))
    assert main(["sample", str(run), "-n", "1", "--steps", "1"]) == 0


def test_a_traceback_only_when_asked(capsys):
    assert main(["info", "nowhere", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    words = [sys.executable, "-u", "-m", "condiff", "train", "digits", "--out", str(run), "--steps", "100000", "--batch-size",
             "8", "--widths", "8,16", "--precision", "fp32", "--log-every", "1", "--validate-every", "0"]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if line.startswith("step"):
                break
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
        code = child.wait(60)
    assert code == 130
    assert "--resume" in rest
    assert any(run.glob("checkpoint-*/state.json"))
