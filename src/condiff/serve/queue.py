"""A place for one frame, where the newest wins: a source that is too fast loses frames instead of time."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar, final

Item = TypeVar("Item")


@final
class Latest(Generic[Item]):
    """A slot between threads: `put` replaces what nobody has taken, `take` waits for something."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Offer an item; return whether an older one was dropped for it. After `close` it is dropped itself."""
        with self._ready:
            replaced = self._item is not None or self._closed
            self.dropped += replaced
            if not self._closed:
                self._item = item
                self._ready.notify()
            return replaced

    def take(self, timeout: float | None = None) -> Item | None:
        """Take the newest item, waiting for one at most `timeout` seconds; None if there is none, or after `close`."""
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Wake whoever waits; nothing is accepted any more."""
        with self._ready:
            self._closed = True
            self._item = None
            self._ready.notify_all()

    def __len__(self) -> int:
        """1 if an item waits, else 0."""
        return int(self._item is not None)
