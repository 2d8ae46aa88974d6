"""What a run says while it trains: lines in metrics.jsonl for programs, a progress line for people."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO, final

from PIL import Image

from condiff.train.atomic import write_atomically
from condiff.train.curve import draw_curve
from condiff.train.settings import Training


@final
class Log:
    """metrics.jsonl of a run: one JSON object a line, cut back to the step a run resumes from."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "metrics.jsonl"
        self.lines: list[dict[str, float]] = [line for line in self._old() if line.get("step", math.inf) <= step]
        content = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomically(self.path, content.encode())

    def _old(self) -> list[dict[str, float]]:
        if not self.path.is_file():
            return []
        found = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # a line cut by a kill: the last one, and what follows is trained again
                break
            if not isinstance(line, dict):
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


@final
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
        # A run that stops by the clock has a number of steps only for form.
        of = "" if self.settings.seconds > 0 else f"/{steps}"
        text = (
            f"step {values['step']:.0f}{of}  loss {values['loss']:.4f}  "
            f"{values['samples_per_second']:.0f} samples/s  {_clock(left)} left"
        )
        if "validation_loss" in values:
            text += f"  validation {values['validation_loss']:.4f}"
        if self.live:
            # A line that wraps could not be overwritten and would leave its first half behind.
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{text[:width]}")
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
