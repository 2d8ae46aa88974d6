"""A training run on disk: config, metrics, pictures, checkpoints, and a clear way to go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from PIL import Image

from condiff.core.rng import RowRng
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits
from condiff.train import checkpoint
from condiff.train.curve import write_picture
from condiff.train.fit import LearnedCodec, Progress, Report, fit, module_of
from condiff.train.record import Log, Talk
from condiff.train.settings import Training
from condiff.train.trackers import Tracker, tracker
from condiff.train.workers import Workers, workers

Pictures = Callable[[System[Any, Any], int], Image.Image | None]
"""Draws sample pictures of a system at a step; None if its data cannot be drawn."""

NUM_VALIDATION = 512
_MAY_CHANGE = {"steps", "seconds", "checkpoint_every", "keep", "sample_every", "log_every", "validate_every"}


@torch.no_grad()
def held_out_loss(
    system: System[Any, Any], data: Dataset, *, num: int = NUM_VALIDATION, batch_size: int = 128
) -> float:
    """Return the mean loss of the first rows of a data set on draws that never change, so that values compare.

    Args:
        system: The system; its objective drops conditions as in training.
        data: Held-out rows.
        num: How many rows.
        batch_size: Rows at a time.
    """
    total, count = 0.0, min(num, len(data))
    device = next((p.device for p in module_of(system).parameters()), torch.device("cpu"))
    if not count:
        raise ValueError(f"{data.name}: there are no held-out examples to measure a loss on")
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        batch, cond = data.rows(torch.tensor(rows))
        cond = cond.to(device)
        x = system.codec.encode(batch.to(device), cond)
        loss = system.objective(system.denoiser, x, cond if cond.values else None, rng=RowRng(0, rows, device=device))
        total += float(loss.rows.sum())
    return total / count


class OtherRunError(ValueError):
    """A run cannot be gone on with as asked: it was begun with another recipe, seed, data or settings."""


def train(
    system: System[Any, Any],
    splits: Splits,
    *,
    out: str | os.PathLike[str],
    settings: Training,
    seed: int = 0,
    resume: bool = False,
    pictures: Pictures | None = None,
    report_to: Sequence[str] = (),
    command: str = "condiff train",
    stream: TextIO | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a system into a run folder.

    Args:
        system: A system made by a recipe.
        splits: Its data; `validation` is only measured.
        out: The run folder; new or empty, unless `resume`.
        settings: How to train.
        seed: Names the order of the data and all noise.
        resume: Go on from the newest checkpoint in `out`; a run without one starts anew.
        pictures: Draws samples.
        report_to: Names of trackers.
        command: What the user typed, for the line that says how to go on.
        stream: Where progress is written; standard error if None.
        device: Where to compute when this process works alone.

    Returns: The run folder.

    Raises:
        FileExistsError: If `out` holds a run and `resume` is false, or holds something else than a run.
        OtherRunError: If a resumed run differs in recipe, arguments, data, seed or settings other than its length.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, with a checkpoint written.
    """
    crew = workers(device)
    run, lead = Path(out), crew.rank == 0
    talk = Talk(stream or sys.stderr, settings, quiet=not lead)
    if run.exists() and not run.is_dir():
        raise NotADirectoryError(f"{run} is a file; give another --out")
    newest = checkpoint.latest(run)
    if lead and run.is_dir() and any(run.iterdir()):  # by worker 0 alone: it may be done here before others look
        if not resume:
            raise FileExistsError(f"{run} is not empty; add --resume to go on with that run, or give another --out")
        if newest is None and not _is_run(run):
            raise FileExistsError(f"{run} holds no run to go on with, but other files; give another --out")
    sample = fingerprint(splits.train)
    if newest is not None and resume:
        _same_run(run, checkpoint.state_of(newest), system, settings, seed, sample)
    progress = Progress.begin(system, settings, crew.device)
    reports = fit(system, splits, settings=settings, seed=seed, progress=progress, workers=crew)
    if newest is not None and resume:
        checkpoint.resume(newest, progress)
        talk.say(f"resumed {run} at step {progress.step}")
    crew.wait()
    config = _config(system, settings, seed, command)
    # Trackers first: a package that is not there must not leave a run folder behind.
    services: list[Tracker] = [tracker(name, run, config) for name in report_to] if lead else []
    log = Log(run, progress.step) if lead else None
    if lead:
        checkpoint.write_atomically(run / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())

    def keep() -> None:
        checkpoint.write(run, progress, settings, seed, lead=lead, fingerprint=sample)

    def show(step: int) -> None:
        if pictures is None:
            return
        progress.collect()
        if not lead:
            return
        picture = pictures(progress.averaged, step)
        if picture is not None:
            path = run / "samples" / f"step_{step:06d}.png"
            write_picture(picture, path)
            for service in services:
                service.image(step, "samples", path)

    begun = ask_at = progress.step
    with contextlib.ExitStack() as stack:
        for service in services:
            stack.callback(service.close)
        stack.callback(talk.end)
        interrupted = stack.enter_context(_interrupts())
        if progress.step == 0 and isinstance(system.codec, LearnedCodec):
            talk.say("training the codec first")
        for report in reports:
            step = report.step
            done = step == settings.steps or 0 < settings.seconds <= progress.seconds
            validate = len(splits.validation) > 0 and (done or _due(step, settings.validate_every))
            if done or validate or step % settings.log_every == 0:
                values = _values(report, settings)
                if validate:
                    progress.collect()
                    if lead:
                        values["validation_loss"] = round(held_out_loss(progress.averaged, splits.validation), 6)
                if log is not None:
                    log.add(values)
                for service in services:
                    service.log(step, {k: v for k, v in values.items() if k != "step"})
                talk.step(values)
            if not done and _due(step, settings.sample_every):
                show(step)
            if done or _due(step, settings.checkpoint_every):
                keep()
            asked = interrupted()
            if crew.size > 1:  # all must leave at the same step, so they ask each other, about once a second
                asked, ask_at = _any_asked(crew, asked, step, progress) if step >= ask_at else (False, ask_at)
            if asked and not done:
                keep()
                talk.say(f"stopped at step {step} and saved; go on with: {_with_resume(command)}")
                raise KeyboardInterrupt
        if begun == progress.step:
            talk.say(f"{run} is at step {progress.step}; raise --steps to train further")
        show(progress.step)
        if log is not None:
            write_picture(log.curve(str(config["recipe"])), run / "loss.png")
        crew.wait()
    return run


def _any_asked(crew: Workers, asked: bool, step: int, progress: Progress) -> tuple[bool, int]:
    """Return whether any worker was asked to stop, and at which step to look again: the same answer on all of them."""
    speed = step / max(progress.seconds, 1e-9)
    told = crew.mean(torch.tensor([float(asked), speed], dtype=torch.float64, device=crew.device)).tolist()
    return told[0] > 0, step + max(1, int(told[1]))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _is_run(run: Path) -> bool:
    """Was this folder made by `train`, perhaps stopped before its first checkpoint?"""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "condiff" in config


def fingerprint(data: Dataset, *, num: int = 4096) -> int:
    """Return a checksum of a data set's size and of up to `num` of its rows, spread evenly."""
    count = len(data)
    index = torch.arange(0, count, max(1, -(-count // num)))
    total = zlib.crc32(f"{count} {tuple(data.data.shape)}".encode())
    for _, value in [("", data.data), *sorted(data.conditions.items()), *sorted(data.present.items())]:
        rows = value[index].contiguous()
        total = zlib.crc32(rows.reshape(-1).view(torch.uint8).numpy().data, total) if rows.numel() else total
    return total


def _values(report: Report, settings: Training) -> dict[str, float]:
    progress = report.progress
    speed = report.step * settings.batch_size / max(progress.seconds, 1e-9)
    return {
        "step": report.step,
        "loss": round(float(report.loss), 6),
        "gradient_norm": round(float(report.gradient_norm), 6),
        "learning_rate": report.learning_rate,
        "samples_per_second": round(speed, 1),
        "seconds": round(progress.seconds, 2),
    }


def _config(system: System[Any, Any], settings: Training, seed: int, command: str) -> dict[str, Any]:
    header = checkpoint.header_of(system)
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "recipe": header["recipe"],
                "arguments": header["arguments"],
                "settings": asdict(settings),
                "seed": seed,
                "command": command,
                "condiff": header["library"],
                "torch": header["torch"],
                "python": sys.version.split()[0],
            }
        )
    )
    return plain


def _same_run(
    run: Path, state: Mapping[str, Any], system: System[Any, Any], settings: Training, seed: int, sample: int
) -> None:
    """Refuse to go on with a run under another recipe, seed, data or settings: the result would be neither run."""
    header = json.loads(json.dumps(checkpoint.header_of(system)))
    wanted = {"recipe": header["recipe"], "seed": seed, **header["arguments"], **asdict(settings)}
    had = {"recipe": state["recipe"], "seed": state["seed"], **state["arguments"], **state["settings"]}
    wanted = json.loads(json.dumps(wanted))
    # What describes the data comes last: the arguments that follow from it are what a user knows by name.
    for name in sorted(wanted.keys() | had.keys(), key=lambda name: (name == "about", name)):
        if name not in _MAY_CHANGE and wanted.get(name) != had.get(name):
            where, then, now = _first_difference(name, had.get(name), wanted.get(name))
            raise OtherRunError(
                f"{run} was trained with {where} = {_brief(then)}, not {_brief(now)}; "
                "resume with the same, or start another run with --out"
            )
    if state.get("fingerprint", sample) != sample:
        raise OtherRunError(
            f"{run} was trained on other data than these; resume with the same, or start another run with --out"
        )


def _first_difference(name: str, one: object, other: object) -> tuple[str, object, object]:
    """Go down two unequal JSON values to what differs first; returns where it is, and both."""
    while isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key))
        name, one, other = f"{name}.{key}", one.get(key), other.get(key)
    return name, one, other


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_resume(command: str) -> str:
    return command if "--resume" in command.split() else f"{command} --resume"


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag, so that a step and its checkpoint are never torn; twice means at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked.is_set
        return

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
