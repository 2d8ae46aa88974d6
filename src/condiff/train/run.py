"""A training run on disk: config, metrics, pictures, checkpoints, and a clear way to go on."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from condiff.train.curve import draw_curve, write_picture
from condiff.train.fit import Progress, Report, fit, module_of
from condiff.train.settings import Training
from condiff.train.trackers import Tracker, tracker
from condiff.train.workers import workers

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
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        batch, cond = data.rows(torch.tensor(rows))
        cond = cond.to(device)
        x = system.codec.encode(batch.to(device), cond)
        loss = system.objective(system.denoiser, x, cond if cond.values else None, rng=RowRng(0, rows, device=device))
        total += float(loss.rows.sum())
    return total / count


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
        FileExistsError: If `out` holds a run and `resume` is false.
        ValueError: If a resumed run differs in recipe, arguments, data, seed or settings other than its length.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, with a checkpoint written.
    """
    crew = workers(device)
    run, lead = Path(out), crew.rank == 0
    talk = Talk(stream or sys.stderr, settings, quiet=not lead)
    if run.exists() and not run.is_dir():
        raise NotADirectoryError(f"{run} is a file; give another --out")
    if run.is_dir() and any(run.iterdir()) and not resume:
        raise FileExistsError(f"{run} is not empty; add --resume to go on with that run, or give another --out")
    progress = Progress.begin(system, settings, crew.device)
    newest = checkpoint.latest(run) if resume else None
    if newest is not None:
        state = checkpoint.resume(newest, progress)
        _same_run(run, state, system, settings, seed)
        talk.say(f"resumed {run} at step {progress.step}")
    config = _config(system, settings, seed, command)
    log = Log(run, progress.step) if lead else None
    services: list[Tracker] = []
    if lead:
        run.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(run / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        services = [tracker(name, run, config) for name in report_to]

    def keep() -> None:
        if lead:
            checkpoint.write(run, progress, settings, seed)

    def show(step: int) -> None:
        if not lead or pictures is None:
            return
        picture = pictures(progress.averaged, step)
        if picture is not None:
            path = run / "samples" / f"step_{step:06d}.png"
            write_picture(picture, path)
            for service in services:
                service.image(step, "samples", path)

    last = begun = progress.step
    with _interrupts() as interrupted:
        for report in fit(system, splits, settings=settings, seed=seed, progress=progress, workers=crew):
            step = report.step
            done = step == settings.steps or 0 < settings.seconds <= progress.seconds
            validate = done or _due(step, settings.validate_every)
            if done or validate or step % settings.log_every == 0:
                values = _values(report, settings, step - last)
                if validate and lead:
                    values["validation_loss"] = held_out_loss(progress.averaged, splits.validation)
                last = step
                if log is not None:
                    log.add(values)
                for service in services:
                    service.log(step, {k: v for k, v in values.items() if k != "step"})
                talk.step(values)
            if not done and _due(step, settings.sample_every):
                show(step)
            if done or _due(step, settings.checkpoint_every):
                keep()
            if interrupted() and not done:
                keep()
                talk.end()
                talk.say(f"stopped at step {step} and saved; go on with: {_with_resume(command)}")
                for service in services:
                    service.close()
                raise KeyboardInterrupt
    talk.end()
    if begun == progress.step:
        talk.say(f"{run} is at step {progress.step}; raise --steps to train further")
    show(progress.step)
    if log is not None:
        write_picture(log.curve(str(config["recipe"])), run / "loss.png")
    for service in services:
        service.close()
    return run


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _values(report: Report, settings: Training, steps: int) -> dict[str, float]:
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


def _same_run(run: Path, state: Mapping[str, Any], system: System[Any, Any], settings: Training, seed: int) -> None:
    """Refuse to go on with a run under another recipe, seed or settings: the result would be neither run."""
    header = json.loads(json.dumps(checkpoint.header_of(system)))
    wanted = {"recipe": header["recipe"], "seed": seed, **header["arguments"], **asdict(settings)}
    had = {"recipe": state["recipe"], "seed": state["seed"], **state["arguments"], **state["settings"]}
    wanted = json.loads(json.dumps(wanted))
    for name in sorted(wanted.keys() | had.keys()):
        if name not in _MAY_CHANGE and wanted.get(name) != had.get(name):
            raise ValueError(
                f"{run} was trained with {name} = {_brief(had.get(name))}, not {_brief(wanted.get(name))}; "
                "resume with the same, or start another run with --out"
            )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _with_resume(command: str) -> str:
    return command if "--resume" in command.split() else f"{command} --resume"


@contextmanager
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


class Log:
    """metrics.jsonl of a run: one JSON object a line, cut back to the step a run resumes from."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        self.lines: list[dict[str, float]] = [line for line in self._old() if line.get("step", math.inf) <= step]
        content = "".join(json.dumps(line) + "\n" for line in self.lines)
        checkpoint.write_atomically(self.path, content.encode())

    def _old(self) -> list[dict[str, float]]:
        if not self.path.is_file():
            return []
        found = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # a line cut by a kill: the last one, and what follows is trained again
                break
            found.append(line)
        return found

    def add(self, values: dict[str, float]) -> None:
        """Append one line and flush it."""
        self.lines.append(values)
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def curve(self, title: str) -> Image.Image:
        """Draw the loss and the held-out loss."""
        return draw_curve(
            [
                ("training loss", [(line["step"], line["loss"]) for line in self.lines]),
                (
                    "validation loss (averaged weights)",
                    [(line["step"], line["validation_loss"]) for line in self.lines if "validation_loss" in line],
                ),
            ],
            title=f"{title}: loss",
        )


class Talk:
    """Progress for people: one live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, stream: TextIO, settings: Training, *, quiet: bool = False) -> None:
        self.stream, self.settings, self.quiet = stream, settings, quiet
        self.live = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._shown, self._open = 0.0, False

    def say(self, text: str) -> None:
        """Write a line of its own."""
        if not self.quiet:
            self.end()
            print(text, file=self.stream, flush=True)

    def step(self, values: Mapping[str, float]) -> None:
        """Show where a run stands."""
        now = time.monotonic()
        if self.quiet or (not self.live and now - self._shown < 5.0 and values["step"] < self.settings.steps):
            return
        self._shown = now
        steps, seconds = self.settings.steps, values["seconds"]
        left = seconds / values["step"] * (steps - values["step"])
        if self.settings.seconds > 0:
            left = min(left, max(self.settings.seconds - seconds, 0.0))
        text = (
            f"step {values['step']:.0f}/{steps}  loss {values['loss']:.4f}  "
            f"{values['samples_per_second']:.0f} samples/s  {_clock(left)} left"
        )
        if "validation_loss" in values:
            text += f"  validation {values['validation_loss']:.4f}"
        if self.live:
            self.stream.write(f"\r\x1b[K{text}")
            self._open = True
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Close the live line."""
        if self._open:
            self.stream.write("\n")
            self._open = False


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
