"""An argument parser that answers a mistake with one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from condiff.cli.errors import UsageError, nearest


class Parser(argparse.ArgumentParser):
    """argparse with exact flags, dashes and underscores alike, and errors raised as `UsageError`."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own arguments
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments.

        Raises:
            UsageError: If a flag is unknown or a value is of the wrong kind.
        """
        spelled = [_dashed(argument) for argument in arguments]
        try:
            known, rest = self.parse_known_args(spelled)
        except argparse.ArgumentError as error:
            raise UsageError(str(error)) from None
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = rest[0].partition("=")[0]
            if word.startswith("-"):
                raise UsageError(f"{self.prog} has no option {word}{nearest(word, flags)} See {self.prog} --help")
            raise UsageError(f"{self.prog} got {word!r} too much; see {self.prog} --help")
        return known

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving."""
        raise UsageError(f"{self.prog}: {_plain(message)}; see {self.prog} --help")


def _dashed(argument: str) -> str:
    """Spell the name of a long flag with dashes."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _plain(message: str) -> str:
    return re.sub(r"\s+", " ", message).rstrip(".")


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if not 1 <= value <= 10**9:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 10^9, got {text}")
    return value


def step_count(text: str) -> int:
    """Read a number of solver steps; nothing is left to resolve beyond a hundred thousand."""
    value = positive(text)
    if value > 100_000:
        raise argparse.ArgumentTypeError(f"expected 1 to 100,000 steps, got {text}")
    return value


def natural(text: str) -> int:
    """Read an integer of at least 0, such as a seed."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63 - 1, got {text}")
    return value


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text}")
    return value


def lags(text: str) -> list[int]:
    """Read steps back, such as 24,168; an empty text is none."""
    return [positive(part) for part in text.split(",") if part.strip()]
