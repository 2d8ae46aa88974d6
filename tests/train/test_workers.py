"""Several processes: the same losses and files as one, whether weights are copied (DDP) or shared out (FSDP)."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from train.launch import end, start
from train.toy import FAST, NETS, data, drawn, find, toy

from condiff.train import Alone, Progress, checkpoint, fit, train, workers
from condiff.train.workers import is_lost_peer, join, share

SETTINGS = replace(FAST, batch_size=8, accumulate=2)

JOB = """
import atexit, json, os, shutil, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from torch.distributed.tensor import DTensor
from condiff.train import fit, train, workers
from condiff.train.workers import _leave
from toy import FAST, NETS, data, drawn, toy

folder = Path(sys.argv[1])
settings = replace(FAST, batch_size=8, accumulate=2, keep=3)

def job(kind):
    out, crew, tied = folder / kind, workers(), kind == "ddp"
    system = toy(tied=tied)
    train(system, data(), out=out / "straight", settings=settings)
    sharded = {isinstance(p, DTensor) for p in system.denoiser.parameters()}
    if crew.rank == 0:  # as if the job had been stopped after its second checkpoint
        shutil.copytree(out / "straight", out / "again")
        shutil.rmtree(out / "again" / "checkpoint-12")
    crew.wait()
    train(toy(tied=tied), data(), out=out / "again", settings=settings, resume=True)
    clock = replace(settings, steps=10**6, seconds=0.2, batch_size=4, accumulate=1)
    for report in fit(toy(tied=tied), data(), settings=clock, workers=crew):
        pass
    few = replace(settings, steps=2)
    losses = {
        name: [float(r.loss) for r in fit(make(), drawn(make()), settings=few, workers=crew)] for name, make in NETS.items()
    }
    told = {"sharded": sorted(sharded), "clock": [report.step, report.learning_rate], "losses": losses}
    (out / f"told-{crew.rank}.json").write_text(json.dumps(told))

def threads():  # the group's own; they must be gone before the interpreter is
    names = [Path("/proc/self/task", task, "comm").read_text() for task in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

os.environ["ACCELERATE_USE_FSDP"] = "true" if sys.argv[2] == "fsdp" else "false"
job(sys.argv[2])
if sys.argv[2] == "ddp" and sys.platform == "linux":  # torch's cache of sharded operations holds on to its group
    before = threads()
    _leave()
    (folder / f"threads-{os.environ['RANK']}.json").write_text(json.dumps([before, threads()]))
"""

needs_dist = [
    pytest.mark.dist,
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs the extra [dist]"),
]
KINDS = [pytest.param("ddp", marks=needs_dist), pytest.param("fsdp", marks=needs_dist)]


@pytest.fixture(scope="module", params=KINDS)
def job(request, tmp_path_factory):
    """The folder that two workers trained into, and how their weights lay."""
    folder = tmp_path_factory.mktemp(request.param)
    end(start(["-c", JOB, str(folder), request.param]))
    return folder / request.param, request.param


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_are_one(job, tmp_path):
    folder, kind = job
    train(toy(tied=kind == "ddp"), data(), out=tmp_path / "one", settings=SETTINGS, stream=io.StringIO())
    for name in ("straight", "again"):
        for mine, its in zip(lines(tmp_path / "one"), lines(folder / name), strict=True):
            assert mine.keys() == its.keys()
            for value in ("step", "loss", "gradient_norm", "learning_rate", "validation_loss"):
                assert its.get(value) == pytest.approx(mine.get(value), abs=5e-6)
    told = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]  # each has its own clock, and they must stop together
    assert told[0]["sharded"] == [kind == "fsdp"]


@pytest.mark.parametrize("net", NETS)
def test_every_network_trains_on_two_workers(job, net):
    folder, _ = job
    system, few = NETS[net](), replace(SETTINGS, steps=2)
    alone = [float(report.loss) for report in fit(system, drawn(system), settings=few)]
    told = json.loads((folder / "told-0.json").read_text())["losses"][net]
    assert told == pytest.approx(alone, abs=2e-6)
    assert told[0] != pytest.approx(told[1], abs=1e-3)


def test_two_workers_go_on_bit_for_bit(job):
    folder, _ = job
    for name in ("model", "ema", "optimizer"):
        mine, its = (load_file(folder / run / "checkpoint-12" / f"{name}.safetensors") for run in ("straight", "again"))
        assert mine.keys() == its.keys()
        assert [key for key in mine if not torch.equal(mine[key], its[key])] == []


def test_one_process_goes_on_with_what_two_saved(job):
    folder, kind = job
    whole = Progress.begin(toy(tied=kind == "ddp"), SETTINGS)
    for report in fit(whole.system, data(), settings=SETTINGS, progress=whole):
        if report.step == 8:
            break
    stored = folder / "straight" / "checkpoint-8"
    again = Progress.begin(toy(tied=kind == "ddp"), SETTINGS)
    assert checkpoint.resume(stored, again)["step"] == 8
    for expected, found in (
        (whole.weights(), load_file(stored / "model.safetensors")),
        (whole.average.state_dict(), load_file(stored / "ema.safetensors")),
        (whole.average.state_dict(), dict(checkpoint.load(stored, find).denoiser.state_dict())),
        (whole.optimizer_tensors(), again.optimizer_tensors()),
    ):
        assert expected.keys() == found.keys()
        for name in expected:
            if not name.endswith("calls"):
                torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_group_ends_before_the_interpreter(job):
    folder, kind = job
    for rank in range(2) if kind == "ddp" else ():
        before, after = json.loads((folder.parent / f"threads-{rank}.json").read_text())
        assert before > 0 == after


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


class Two:
    """The shares of two workers, one after the other; not the whole of `Workers`."""

    device = torch.device("cpu")

    def __init__(self, rank=0):
        self.rank, self.size = rank, 2

    def gather(self, rows):
        return torch.cat([rows, rows + 100])


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_shares_are_equal_and_cover_everything(count):
    shares = [share(Two(rank), count) for rank in range(2)]
    assert len(shares[0]) == len(shares[1])
    assert [row for mine in shares for row in mine][:count] == list(range(count))
    assert share(Alone(), count) == range(count)
    rows = torch.arange(len(shares[0]))
    assert join(Two(), rows, count).tolist() == [*rows.tolist(), *(rows + 100).tolist()][:count]
    assert join(Alone(), rows, count) is rows


def test_a_lost_peer_is_told_from_other_failures():
    assert is_lost_peer(
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    )
    assert not is_lost_peer(RuntimeError("training diverged by step 3"))


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="batch_size 5 does not split over 2"):
        fit(toy(), data(), settings=replace(FAST, batch_size=5), workers=Two())
