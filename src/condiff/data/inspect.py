"""Looking at data before training: what is there, what is wrong and how to mend it. Runs without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from condiff.data import files, kinds
from condiff.data.estimate import Proposal
from condiff.data.kinds import sniff as sniff


@final
@dataclass(frozen=True)
class Inspection:
    """What was found at a path.

    Args:
        path: The path, as given.
        kind: "images", "series", "text", "vectors", "volumes" or "poses"; "" if it cannot be told.
        count: Examples, or time steps over all items for series.
        facts: Counts, sizes, ranges and so on, as plain JSON.
        balance: Examples by class name, by condition name.
        problems: What stops training, each one sentence that ends in how to mend it.
        warnings: What will work but may disappoint.
        proposal: What to run, with its memory and time; None if there are problems.
    """

    path: str
    kind: str
    count: int
    facts: Mapping[str, object] = field(default_factory=dict)
    balance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    proposal: Proposal | None = None

    @property
    def good(self) -> bool:
        """Can this be trained on as it is?"""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        out = asdict(self)
        out["problems"], out["warnings"] = list(self.problems), list(self.warnings)
        return {**out, "good": self.good}

    def lines(self) -> list[str]:
        """Everything as lines for people."""
        out = [
            f"{self.path}: {self.kind or 'unknown kind'}, {self.count:,} "
            f"{'steps' if self.kind == 'series' else 'examples'}"
        ]
        out += [f"  {name.replace('_', ' ')}: {_shown(value)}" for name, value in self.facts.items()]
        for name, classes in self.balance.items():
            counts = sorted(classes.values())
            out.append(
                f"  {name}: {len(classes)} classes of {counts[0]:,} to {counts[-1]:,} "
                f"({files.listed([f'{label} {count:,}' for label, count in classes.items()], 10)})"
            )
        out += [f"  problem: {problem}" for problem in self.problems]
        out += [f"  warning: {warning}" for warning in self.warnings]
        if self.proposal is not None:
            out += [f"  {line}" for line in self.proposal.lines()]
        elif self.problems:
            out.append(
                f"  next step: mend the {len(self.problems)} problem(s) above and run condiff doctor {self.path} again"
            )
        return out


def inspect(path: str | os.PathLike[str], *, steps: int = 2000, batch_size: int = 64) -> Inspection:
    """Look at data without changing it, and say what to train and what it will cost.

    Args:
        path: Folder, file or name of a bundled set.
        steps: Training steps that the estimate of time is for.
        batch_size: Examples a step that the estimates are for.

    Returns: What was found; bad data are reported, never raised.

    Raises:
        FileNotFoundError: If nothing is at the path.
    """
    from condiff.data import survey

    if not kinds.is_bundled(path):
        files.existing(path)
    try:
        kind = sniff(path)
        return survey.look(str(path), kind, steps, batch_size)
    except (ValueError, OSError) as error:
        return Inspection(str(path), "", 0, problems=(str(error).removeprefix(f"{path}: "),))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(entry) for entry in value) or "none"
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
