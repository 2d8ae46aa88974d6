"""Several processes: the same losses and files as one, whether weights are copied (DDP) or shared out (FSDP)."""

from __future__ import annotations

import importlib.util
import io
import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from train.toy import FAST, data, environment, find, toy

from condiff.train import Alone, Progress, checkpoint, fit, latest, train, workers

SETTINGS = replace(FAST, batch_size=8, accumulate=2)

JOB = """
import sys, json
from dataclasses import replace
from pathlib import Path
import torch
from torch.distributed.tensor import DTensor
torch.set_num_threads(1)
from condiff.train import train, workers
from toy import FAST, data, toy
settings = replace(FAST, batch_size=8, accumulate=2, steps=int(sys.argv[3]))
system = toy(tied=sys.argv[2] == "ddp")
train(system, data(), out=sys.argv[1], settings=settings, resume=int(sys.argv[3]) > 6)
kinds = {isinstance(p, DTensor) for p in system.denoiser.parameters()}
Path(sys.argv[1], f"kinds-{workers().rank}.json").write_text(json.dumps(sorted(kinds)))
if int(sys.argv[3]) > 6:
    clock = replace(settings, steps=10**6, seconds=0.3, batch_size=4, accumulate=1)
    from condiff.train import Progress, fit
    crew = workers()
    again = toy(tied=sys.argv[2] == "ddp")
    for report in fit(again, data(), settings=clock, workers=crew):
        pass
    Path(sys.argv[1], f"clock-{crew.rank}.json").write_text(json.dumps([report.step, report.learning_rate]))
"""


def launch(run, kind, steps):
    """Start two workers as torchrun does, without the seconds that torchrun itself takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        more |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
        more |= {"ACCELERATE_USE_FSDP": "true"} if kind == "fsdp" else {}
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", JOB, str(run), kind, str(steps)],
                env=environment(**more),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)


def losses(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs the extra [dist]")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_workers_are_one(tmp_path, kind):
    tied = kind == "ddp"
    one, two = tmp_path / "one", tmp_path / "two"
    train(toy(tied=tied), data(), out=one, settings=SETTINGS, stream=io.StringIO())
    launch(two, kind, 6)
    launch(two, kind, 12)  # goes on where the first job ended
    for rank in range(2):
        assert json.loads((two / f"kinds-{rank}.json").read_text()) == [kind == "fsdp"]
    for mine, its in zip(losses(one), losses(two), strict=True):
        assert mine.keys() == its.keys()
        if mine["step"] <= 3:  # later steps of a shorter run have another learning rate
            for name in ("loss", "gradient_norm", "validation_loss"):
                assert its.get(name) == pytest.approx(mine.get(name), abs=5e-6)
    clocks = [json.loads((two / f"clock-{rank}.json").read_text()) for rank in range(2)]
    assert clocks[0] == clocks[1]  # each has its own clock, and they must stop together


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs the extra [dist]")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_goes_on_with_what_two_saved(tmp_path, kind):
    tied = kind == "ddp"
    launch(tmp_path / "two", kind, 6)
    short = replace(SETTINGS, steps=6)
    whole = Progress.begin(toy(tied=tied), short)
    for _ in fit(whole.system, data(), settings=short, progress=whole):
        pass
    newest = latest(tmp_path / "two")
    again = Progress.begin(toy(tied=tied), short)
    assert checkpoint.resume(newest, again)["step"] == 6
    for expected, found in (
        (whole.weights(), load_file(newest / "model.safetensors")),
        (whole.average.state_dict(), load_file(newest / "ema.safetensors")),
        (whole.average.state_dict(), dict(checkpoint.load(tmp_path / "two", find).denoiser.state_dict())),
        (whole.optimizer_tensors(), again.optimizer_tensors()),
    ):
        assert expected.keys() == found.keys()
        for name in expected:
            if not name.endswith("calls"):
                torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    crew = workers()
    assert (crew.rank, crew.size, crew.agree(0.5)) == (0, 1, 0.5)
    value = torch.ones(2)
    assert crew.mean(value) is crew.gather(value) is value


def test_a_launcher_without_accelerate_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(RuntimeError, match=r"pip install 'condiff\[dist\]'"):
        workers()


class Two(Alone):
    @property
    def size(self):
        return 2


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="batch_size 5 does not split over 2"):
        fit(toy(), data(), settings=replace(FAST, batch_size=5), workers=Two())
