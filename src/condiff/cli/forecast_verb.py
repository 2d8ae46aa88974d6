"""`condiff forecast`."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

from condiff.cli.errors import UsageError, usage
from condiff.cli.output import emit, say
from condiff.cli.parser import Parser, natural, number, positive, step_count


def _parser() -> Parser:
    parser = Parser(prog="condiff forecast", description="Forecast what follows the last value of every series.")
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("--data", metavar="PATH", help="series to continue [what it was trained on]")
    parser.add_argument("--horizon", type=positive, help="steps to forecast [what it was trained for]")
    parser.add_argument(
        "--from", dest="origin", metavar="TIME", help="forecast from a time in the past, beside the truth"
    )
    parser.add_argument("-n", "--num-samples", type=positive, default=100, help="draws of every series [100]")
    parser.add_argument("--steps", "--num-steps", type=step_count, dest="steps", help="solver steps [the system's]")
    parser.add_argument("--solver", help="solver by name [the system's]")
    parser.add_argument(
        "--guidance-scale", type=number, help="pull to what is known, of a system that guides itself [its own]"
    )
    parser.add_argument("--seed", type=natural, default=0, help="names the draws [0]")
    parser.add_argument("--memory", type=positive, default=512, metavar="MIB", help="working memory to use [512]")
    parser.add_argument("--out", metavar="CSV", help="table of forecasts [RUN/samples/forecast.csv]")
    parser.add_argument("--plot", metavar="PNG", help="picture of the first series")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def run(words: list[str]) -> int:
    """Forecast."""
    arguments = _parser().read(words)
    place = Path(arguments.run)
    out = Path(arguments.out or (place / "samples" if place.is_dir() else place.parent) / "forecast.csv")
    check_file("--out", out, ".csv")
    if arguments.plot:
        check_file("--plot", Path(arguments.plot), ".png")
        if find_spec("matplotlib") is None:
            raise UsageError("--plot needs matplotlib: pip install condiff[plot]")

    from condiff.cli.forecasting import (
        draw_forecast,
        fingerprint_of,
        forecast_rows,
        make_forecast,
        series_for,
        table_bytes,
    )
    from condiff.cli.made import check_apart
    from condiff.cli.sample_verb import complete, opened
    from condiff.tasks.forecast import Trained, window_of
    from condiff.train.checkpoint import write_atomically

    system = opened(arguments.run)
    with usage():
        window = window_of(system)
        Trained(system, solver=arguments.solver, guidance_scale=arguments.guidance_scale).chosen()
    tracks, name = series_for(system, arguments.data)
    with usage():
        check_apart(out, system, name)
    recipe = {
        "made_by": "condiff forecast",
        "run": arguments.run,
        "data": name,
        "data_sha256": fingerprint_of(name),
        "horizon": arguments.horizon or window.horizon,
        "from": arguments.origin,
        "num_samples": arguments.num_samples,
        "num_steps": arguments.steps or system.num_steps,
        "solver": arguments.solver,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
        "memory": arguments.memory,
    }
    for remark in tracks.remarks:
        say(f"{name}: {remark}")
    if recipe["horizon"] > window.horizon:
        say(
            f"the run forecasts {window.horizon} steps at a time: {recipe['horizon']} are reached in blocks, each on "
            "the draws of the one before"
        )
    started = time.perf_counter()
    found, truth, calls = make_forecast(system, recipe, tracks=tracks, quiet=False)
    seconds = time.perf_counter() - started
    facts = complete(recipe, system, calls)
    heads, rows = forecast_rows(found, truth)
    write_atomically(out, table_bytes({**facts, "form": "csv"}, heads, rows))
    files = [str(out)]
    if arguments.plot:
        draw_forecast(Path(arguments.plot), found, window, truth, {**facts, "form": "plot"})
        files.append(arguments.plot)
    count = len(found.tracks)
    done = f"{count} series, {recipe['horizon']} steps, {recipe['num_samples']} draws in {seconds:.1f} s"
    say(f"{done}: {', '.join(files)}")
    if arguments.json:
        emit({**facts, "files": files, "series": count, "seconds": round(seconds, 3)})
    return 0


def check_file(flag: str, path: Path, ending: str) -> None:
    """Refuse an output that cannot be written, before anything is computed.

    Raises:
        UsageError: If its ending is another, or a folder or file is in the way.
    """
    if path.suffix.lower() != ending or path.is_dir():
        raise UsageError(f"{flag} {path} does not fit; expected a file that ends in {ending}")
    parent = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if parent is not None and not parent.is_dir():
        raise UsageError(f"{parent} is a file, so {path} cannot be written; give another {flag}")
