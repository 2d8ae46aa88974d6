"""`condiff impute`."""

from __future__ import annotations

import time
from pathlib import Path

from condiff.cli.errors import usage
from condiff.cli.forecast_verb import check_file
from condiff.cli.output import emit, say
from condiff.cli.parser import Parser, natural, number, positive, step_count


def run(words: list[str]) -> int:
    """Fill the gaps of series."""
    parser = Parser(prog="condiff impute", description="Fill the gaps of series from what surrounds them.")
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("--data", metavar="PATH", help="series with gaps [what it was trained on]")
    parser.add_argument("-n", "--num-samples", type=positive, default=100, help="draws of every gap [100]")
    parser.add_argument("--steps", "--num-steps", type=step_count, dest="steps", help="solver steps [the system's]")
    parser.add_argument("--solver", help="solver by name [the system's]")
    parser.add_argument(
        "--guidance-scale", type=number, help="pull to what is known, of a system that guides itself [its own]"
    )
    parser.add_argument("--seed", type=natural, default=0, help="names the draws [0]")
    parser.add_argument("--memory", type=positive, default=512, metavar="MIB", help="working memory to use [512]")
    parser.add_argument("--out", metavar="CSV", help="filled table [RUN/samples/imputed.csv]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    place = Path(arguments.run)
    out = Path(arguments.out or (place / "samples" if place.is_dir() else place.parent) / "imputed.csv")
    check_file("--out", out, ".csv")

    from condiff.cli.forecasting import fingerprint_of, make_filled, series_for, table_bytes
    from condiff.cli.made import check_apart
    from condiff.cli.sample_verb import complete, opened
    from condiff.tasks.forecast import Trained
    from condiff.train.checkpoint import write_atomically

    system = opened(arguments.run)
    with usage():
        Trained(system, solver=arguments.solver, guidance_scale=arguments.guidance_scale).chosen()
    tracks, name = series_for(system, arguments.data)
    with usage():
        check_apart(out, system, name)
    recipe = {
        "made_by": "condiff impute",
        "run": arguments.run,
        "data": name,
        "data_sha256": fingerprint_of(name),
        "num_samples": arguments.num_samples,
        "num_steps": arguments.steps or system.num_steps,
        "solver": arguments.solver,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
        "memory": arguments.memory,
    }
    started = time.perf_counter()
    heads, rows, count, calls = make_filled(system, recipe, tracks=tracks, quiet=False)
    seconds = time.perf_counter() - started
    facts = complete(recipe, system, calls)
    write_atomically(out, table_bytes({**facts, "form": "csv"}, heads, rows))
    say(
        f"{count} missing value(s) filled by the median of {recipe['num_samples']} draws in {seconds:.1f} s: {out}"
        if count
        else f"nothing is missing in {name}; {out} holds it as it is"
    )
    if arguments.json:
        emit({**facts, "files": [str(out)], "filled": count, "seconds": round(seconds, 3)})
    return 0
