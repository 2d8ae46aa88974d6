"""One user's stream: settings, the frame that waits, the frames under way, and what goes back."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.rng import RowRng
from condiff.serve.filter import Reference
from condiff.serve.queue import Latest
from condiff.serve.settings import Settings, Streamer
from condiff.serve.stats import Stats
from condiff.serve.stream import Flight
from condiff.serve.wire import Message, encoded, opened

RECORDED = 3000
"""Most frames a recording holds; the oldest go first."""


@final
@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame that waits, and when it came in."""

    message: Message
    at: float


@final
class Session:
    """A stream between one client and the worker. The client's side may be called from any thread.

    The worker calls `advance`; nothing else touches the frames under way.

    Args:
        streamer: The system.
        deadline: Seconds after which a frame is not worth making any more; 0 is no deadline.
        wake: Called when there is something to do.
        deliver: Called with every message for the client, from the worker's thread.
    """

    def __init__(
        self,
        streamer: Streamer,
        *,
        deadline: float,
        wake: Callable[[], None],
        deliver: Callable[[Message | dict[str, Any]], None],
    ) -> None:
        self.id = secrets.token_urlsafe(9)
        self.streamer, self.deadline = streamer, deadline
        self.stats, self.paused, self.touched = Stats(), False, time.monotonic()
        self.last: Tensor | None = None
        self._wake, self._deliver = wake, deliver
        self._slot: Latest[Arrived] = Latest()
        self._lock = threading.Lock()
        self._settings = streamer.begin
        self._recording: deque[Tensor] | None = None
        self._reset = True
        self._apply()

    @property
    def settings(self) -> Settings:
        """What holds now."""
        return self._settings

    @property
    def waiting(self) -> int:
        """How many frames wait for their turn: 0 or 1."""
        return len(self._slot)

    def receive(self, message: Message) -> None:
        """Take a frame in; an older one that still waits is dropped for it."""
        self.touched = time.monotonic()
        self.stats.received += 1
        if self.paused:
            self.stats.dropped += 1
            return
        self.stats.dropped += self._slot.put(Arrived(message, self.touched))
        self._wake()

    def change(self, change: object) -> Settings:
        """Change settings; frames under way see new conditions at their next step.

        Raises:
            ValueError: If it is no change of the settings; they stay as they are.
        """
        self.touched = time.monotonic()
        with self._lock:
            self._settings = self.streamer.changed(self._settings, change)
            return self._settings

    def reset(self) -> None:
        """Forget the frames under way, the last picture and what the filter knows."""
        self._reset = True

    def record(self) -> None:
        """Begin a recording; one that runs is thrown away."""
        self._recording = deque(maxlen=RECORDED)

    def recorded(self) -> list[Tensor]:
        """End the recording; return its pictures, (1, C, H, W) each."""
        frames, self._recording = list(self._recording or ()), None
        return frames

    def close(self) -> None:
        """Take no more frames."""
        self._slot.close()

    def warm(self) -> None:
        """Make frames that nobody sees, so that the first that somebody sees is not slow."""
        flight, data = None, torch.zeros(1, *self.streamer.shape)
        for k in range(self._settings.steps + 1):
            flight, _ = self._batch.push(flight, k, data, self.streamer.condition(self._settings, data))

    def advance(self) -> bool:
        """Do one piece of work, if there is any: at most one call of the network.

        Returns: Whether there was any.
        """
        if self._reset:
            self._begin()
        arrived = self._slot.take(0.0)
        try:
            if arrived is not None:
                self._frame(arrived)
            elif self._flight is not None and time.monotonic() - self._stepped > self._patience:
                self._move(*self._batch.step(self._flight))  # the source has stopped: let out what is under way
            else:
                return False
        except ValueError as error:
            self.stats.errors += 1
            self._deliver({"type": "error", "frame": arrived.message.frame if arrived else None, "message": str(error)})
        except Exception as error:  # a frame that fails must not take the other streams down
            self.stats.errors += 1
            self._reset = True
            self._deliver({"type": "error", "frame": None, "message": f"{type(error).__name__}: {error}"})
        return True

    def _begin(self) -> None:
        self._reset = False
        self._flight: Flight | None = None
        self._seen = Reference()
        self._came: dict[int, Arrived] = {}
        self._number, self._stepped, self._patience = 0, time.monotonic(), 0.1
        self.last = None

    def _apply(self) -> None:
        """Make the stream of the settings."""
        self._applied = self._settings
        self._batch, self._filter = self.streamer.stream(self._applied), self.streamer.filter(self._applied)

    def _frame(self, arrived: Arrived) -> None:
        now = time.monotonic()
        if self.deadline and now - arrived.at > self.deadline:
            self.stats.late += 1
            self._deliver({"type": "late", "frame": arrived.message.frame})
            return
        if self._applied is not self._settings:
            self._renew()
        self._patience = min(1.0, max(0.05, 2.0 * (now - self._stepped)))
        number, self._number = self._number, self._number + 1
        data = self._read(arrived.message)
        u = float(RowRng(self._applied.seed, [0], counters=[number]).uniform((1,))[0])
        make, self._seen = self._filter(data, self._seen, u)
        if not make and self.last is not None:
            self.stats.skipped += 1
            self._out(Message(arrived.message.frame, arrived.message.captured, encoded(self.last), True), arrived.at)
            return
        self._came[number] = arrived
        self._move(*self._batch.push(self._flight, number, data, self.streamer.condition(self._applied, data)))

    def _read(self, message: Message) -> Tensor:
        if message.picture:
            return opened(message.picture, self.streamer.shape)
        if self._applied.strength < 1.0:
            raise ValueError("a frame without a picture needs strength 1, which makes pictures from noise alone")
        return torch.zeros(1, *self.streamer.shape)

    def _renew(self) -> None:
        """Take new settings up. Where only conditions changed, frames under way go on and see them."""
        before, self._applied = self._applied, self._settings
        self._batch, self._filter = self.streamer.stream(self._applied), self.streamer.filter(self._applied)
        same = before.guiding == self._applied.guiding and bool(before.cond) == bool(self._applied.cond)
        if self._flight is None or not same:
            self._flight = None
            self._came.clear()
            return
        wanted = self.streamer.condition(self._applied, torch.zeros(1, *self.streamer.shape))
        if wanted is not None and self._flight.cond is not None:
            named = [name for name in wanted.values if name not in self.streamer.pictures]
            self._flight = self._flight.asking(wanted, named)
        self._seen = Reference()

    def _move(self, flight: Flight | None, done: list[tuple[int, Tensor]]) -> None:
        self._flight, self._stepped = flight, time.monotonic()
        for number, made in done:
            arrived = self._came.pop(number, None)
            if arrived is None:
                continue
            if not bool(torch.isfinite(made).all()):
                self.reset()
                raise ValueError("the picture is not finite: lower the guidance scale")
            self.last = made.clamp(-1.0, 1.0)
            if self._recording is not None:
                self._recording.append(self.last)
            self.stats.made += 1
            if self.deadline and self._stepped - arrived.at > self.deadline:
                self.stats.missed += 1
            self._out(Message(arrived.message.frame, arrived.message.captured, encoded(self.last)), arrived.at)

    def _out(self, message: Message, came: float) -> None:
        now = time.monotonic()
        self.stats.out(now - came, now)
        self._deliver(message)
