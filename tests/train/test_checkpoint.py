"""Files: round trips, what a kill, a full disk or a damaged byte leaves behind, and what each error says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train.toy import FAST, data, environment, find, toy

from condiff.core.system import Call
from condiff.train import Progress, checkpoint, fit, latest


def progress_at(step, **arguments):
    progress = Progress.begin(toy(**arguments), FAST)
    for report in fit(progress.system, data(), settings=FAST, progress=progress):
        if report.step == step:
            return progress
    raise AssertionError(step)


@pytest.fixture
def run(tmp_path):
    """A run folder with one checkpoint at step 3."""
    checkpoint.write(tmp_path / "run", progress_at(3), FAST, 0)
    return tmp_path / "run"


def weights(system):
    return {name: value.clone() for name, value in system.denoiser.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_file_is_enough(tmp_path):
    system = progress_at(3, width=6, sizes=(3, 4)).averaged
    checkpoint.save(system, tmp_path / "alone.safetensors", note=1)
    loaded = checkpoint.load(tmp_path / "alone.safetensors", find)
    assert same(weights(system), weights(loaded))
    assert loaded.call == system.call == Call("toy", {"width": 6, "dropout": 0.0, "tied": True, "sizes": [3, 4]})
    assert not loaded.denoiser.training
    header = checkpoint.read(tmp_path / "alone.safetensors").header
    assert header["schema"] == {"y": {"kind": "ClassLabel", "num_classes": 3, "labels": ["a", "b", "c"]}}
    assert (header["shape"], header["note"], header["format"]) == ([4], 1, checkpoint.FORMAT)
    assert os.listdir(tmp_path) == ["alone.safetensors"]


def test_run_folder_checkpoint_folder_and_file_are_the_average(run):
    progress = progress_at(3)
    for path in (run, run / "checkpoint-3", run / "model.safetensors"):
        assert same(weights(checkpoint.load(path, find)), weights(progress.averaged))
    assert same(load_file(run / "checkpoint-3" / "model.safetensors"), weights(progress.system))
    assert not same(weights(progress.averaged), weights(progress.system))
    (run / "model.safetensors").unlink()  # as after a kill between the two: the checkpoint itself is read
    assert same(weights(checkpoint.load(run, find)), weights(progress.averaged))


def test_a_restored_progress_goes_on_bit_by_bit(run):
    whole, again = progress_at(3), Progress.begin(toy(), FAST)
    state = checkpoint.resume(run / "checkpoint-3", again)
    assert (again.step, state["seed"], state["settings"]["learning_rate"]) == (3, 0, 0.01)
    for progress in (whole, again):
        for _ in fit(progress.system, data(), settings=FAST, progress=progress):
            pass
    assert same(weights(whole.system), weights(again.system))
    assert same(weights(whole.averaged), weights(again.averaged))
    assert same(whole.optimizer_tensors(), again.optimizer_tensors())


def test_old_checkpoints_go_and_leftovers_are_swept(run):
    leftover = run / ".checkpoint-2.999.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    (run / ".model.safetensors.999.tmp").write_bytes(b"half")
    for step in (4, 5):
        assert latest(run) == run / f"checkpoint-{step - 1}"
        checkpoint.write(run, progress_at(step), replace(FAST, keep=2), 0)
    assert sorted(os.listdir(run)) == ["checkpoint-4", "checkpoint-5", "model.safetensors"]
    assert sorted(os.listdir(run / "checkpoint-5")) == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    (run / "checkpoint-5" / "state.json").rename(run / "state.json")
    assert latest(run) == run / "checkpoint-4"  # a folder without its last file is no checkpoint


def test_weights_that_are_not_finite_never_replace_good_ones(run):
    progress = progress_at(4)
    with torch.no_grad():
        progress.system.denoiser.net.last.bias[0] = torch.nan
    with pytest.raises(RuntimeError, match="not finite at step 4"):
        checkpoint.write(run, progress, FAST, 0)
    assert latest(run) == run / "checkpoint-3"


def damaged(path: Path, change) -> Path:
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))
    return path


def flipped(content: bytearray) -> bytes:
    content[-2] ^= 0x10
    return bytes(content)


DAMAGES = {
    "truncated": (lambda b: bytes(b[: len(b) // 2]), "damaged"),
    "empty": (lambda b: b"", "damaged"),
    "another kind of file": (lambda b: b"\x89PNG\r\n\x1a\n" + bytes(64), "damaged or not a safetensors"),
    "one bit of one weight": (flipped, "checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line_that_names_the_file(run, name):
    change, words = DAMAGES[name]
    path = damaged(run / "model.safetensors", change)
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(path, find)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("change", [flipped, None])
def test_a_damaged_checkpoint_stops_a_resume(run, name, change):
    path = run / "checkpoint-3" / name
    if change is None:
        path.unlink()
    else:
        damaged(path, change)
    with pytest.raises(ValueError, match="damaged") as caught:
        checkpoint.resume(run / "checkpoint-3", Progress.begin(toy(), FAST))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 3}', '{"step": "x"}'])
def test_a_damaged_state_says_what_to_remove(run, content):
    (run / "checkpoint-3" / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state.json cannot be read .*; remove .*checkpoint-3") as caught:
        checkpoint.resume(run / "checkpoint-3", Progress.begin(toy(), FAST))
    assert "\n" not in str(caught.value)


def with_header(run, change, path):
    stored = checkpoint.read(run)
    header = {k: v for k, v in stored.header.items() if k != "crc32"}
    save_file(dict(stored.tensors), path, metadata={"condiff": json.dumps(change(header))})
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: {**h, "format": 2, "library": "9.9"}, r"format 2 \(condiff 9.9\), newer than 1.*upgrade"),
        (lambda h: {"format": 1}, "header that cannot be read"),
        (lambda h: {**h, "format": "x"}, "header that cannot be read"),
        (lambda h: [], "header that cannot be read"),
        (lambda h: {**h, "recipe": "other"}, "no recipe named 'other'"),
        (lambda h: {**h, "arguments": {"breadth": 3}}, "recipe 'toy' of this version does not take"),
        (lambda h: {**h, "arguments": {"width": 9}}, r"'net.first.weight' is \(8, 5\), expected \(9, 5\)"),
    ],
)
def test_a_header_that_does_not_fit_is_one_line(run, tmp_path, change, words):
    path = with_header(run, change, tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match=words) as caught:
        checkpoint.load(path, find)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "net.last.bias"}, "lacks weight 'net.last.bias'"),
        (lambda t: {**t, "net.more": torch.zeros(1)}, "has unknown weight 'net.more'"),
    ],
)
def test_weights_must_match_by_name(run, tmp_path, change, words):
    stored, system = checkpoint.read(run), toy()
    before = weights(system)
    with pytest.raises(ValueError, match=words):
        checkpoint.restore(system.denoiser, change(dict(stored.tensors)), tmp_path)
    assert same(before, weights(system))


def test_other_peoples_files_and_missing_ones(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not written by condiff"):
        checkpoint.load(tmp_path / "other.safetensors", find)
    with pytest.raises(FileNotFoundError, match="nothing at"):
        checkpoint.load(tmp_path / "none", find)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint; train first"):
        checkpoint.load(tmp_path / "empty", find)


def test_a_system_built_by_hand_cannot_be_saved_by_name(tmp_path):
    with pytest.raises(ValueError, match="made by a recipe"):
        checkpoint.save(replace(toy(), call=None), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_tied_weights_come_back_tied(run):
    loaded = checkpoint.load(run, find)
    assert loaded.denoiser.net.middle[0].weight is loaded.denoiser.net.middle[1].weight


FULL_DISK = """
import resource, sys
from pathlib import Path
from condiff.train import Progress, checkpoint
from toy import FAST, toy
run, limit = Path(sys.argv[1]), int(sys.argv[2])
progress = Progress.begin(toy(width=64), FAST)
checkpoint.write(run, progress, FAST, 0)
progress.step = 1
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # a write beyond this fails like one to a full disk
try:
    checkpoint.write(run, progress, FAST, 0)
except OSError as error:
    print(error)
else:
    print("written")
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run), "20000"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written, what was there before is untouched" in done.stdout
    assert str(run / "checkpoint-1") in done.stdout
    assert sorted(os.listdir(run)) == ["checkpoint-0", "model.safetensors"]
    checkpoint.load(run, find)
    checkpoint.resume(run / "checkpoint-0", Progress.begin(toy(width=64), FAST))


SAVES = """
import sys
from pathlib import Path
from condiff.train import Progress, checkpoint
from toy import FAST, toy
run = Path(sys.argv[1])
progress = Progress.begin(toy(), FAST)
newest = checkpoint.latest(run)
if newest is not None:
    checkpoint.resume(newest, progress)
print("ready", progress.step, flush=True)
while True:
    progress.step += 1
    checkpoint.write(run, progress, FAST, 0)
    print("saved", progress.step, flush=True)
"""
FORKS = """
import os, sys
import torch
from condiff.train import Progress
from toy import FAST, toy
torch.set_num_threads(1)
Progress.begin(toy(), FAST)  # what torch loads for its first optimiser is loaded once, not in every child
code, orders, answers = sys.stdin.read(), int(sys.argv[2]), int(sys.argv[3])
while os.read(orders, 1):
    child = os.fork()
    if child == 0:
        exec(compile(code, "saves", "exec"))
    os.write(answers, f"{child}\\n".encode())
    os.waitpid(child, 0)
    os.write(answers, b"gone\\n")
"""


def test_a_kill_during_a_save_loses_nothing(tmp_path):
    """20 kills at random moments of saving; the fork server only spares each child the import of torch."""
    run, said = tmp_path / "run", tmp_path / "said"
    orders, tell = os.pipe()
    hear, answers = os.pipe()

    with open(said, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(run), str(orders), str(answers)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=out,
            pass_fds=(orders, answers),
        )
    server.stdin.write(SAVES.encode())
    server.stdin.close()
    os.close(orders)
    os.close(answers)
    replies = os.fdopen(hear)
    chance = random.Random(0)
    moments: set[str] = set()
    try:
        for _ in range(20):
            mark = said.stat().st_size
            os.write(tell, b"x")
            child = int(replies.readline())
            while b"saved" not in said.read_bytes()[mark:]:
                time.sleep(0.001)
            time.sleep(chance.uniform(0.0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert replies.readline() == "gone\n"
            saved = [int(line.split()[1]) for line in said.read_text().splitlines() if line.startswith("saved")]
            moments |= {name.split(".")[1] for name in os.listdir(run) if name.endswith(".tmp")}
            newest = latest(run)
            assert newest is not None
            step = int(newest.name.removeprefix("checkpoint-"))
            assert saved[-1] <= step <= saved[-1] + 1
            for path in (run, newest, *checkpoint.checkpoints(run)):
                checkpoint.load(path, find)
            checkpoint.resume(newest, Progress.begin(toy(), FAST))
            assert checkpoint.read(run).header["step"] >= saved[-1]
    finally:
        os.close(tell)
        server.wait(10)
        replies.close()
    assert moments  # some kills did hit the middle of a save
