"""Batch jobs: samples asked for over the REST interface, made a batch at a time between the turns of the streams."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor

from condiff.core.system import System
from condiff.tasks.generate import batches, check_solver, condition_of
from condiff.tasks.pictures import columns_for, mosaic, png_bytes

KEPT = 64
"""How many finished jobs are kept; the oldest go first."""
BATCH = 16


@final
@dataclass
class Job:
    """What was asked for, and how far it is.

    Args:
        id: Its name.
        asked: Arguments of `sample`.
        state: Where it stands.
        done: Samples made.
        error: Why it failed.
        result: The pictures as a PNG that carries its recipe.
        parts: Samples so far.
        made: When it was asked for, seconds since 1970.
    """

    id: str
    asked: dict[str, Any]
    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    done: int = 0
    error: str | None = None
    result: bytes | None = field(default=None, repr=False)
    parts: list[Tensor] = field(default_factory=list, repr=False)
    made: float = field(default_factory=time.time)

    def to_json(self) -> dict[str, Any]:
        """Return what a client sees."""
        return {
            "id": self.id, "state": self.state, "done": self.done, "total": self.asked["num_samples"],
            "error": self.error, "created": round(self.made, 3), "asked": self.asked,
        }  # fmt: skip


@final
class Jobs:
    """A queue of jobs on one system, advanced by the worker, asked and watched from any thread.

    Args:
        system: The system.
        facts: What the recipe of a result says besides its arguments.
        room: Most jobs that may wait.
    """

    def __init__(self, system: System[Any, Any], facts: Mapping[str, Any], room: int = 16) -> None:
        self.system, self.facts, self.room = system, dict(facts), room
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._running: tuple[Job, Iterator[tuple[Tensor, int]]] | None = None
        self._lock = threading.Lock()

    def add(self, asked: Mapping[str, Any]) -> Job:
        """Check a job and queue it.

        Raises:
            ValueError: If its arguments cannot be honoured.
            OverflowError: If too many wait.
        """
        job = Job(secrets.token_urlsafe(9), dict(asked))
        self._check(job.asked)
        with self._lock:
            if len(self._queue) >= self.room:
                raise OverflowError(f"{self.room} jobs wait already; try again later")
            self._jobs[job.id] = job
            self._queue.append(job)
            finished = [one for one in self._jobs.values() if one.state not in ("queued", "running")]
            for old in finished[: max(0, len(finished) - KEPT)]:
                del self._jobs[old.id]
        return job

    def get(self, name: str) -> Job | None:
        """Find a job."""
        with self._lock:
            return self._jobs.get(name)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def cancel(self, job: Job) -> None:
        """End a job that is not finished; what it made is thrown away."""
        with self._lock:
            if job.state in ("queued", "running"):
                job.state, job.parts = "cancelled", []
                if job in self._queue:
                    self._queue.remove(job)

    def advance(self) -> bool:
        """Make one batch of the oldest job; return whether there was one."""
        if self._running is None:
            with self._lock:
                if not self._queue:
                    return False
                job = self._queue.popleft()
                job.state = "running"
            asked = {name: value for name, value in job.asked.items() if value is not None}
            self._running = job, batches(self.system, batch_size=BATCH, **asked)
        job, pieces = self._running
        try:
            piece = None if job.state == "cancelled" else next(pieces, None)
            if job.state == "cancelled":
                self._running = None
            elif piece is not None:
                job.parts.append(piece[0])
                job.done += len(piece[0])
            else:
                self._finish(job)
                self._running = None
        except Exception as error:
            job.state, job.error, job.parts = "failed", str(error), []
            self._running = None
        return True

    def _finish(self, job: Job) -> None:
        samples = torch.cat(job.parts)
        recipe = {**self.facts, **job.asked}
        job.result, job.parts = png_bytes(mosaic(samples.clamp(-1.0, 1.0), columns_for(self.system)), recipe), []
        job.state = "done"

    def _check(self, asked: Mapping[str, Any]) -> None:
        check_solver(self.system, asked.get("solver"))
        if asked.get("cond") is not None:
            condition_of(self.system, asked["cond"], range(asked["num_samples"]))
        if asked.get("num_steps") is not None:
            self.system.grid(asked["num_steps"])
        scale = asked.get("guidance_scale")
        if not self.system.schema and scale not in (None, 1.0):
            raise ValueError(f"this system takes no condition, so guidance scale {scale:g} cannot be honoured; use 1")
