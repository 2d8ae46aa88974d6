"""Wrong usage, and the words for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """What the user typed cannot be done as typed: exit code 2."""


@contextmanager
def usage() -> Iterator[None]:
    """Report a bad value found inside as wrong usage."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise UsageError(str(error)) from error


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest name, or the full stop that the sentence then needs."""
    near = difflib.get_close_matches(name, list(names), 1, 0.4)
    return f"; did you mean {near[0]}?" if near else "."
