"""Measure the performance goals and print them as a table: python benchmarks/run.py [--smoke] [--only G1,G4]."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "imports": ("G15",),
    "loops": ("G1", "G2", "G3", "G5"),
    "syncs": ("G4",),
    "training": ("G6", "G11"),
    "couplings": ("G7",),
    "nets": ("G8", "G9", "G10", "G12"),
    "quality": ("G16",),
    "streaming": ("G13",),
    "tokens": ("G14",),
    "series": ("G17", "G18", "G19"),
}
"""Modules of this folder and the goals they measure."""

GOALS = sorted((goal for goals in GROUPS.values() for goal in goals), key=lambda goal: int(goal[1:]))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="errors and gross regressions only, within a minute")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--only", default=",".join(GOALS), help="goals to measure, such as G1,G4")
    args = parser.parse_args(argv)
    args.only = [goal.strip().upper() for goal in args.only.split(",")]
    unknown = sorted(set(args.only) - set(GOALS))
    if unknown:
        parser.error(f"unknown goal {unknown[0]}; there are {', '.join(GOALS)}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 after an error or, in a full run, a gross regression."""
    args = parse(argv)
    for path in (str(ROOT / "src"), str(ROOT)):
        if path not in sys.path:
            sys.path.insert(0, path)
    import torch
    from benchmarks.neighbours import prepare
    from benchmarks.paired import Effort, Row

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prepare()
    begin, effort, failed = time.time(), Effort(args.smoke), False
    rows: list[Row] = []
    for name, goals in GROUPS.items():
        wanted = set(goals) & set(args.only)
        if not wanted:
            continue
        print(f"measuring {', '.join(goals)} ...", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        try:
            rows += [row for row in _measured(name, effort) if row.goal in wanted]
        except Exception:  # one broken group must not hide the others
            traceback.print_exc()
            failed = True
            rows += [
                Row(goal, "error: see above", math.nan, math.nan) for goal in sorted(wanted - {r.goal for r in rows})
            ]
    rows.sort(key=lambda row: int(row.goal[1:]))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    print(render(rows))
    print(
        f"\n{time.time() - begin:.0f} s; load average {load} on {os.cpu_count()} cores; torch {torch.__version__}, 1 thread"
    )
    regressed = [row for row in rows if not row.sound]
    for row in regressed:
        print(f"gross regression: {row.goal} {row.case}: {row.value:.3g}")
    if args.json:
        args.json.write_text(json.dumps({"load": load, "rows": [_plain(row) for row in rows]}, indent=1) + "\n")
    # A few rounds on whatever machine builds say too little to fail a build; the full run fails.
    return 1 if failed or (regressed and not args.smoke) else 0


def _measured(name, effort):  # type: ignore[no-untyped-def]
    """Measure a group; what seems to have regressed is measured again, and the second reading counts.

    A busy machine spoils one reading, a regression is still there in the second.
    """
    measure = importlib.import_module(f"benchmarks.{name}").measure
    rows = measure(effort)
    if all(row.sound for row in rows):
        return rows
    again = {(row.goal, row.case): row for row in measure(effort)}
    return [row if row.sound else again.get((row.goal, row.case), row) for row in rows]


def render(rows) -> str:  # type: ignore[no-untyped-def]
    """Return the table as Markdown."""
    lines = ["| goal | case | value | target | verdict | ours | floor | neighbours' cost over ours |", "|" + "---|" * 8]
    for row in rows:
        near = ", ".join(f"{k} {v:.1f}x" if isinstance(v, float) else f"{k} {v}" for k, v in row.neighbours.items())
        case = f"{row.case} ({row.note})" if row.note else row.case
        sign = ">=" if row.above else "<="
        lines.append(
            f"| {row.goal} | {case} | {row.value:.3g} | {sign} {row.limit:.3g} | {row.verdict} | {row.ours} | {row.floor} | {near} |"
        )
    return "\n".join(lines)


def _plain(row) -> dict[str, object]:  # type: ignore[no-untyped-def]
    value = None if math.isnan(row.value) else row.value
    return {**dataclasses.asdict(row), "value": value, "verdict": row.verdict, "sound": row.sound}


if __name__ == "__main__":
    sys.exit(main())
