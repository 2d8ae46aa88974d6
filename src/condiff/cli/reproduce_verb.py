"""`condiff reproduce`."""

from __future__ import annotations

import time
from pathlib import Path

from condiff.cli.catalogue import experiment_of, systems
from condiff.cli.errors import UsageError, nearest
from condiff.cli.output import emit, say, table
from condiff.cli.parser import Parser, natural


def run(words: list[str]) -> int:
    """Run an experiment."""
    there = [entry.slug for entry in systems() if entry.experiment]
    parser = Parser(
        prog="condiff reproduce",
        description=f"Run a system's small experiment on real data.\n\nexperiments: {', '.join(there)}",
    )
    parser.add_argument("slug", metavar="SLUG", help="a system of condiff systems")
    parser.add_argument("--quick", action="store_true", help="within a minute; says so if the claim needs more")
    parser.add_argument("--seed", type=natural, default=0, help="first seed [0]")
    parser.add_argument("--out", metavar="DIR", help="folder for pictures and result.json [reproduce/SLUG]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    if arguments.slug not in there:
        known = [entry.slug for entry in systems()]
        if arguments.slug in known:
            raise UsageError(
                f"{arguments.slug} is a general recipe without an experiment; there are {', '.join(there)}"
            )
        raise UsageError(f"no system {arguments.slug!r}{nearest(arguments.slug, there)} There are {', '.join(there)}")
    out = Path(arguments.out or f"reproduce/{arguments.slug}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, but --out needs a folder")

    import json

    from condiff.train.checkpoint import write_atomically

    experiment = experiment_of(arguments.slug)
    started = time.perf_counter()
    result = experiment(quick=arguments.quick, seed=arguments.seed, out=out, talk=say)
    facts = result.to_json(time.perf_counter() - started)
    write_atomically(out / "result.json", json.dumps(facts, indent=1).encode())
    if arguments.json:
        emit(facts)
        return 0
    print(f"claim     {result.claim}\ndata      {result.data}\n")
    rows = [
        (r.name, f"{r.value:.4g} {r.unit}".strip(), f"{r.interval[0]:.4g} to {r.interval[1]:.4g}", r.n)
        for r in result.rows
    ]
    print(table(rows, ("measured", "value", "interval (95 %)", "n")))
    print(f"\neffect    {result.effect}\nexpected  {result.expected}")
    print(f"verdict   {'holds' if result.holds else 'does not hold at this scale'}")
    say(f"{facts['seconds']:.0f} s; pictures and result.json in {out}")
    return 0
