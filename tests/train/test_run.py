"""train: what a run folder holds, stopping and going on, and refusals that leave nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from train.toy import FAST, data, find, toy

from condiff.core.rng import RowRng
from condiff.data.batch import Splits
from condiff.train import checkpoint, held_out_loss, latest, train
from condiff.train.run import fingerprint


def go(out, *, settings=FAST, system=None, splits=None, **more):
    said = io.StringIO()
    train(system or toy(), splits or data(), out=out, settings=settings, stream=said, **more)
    return said.getvalue()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(run):
    """What must be equal in two equal runs: everything but time."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_second")} for line in lines(run)]


def state(run):
    newest = latest(run)
    files = [newest / f"{name}.safetensors" for name in ("model", "ema", "optimizer")] + [run / "model.safetensors"]
    return [load_file(file) for file in files]


def equal(a, b):
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def test_a_run_folder_holds_what_the_contract_says(tmp_path):
    seen = []

    def pictures(system, step):
        seen.append((step, system.denoiser.training))
        return Image.new("L", (4, 4), step)

    go(tmp_path / "r", settings=replace(FAST, sample_every=6), pictures=pictures, seed=2, command="condiff train toy")
    run = tmp_path / "r"
    names = {
        "config.yaml",
        "metrics.jsonl",
        "samples",
        "checkpoint-8",
        "checkpoint-12",
        "model.safetensors",
        "loss.png",
    }
    assert set(os.listdir(run)) == names
    assert sorted(os.listdir(run / "samples")) == ["step_000006.png", "step_000012.png"]
    assert Image.open(run / "samples" / "step_000012.png").getpixel((0, 0)) == 12
    assert seen == [(6, False), (12, False)]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["recipe"], config["seed"], config["command"]) == ("toy", 2, "condiff train toy")
    assert config["arguments"]["width"] == 8
    assert config["settings"]["learning_rate"] == 0.01
    assert [line["step"] for line in lines(run)] == list(range(1, 13))
    assert [line["step"] for line in lines(run) if "validation_loss" in line] == [4, 8, 12]
    assert lines(run)[0].keys() >= {"loss", "gradient_norm", "learning_rate", "samples_per_second", "seconds"}
    system = checkpoint.load(run, find)
    assert lines(run)[-1]["validation_loss"] == pytest.approx(held_out_loss(system, data().validation), abs=1e-6)


def test_the_held_out_loss_is_on_draws_of_its_rows_alone():
    system, rows = toy(), data().validation
    system.denoiser.eval()
    x, cond = rows.rows(torch.arange(12))
    with torch.no_grad():
        expected = system.objective(system.denoiser, x, cond, rng=RowRng(0, range(12))).rows
    assert held_out_loss(system, rows) == pytest.approx(expected.mean().item(), abs=1e-6)
    assert held_out_loss(system, rows, batch_size=5) == pytest.approx(expected.mean().item(), abs=1e-6)
    assert held_out_loss(system, rows, num=7) == pytest.approx(expected[:7].mean().item(), abs=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [5, 8])
def test_an_interrupt_saves_says_how_to_go_on_and_going_on_is_exact(tmp_path, number, stop):
    whole, half = tmp_path / "whole", tmp_path / "half"
    go(whole, system=toy(dropout=0.5))

    def pictures(system, step):
        if step == stop:
            os.kill(os.getpid(), number)

    said = io.StringIO()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(
            toy(dropout=0.5),
            data(),
            out=half,
            settings=replace(FAST, sample_every=1),
            pictures=pictures,
            stream=said,
            command="condiff train toy --out half",
        )
    assert signal.getsignal(number) is before
    assert latest(half).name == f"checkpoint-{stop}"
    assert f"stopped at step {stop} and saved; go on with: condiff train toy --out half --resume" in said.getvalue()
    assert f"resumed {half} at step {stop}" in go(half, system=toy(dropout=0.5), resume=True)
    assert equal(state(whole), state(half))
    assert numbers(whole) == numbers(half)


def test_going_on_from_an_older_checkpoint_forgets_what_came_after(tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    for run in (whole, half):
        go(run)
    (half / "checkpoint-12").rename(tmp_path / "gone")
    with open(half / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "lo')  # a kill cuts the last line
    go(half, resume=True)
    assert equal(state(whole), state(half))
    assert numbers(whole) == numbers(half)


def test_a_run_can_be_made_longer(tmp_path):
    go(tmp_path / "r")
    longer = replace(FAST, steps=16)
    go(tmp_path / "r", settings=longer, resume=True)
    assert [line["step"] for line in lines(tmp_path / "r")] == list(range(1, 17))
    before = state(tmp_path / "r")
    assert "is at step 16; raise --steps" in go(tmp_path / "r", settings=longer, resume=True)
    assert equal(before, state(tmp_path / "r"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": lambda: toy(width=6)}, "width = 8, not 6"),
        ({"settings": lambda: replace(FAST, learning_rate=0.5)}, "learning_rate = 0.01, not 0.5"),
        ({"settings": lambda: replace(FAST, batch_size=4)}, "batch_size = 8, not 4"),
        ({"seed": lambda: 1}, "seed = 0, not 1"),
        ({"splits": lambda: data(shift=0.1)}, "other data"),
    ],
)
def test_a_run_goes_on_as_itself_or_not_at_all(tmp_path, change, words):
    go(tmp_path / "r")
    before = state(tmp_path / "r")
    with pytest.raises(ValueError, match=words) as caught:
        go(tmp_path / "r", resume=True, **{name: make() for name, make in change.items()})
    assert "\n" not in str(caught.value)
    assert equal(before, state(tmp_path / "r"))
    assert len(lines(tmp_path / "r")) == 12


def test_a_folder_in_use_is_refused_and_untouched(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1")
    with pytest.raises(FileExistsError, match=r"is not empty; add --resume .* or give another --out"):
        go(tmp_path)
    with pytest.raises(FileExistsError, match="holds no run to go on with"):
        go(tmp_path, resume=True)
    assert (tmp_path / "config.yaml").read_text() == "mine: 1"
    assert os.listdir(tmp_path) == ["config.yaml"]
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        go(tmp_path / "file")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: {"splits": Splits(*(replace(part, data=part.data[:, :3]) for part in vars(data()).values()))},
        lambda: {"report_to": ["nothing-of-this-name"]},
        lambda: {"system": replace(toy(), call=None)},
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, bad):
    with pytest.raises(ValueError):
        go(tmp_path / "r", **bad())
    assert not (tmp_path / "r").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    go(tmp_path / "r")
    for path in (tmp_path / "r").glob("checkpoint-*"):
        path.rename(tmp_path / path.name)
    (tmp_path / "r" / "model.safetensors").unlink()
    go(tmp_path / "r", resume=True)
    assert len(lines(tmp_path / "r")) == 12


def test_no_held_out_rows_means_no_held_out_loss(tmp_path):
    splits = data()
    go(tmp_path / "r", splits=Splits(splits.train, splits.validation.take(0), splits.test))
    assert all("validation_loss" not in line for line in lines(tmp_path / "r"))
    with pytest.raises(ValueError, match="no held-out examples"):
        held_out_loss(toy(), splits.validation.take(0))


def test_divergence_keeps_the_last_checkpoint(tmp_path):
    splits = data()
    with pytest.raises(RuntimeError, match="diverged"):
        go(tmp_path / "r", settings=replace(FAST, checkpoint_every=1, learning_rate=1e30, clip=0.0), splits=splits)
    checkpoint.load(tmp_path / "r", find)
    assert all(
        torch.isfinite(v.float()).all() for v in load_file(latest(tmp_path / "r") / "model.safetensors").values()
    )


def test_the_fingerprint_sees_values_conditions_and_order():
    rows = data().train
    marks = {
        fingerprint(rows),
        fingerprint(replace(rows, data=rows.data + 1e-3)),
        fingerprint(replace(rows, conditions={"y": 2 - rows.conditions["y"]})),
        fingerprint(rows.where(torch.arange(49, -1, -1))),
        fingerprint(rows.take(49)),
    }
    assert len(marks) == 5
    assert fingerprint(rows) == fingerprint(data().train)
