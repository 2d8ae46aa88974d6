"""The one thread that calls the network: streams take turns, and jobs use what is left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol, final

from condiff.serve.session import Session

log = logging.getLogger("condiff.serve")


class Work(Protocol):
    """Something that is done piece by piece."""

    def advance(self) -> bool:
        """Do one piece, if there is any; return whether there was."""
        ...


@final
class Worker:
    """A thread that gives every session one turn a round, so that none starves, and then jobs one.

    Args:
        jobs: Batch work, done between rounds.
    """

    def __init__(self, jobs: Work) -> None:
        self._jobs = jobs
        self._sessions: list[Session] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="condiff-worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the piece of work that is being done."""
        self._stopped = True
        self._wake.set()
        self._thread.join(30.0)

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    @property
    def sessions(self) -> list[Session]:
        """The sessions, a copy."""
        with self._lock:
            return list(self._sessions)

    def join(self, session: Session) -> None:
        """Give a session its turns."""
        with self._lock:
            self._sessions.append(session)

    def leave(self, session: Session) -> None:
        """Give a session no more turns."""
        session.close()
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)

    def round(self) -> bool:
        """Give every session one turn, and jobs one; return whether anything was done."""
        busy = False
        for session in self.sessions:
            busy |= self._safely(session.advance)
        return busy | self._safely(self._jobs.advance)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            if not self.round():
                self._wake.wait(0.02)

    def _safely(self, advance: Callable[[], bool]) -> bool:
        try:
            return advance()
        except Exception:
            log.exception("a piece of work failed")
            return False
