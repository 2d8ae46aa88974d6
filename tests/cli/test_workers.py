"""The same command on two workers: the same samples, numbers and files, and one line when something fails."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli.conftest import TINY
from train.launch import end, start
from train.toy import environment

from condiff.cli.main import main
from condiff.data import read
from condiff.train import latest

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs the extra [dist]"),
]

SEVERAL = """
import json, sys
import torch
torch.set_num_threads(1)
from condiff.cli.main import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def commands(trained, few, out):
    """What two workers and one are asked alike; `few` is a small set, `out` is where each puts its files."""
    sample = ["sample", str(trained), "--steps", "2", "--guidance-scale", "2"]
    return [
        ["train", "digits", "--out", str(out / "run"), *TINY],
        [*sample, "-n", "5", "--seed", "3", "--cond", "label=7,1,4", "--out", str(out / "uneven.npz")],
        [*sample, "-n", "4", "--batch-size", "2", "--out", str(out / "even.npz")],
        [*sample, "-n", "1", "--out", str(out / "single.npz")],
        ["eval", str(out / "run"), "-n", "11", "--seed", "2", "--data", str(few)],
    ]


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory):
    """What one process wrote, what two workers wrote, and what these said."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    digits = read("digits").test.take(200)
    few = one / "few.npz"
    np.savez(few, images=((digits.data + 1) * 127.5).round().byte().numpy(), label=digits.conditions["label"].numpy())
    children = start(["-c", SEVERAL, json.dumps(commands(trained, few, two))])
    for words in commands(trained, few, one):
        assert main(words) == 0
    return one, two, end(children)


def test_samples_are_those_of_one_process(both):
    one, two, _ = both
    for name, bits in (("uneven", False), ("even", True), ("single", True)):
        mine, its = (np.load(folder / f"{name}.npz")["samples"] for folder in (one, two))
        assert mine.shape == its.shape
        np.testing.assert_allclose(its, mine, atol=2e-5, rtol=0)
        assert not bits or np.array_equal(mine, its)  # equal batch shapes, equal bits


def test_losses_are_those_of_one_process(both):
    one, two, _ = both
    mine, its = ([json.loads(line) for line in _read(folder).splitlines()] for folder in (one, two))
    assert [line["step"] for line in mine] == [line["step"] for line in its] == [1, 2, 3]
    for a, b in zip(mine, its, strict=True):
        for name in ("loss", "gradient_norm", "validation_loss"):
            assert b.get(name) == pytest.approx(a.get(name), abs=5e-6)


def test_metrics_are_those_of_one_process(both):
    one, two, _ = both
    mine, its = (json.loads((run / "run" / "eval-few.npz.json").read_text()) for run in (one, two))
    assert [metric["name"] for metric in mine["metrics"]] == [metric["name"] for metric in its["metrics"]]
    assert {"bits_per_dim", "frechet", "class_agreement"} < {metric["name"] for metric in mine["metrics"]}
    for a, b in zip(mine["metrics"], its["metrics"], strict=True):
        assert b["value"] == pytest.approx(a["value"], rel=1e-3, abs=1e-3), a["name"]
        assert b["n"] == a["n"]
    for name in ("loss", "shuffled", "dropped"):
        assert its["condition_use"][name]["value"] == pytest.approx(mine["condition_use"][name]["value"], abs=1e-5)


def test_only_worker_0_talks(both):
    first, second = both[2]
    assert "5 samples in" in first
    assert second == ""


def test_a_signal_to_any_worker_saves_and_stops_all(tmp_path):
    words = ["train", "digits", "--out", "run", *TINY, "--steps", "100000", "--checkpoint-every", "0"]
    children = start(["-m", "condiff", *words], cwd=tmp_path)
    try:
        _until(lambda: (tmp_path / "run" / "metrics.jsonl").is_file() and "loss" in _read(tmp_path), children)
        children[1].send_signal(signal.SIGINT)
        first, second = end(children, [130, 130])
    finally:
        for child in children:
            child.kill()
    stored = latest(tmp_path / "run")
    assert first.count("stopped at step") == 1
    assert f"stopped at step {stored.name.removeprefix('checkpoint-')} and saved; go on with: condiff train" in first
    assert second == ""


def _read(folder):
    return (folder / "run" / "metrics.jsonl").read_text()


def _until(true, children, seconds=240.0):
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop
        assert all(child.poll() is None for child in children), [child.communicate() for child in children]
        time.sleep(0.05)


def torchrun(shell, folder):
    """Run a shell line on two workers as torchrun does; returns its exit code and the lines that condiff said."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         "bash", "-c", shell],
        env=environment(CUDA_VISIBLE_DEVICES="", PYTHON=sys.executable), cwd=folder, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("condiff: ")]


@pytest.mark.slow  # the launcher is a third process that imports torch: ten seconds on a busy machine
def test_a_failure_of_one_worker_ends_all_with_its_line(tmp_path):
    # Worker 0 alone may write no more than 20 kB a file, as if its disk were full: it fails at the checkpoint, when
    # both have long been working together, and the other worker is left waiting.
    words = " ".join(["train", "digits", "--out", "run", *TINY, "--steps", "100000", "--checkpoint-every", "2"])
    code, said = torchrun(f"test $RANK = 1 || ulimit -f 20; exec $PYTHON -m condiff {words}", tmp_path)
    assert code != 0
    assert len(said) == 1
    assert "checkpoint-2" in said[0]
    assert "larger than allowed" in said[0]


@pytest.mark.slow  # as above
def test_a_mistake_is_told_once(tmp_path):
    code, said = torchrun("exec $PYTHON -m condiff sample nowhere", tmp_path)
    assert code != 0
    assert said == ["condiff: nothing at nowhere; expected a run folder, a checkpoint folder or a .safetensors file"]


def test_other_verbs_are_for_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert main(["reproduce", "digits"]) == 2
    assert "is for one process, start it by itself; launchers are for train, sample, eval" in capsys.readouterr().err
