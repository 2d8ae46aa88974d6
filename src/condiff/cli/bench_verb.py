"""`condiff bench`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError, nearest, usage
from condiff.cli.output import emit, say, table
from condiff.cli.parser import Parser, natural, number, positive, step_count

KINDS = {"solvers": "quality against network calls for every solver, with a recommendation"}
SAMPLES = 256
DRAWS = 16
FEWEST = 10
"""Fewer samples than this have no interval worth the name."""


def _list_of_calls(text: str) -> tuple[int, ...]:
    return tuple(sorted({step_count(part) for part in text.split(",")}))


def _list_of_scales(text: str) -> tuple[float, ...]:
    return tuple(sorted({number(part) for part in text.split(",")}))


def _parser() -> Parser:
    kinds = "\n".join(f"  {kind:<10} {text}" for kind, text in KINDS.items())
    parser = Parser(
        prog="condiff bench",
        description="Compare what a trained run can do.\n\nkinds:\n" + kinds + "\n\n"
        "Every solver that suits the system gets the same numbers of network calls. A deterministic one is judged by\n"
        "the distance of its samples to a fine solution from the same noise, and every one by the Frechet distance\n"
        "to held-out data. Text is judged by the share of its words that the training text has and its perplexity\n"
        "under runs of bytes counted there, never without its entropy. Forecasts are judged by their loss on the\n"
        "validation part of the series. The table, bench_solvers.json and, with the extra [plot], bench_solvers.png\n"
        "go into RUN.",
    )
    parser.add_argument("kind", metavar="KIND", help="what to compare: solvers")
    parser.add_argument("run", metavar="RUN", nargs="?", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("--exact", action="store_true", help="instead of RUN: mixtures whose denoiser is exact")
    parser.add_argument(
        "--calls", type=_list_of_calls, default=None, help="network calls [5,10,20,50]; of a block for text in blocks"
    )
    parser.add_argument(
        "--blocks", type=_list_of_calls, default=None, help="text in blocks: tokens of a block, such as 1,4,16"
    )
    parser.add_argument(
        "--solvers",
        metavar="NAMES",
        help="solvers by name, such as dpm2m,evodiff [all that suit]; own is that of a text run",
    )
    parser.add_argument(
        "--top-p", type=number, metavar="P", help="text: mass of the likeliest tokens that solver own keeps [the run's]"
    )
    parser.add_argument(
        "--scales", type=_list_of_scales, help="guidance scales of a system that guides itself, such as 4,16,64"
    )
    parser.add_argument(
        "-n", "--num-samples", type=positive, help="samples for each number [256]; draws of a window of series [16]"
    )
    parser.add_argument("--fine", type=step_count, help="steps of the fine solution [200]")
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="held-out data [what RUN was trained on]")
    parser.add_argument("--guidance-scale", type=number, help="1 is none [the system's]")
    parser.add_argument("--batch-size", type=positive, help="samples at a time [128]")
    parser.add_argument("--seed", type=natural, default=0, help="names the noise and the intervals [0]")
    parser.add_argument("--out", metavar="DIR", help="folder for table and chart [RUN, or bench]")
    parser.add_argument("--device", default="cpu", help="where to compute [cpu]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _read(words: list[str]) -> argparse.Namespace:
    """Parse, and refuse what cannot be honoured together.

    Raises:
        UsageError: If the kind is missing or unknown, or RUN and --exact do not fit.
    """
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise UsageError(f"condiff bench needs a kind; there is {', '.join(KINDS)}: condiff bench solvers RUN")
    if not words[0].startswith("-") and words[0] not in KINDS:
        raise UsageError(f"no kind of bench {words[0]!r}{nearest(words[0], KINDS)} There is {', '.join(KINDS)}")
    arguments = _parser().read(words)
    if arguments.exact and arguments.run:
        raise UsageError(f"--exact compares solvers on exact targets and takes no run, got {arguments.run}")
    if not arguments.exact and not arguments.run:
        raise UsageError("condiff bench solvers needs RUN, a trained run or checkpoint, or --exact")
    for flag, value in (("--data", arguments.data), ("--guidance-scale", arguments.guidance_scale)):
        if arguments.exact and value is not None:
            raise UsageError(f"{flag} cannot be used with --exact: its targets have data of their own and no condition")
    if arguments.num_samples is not None and arguments.num_samples < FEWEST:
        raise UsageError(f"-n {arguments.num_samples} is too few: intervals need {FEWEST} samples or more")
    if arguments.fine is not None and arguments.fine < 20:
        raise UsageError(f"--fine {arguments.fine} is too few to call fine; use 20 or more, 200 is the default")
    return arguments


def run(words: list[str]) -> int:
    """Compare solvers."""
    arguments = _read(words)
    names = [name.strip() for name in arguments.solvers.split(",") if name.strip()] if arguments.solvers else None
    default = Path("bench") if arguments.exact else Path(arguments.run)
    out = Path(arguments.out) if arguments.out else default if default.is_dir() or arguments.exact else default.parent
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, but --out needs a folder")

    from condiff.tasks.compare import CALLS
    from condiff.tasks.generate import solver_named

    with usage():
        for name in names or ():
            if name != "own":
                solver_named(name)
    started = time.perf_counter()
    if not arguments.exact:
        from condiff.cli.sample_verb import opened

        system = opened(arguments.run, arguments.device)
        if system.data.get("kind") == "series" and "window" in system.data.get("meta", {}):
            return _series(arguments, system, names, out, started)
    if arguments.scales is not None:
        raise UsageError("--scales are for runs of series that guide themselves; --guidance-scale sets one")
    arguments.num_samples, arguments.batch_size = arguments.num_samples or SAMPLES, arguments.batch_size or 128
    if not arguments.exact and system.data.get("kind") == "text":
        if arguments.fine is not None:
            raise UsageError(
                "--fine cannot be used with a run that writes text: nothing is solved finely; leave it out"
            )
        return _text(arguments, system, names, out, started)
    arguments.fine = arguments.fine or 200
    for flag, value in (("--blocks", arguments.blocks), ("--top-p", arguments.top_p)):
        if value is not None:
            raise UsageError(f"{flag} is for runs that write text")
    calls = arguments.calls or CALLS
    if calls[0] < 2:
        raise UsageError(f"--calls expects numbers of at least 2 where whole samples are made, got {calls[0]}")
    made = _exact(arguments, names, calls) if arguments.exact else _trained(arguments, names, calls)
    facts = {
        "kind": "solvers",
        "run": arguments.run,
        "n": arguments.num_samples,
        "seed": arguments.seed,
        "budgets": list(calls),
        "systems": made,
        "seconds": round(time.perf_counter() - started, 2),
    }
    files = _write(out, facts)
    if arguments.json:
        emit(facts)
    else:
        print("\n".join(text for name, found in made.items() for text in _told(name, found, calls)))
    say(f"{facts['seconds']:.0f} s; written to {' and '.join(str(file) for file in files)}")
    if len(files) == 1:
        say("no chart: pip install 'condiff[plot]' brings it")
    return 0


def _text(
    arguments: argparse.Namespace,
    system: Any,  # noqa: ANN401 - a System
    names: list[str] | None,
    out: Path,
    started: float,
) -> int:
    """Compare numbers of calls of a text system by the words it writes."""
    from condiff.cli.eval_verb import check_fit
    from condiff.data import read_like
    from condiff.tasks.compare_text import fewest, text_quality
    from condiff.tasks.text import cut_tails

    meta = system.data.get("meta", {})
    name = arguments.data or meta.get("source") or system.data.get("name")
    with usage():
        splits = read_like(system.data, arguments.data)
        check_fit(str(name), system, splits.test)
        points, held = text_quality(
            replace(system, solver=cut_tails(system, arguments.top_p)),
            splits,
            calls=arguments.calls,
            solvers=names,
            blocks=arguments.blocks,
            num_samples=arguments.num_samples,
            guidance_scale=arguments.guidance_scale,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            talk=say,
        )
    chosen = fewest(points, held)
    best = min(points, key=lambda point: point.perplexity.value)
    why = (
        f"{_way(chosen)}, {chosen.calls} calls a text: {chosen.known.value:.1%} of its words are known, perplexity "
        f"{chosen.perplexity.value:.2f}, the fewest calls within the intervals of the best ({_way(best)}, {best.calls} "
        f"calls: {best.known.value:.1%}, {best.perplexity.value:.2f})"
    )
    recommended = {"solver": chosen.solver, "block": chosen.block, "steps": chosen.steps, "calls": chosen.calls}
    facts = {
        "kind": "solvers",
        "run": arguments.run,
        "n": arguments.num_samples,
        "seed": arguments.seed,
        "top_p": arguments.top_p,
        "rows": [point.to_json() for point in points],
        "held_out": held.to_json(),
        "recommendation": {**recommended, "why": why},
    }
    inner = ("block", "steps") if chosen.block is not None else ()
    rows = [
        [
            p.solver,
            *(str(getattr(p, name) or "") for name in inner),
            str(p.calls or ""),
            _share(p.known),
            f"{p.perplexity.value:.2f}",
            f"{p.entropy:.2f}",
        ]
        for p in (*points, held)
    ]
    heads = ("solver", *inner, "calls a text", "known words", "perplexity a byte", "entropy, bits a token")
    return _hand_over(arguments, out, facts, rows, heads, started)


def _series(
    arguments: argparse.Namespace,
    system: Any,  # noqa: ANN401 - a System
    names: list[str] | None,
    out: Path,
    started: float,
) -> int:
    """Compare numbers of calls of a system that forecasts, or scales where it guides itself, by its loss."""
    from condiff.cli.forecasting import series_for
    from condiff.tasks.compare_series import fewest_calls, series_quality

    for flag in ("blocks", "top_p", "fine", "batch_size"):
        if getattr(arguments, flag) is not None:
            raise UsageError(f"--{flag.replace('_', '-')} cannot be used with a run that forecasts; leave it out")
    if arguments.guidance_scale is not None and arguments.scales is not None:
        raise UsageError("--guidance-scale and --scales both say how strongly to guide; give one of them")
    scales = arguments.scales if arguments.guidance_scale is None else (arguments.guidance_scale,)
    tracks, name = series_for(system, arguments.data)
    with usage():
        points, windows = series_quality(
            system,
            tracks,
            calls=arguments.calls,
            solvers=names,
            scales=scales,
            num_samples=arguments.num_samples or DRAWS,
            seed=arguments.seed,
            talk=say,
        )
    chosen = fewest_calls(points)
    least = min(point.score.value for point in points)
    asked = {"solver": None if chosen.scale is not None else chosen.solver, "steps": chosen.steps}
    scale = "" if chosen.scale is None else f" at guidance scale {chosen.scale:g}"
    why = (
        f"{chosen.solver} with {chosen.calls} calls a draw{scale}: loss {chosen.score.value:.4g}, the least {least:.4g}"
    )
    tried = [point.scale for point in points if point.scale is not None]
    if len(set(tried)) > 1 and chosen.scale in (min(tried), max(tried)):
        end, way = ("smallest", "smaller") if chosen.scale == min(tried) else ("largest", "larger")
        why += f"; {chosen.scale:g} is the {end} scale tried, so look at {way} ones too, by --scales"
    facts = {
        "kind": "solvers",
        "run": arguments.run,
        "data": name,
        "split": "validation",
        "windows": len(windows),
        "n": arguments.num_samples or DRAWS,
        "seed": arguments.seed,
        "rows": [point.to_json() for point in points],
        "recommendation": {**asked, "guidance_scale": chosen.scale, "calls": chosen.calls, "why": why},
    }
    inner = ("guidance scale",) if chosen.scale is not None else ()
    rows = [
        [
            p.solver,
            str(p.calls),
            *(f"{p.scale:g}" for _ in inner),
            f"{p.loss.value:.4g}",
            "{:.4g} to {:.4g}".format(*p.loss.interval),
            f"{p.cover.value:.0%}",
        ]
        for p in points
    ]
    heads = ("solver", "calls a draw", *inner, "weighted quantile loss", "interval (95 %)", "in the 90 % band")
    say(f"on {len(windows)} windows of the validation part")
    return _hand_over(arguments, out, facts, rows, heads, started)


def _hand_over(
    arguments: argparse.Namespace,
    out: Path,
    facts: dict[str, Any],
    rows: Sequence[Sequence[str]],
    heads: Sequence[str],
    started: float,
) -> int:
    """Write what was measured, and tell it: one JSON object, or a table and what is recommended."""
    from condiff.train.checkpoint import write_atomically

    facts["seconds"] = round(time.perf_counter() - started, 2)
    place = out / "bench_solvers.json"
    write_atomically(place, json.dumps(facts, indent=1).encode())
    if arguments.json:
        emit(facts)
    else:
        print(table(rows, heads))
        print(f"\nrecommended: {facts['recommendation']['why']}")
    say(f"{facts['seconds']:.0f} s; written to {place}")
    return 0


def _way(point: Any) -> str:  # noqa: ANN401 - a TextPoint
    if point.block is None:
        return str(point.solver)
    return f"blocks of {point.block} in {point.steps} step{'' if point.steps == 1 else 's'}"


def _share(metric: Any) -> str:  # noqa: ANN401 - a Metric
    low, high = metric.interval
    return f"{metric.value:.1%} ({low:.1%} to {high:.1%})"


def _exact(arguments: argparse.Namespace, names: list[str] | None, calls: Sequence[int]) -> dict[str, Any]:
    """Compare on the exact targets, one entry each."""
    from condiff.tasks.compare import candidates, compare, exact_systems, exact_truth

    made = {}
    for name, (system, target) in exact_systems().items():
        say(f"{name}:")
        truth = exact_truth(target, arguments.num_samples, seed=arguments.seed, steps=arguments.fine)
        found = compare(
            system,
            truth,
            num_samples=arguments.num_samples,
            calls=calls,
            solvers=candidates(system, names),
            seed=arguments.seed,
            batch_size=arguments.num_samples,
            talk=say,
        )
        made[name] = _plain(found, truth)
    return made


def _trained(arguments: argparse.Namespace, names: list[str] | None, calls: Sequence[int]) -> dict[str, Any]:
    """Compare on a trained run, under the conditions of held-out rows where there are some."""
    import torch

    from condiff.cli.eval_verb import check_fit
    from condiff.cli.sample_verb import opened
    from condiff.process import Gaussian
    from condiff.tasks.assess import features_for
    from condiff.tasks.compare import Truth, candidates, compare, fine_ends

    system = opened(arguments.run, arguments.device)
    num = arguments.num_samples
    if not isinstance(system.process, Gaussian):
        raise UsageError(
            f"{arguments.run} has a process of type {type(system.process).__name__}; bench solvers compares solvers "
            "that lead from noise to continuous data (Gaussian)"
        )
    if not system.schema and arguments.guidance_scale not in (None, 1.0):
        raise UsageError(
            f"this system takes no condition, so --guidance-scale {arguments.guidance_scale:g} cannot be used"
        )
    held = _held_out(arguments, system)
    cond = None
    if held is not None:
        check_fit(str(held.name), system, held)
        _, rows = held.rows(torch.arange(num) % len(held))
        cond = rows if rows.values else None
    drawing = {
        "cond": cond,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "device": arguments.device,
    }
    ends, off = fine_ends(system, num, arguments.fine, say, **drawing)
    if held is not None:
        reference, what = held.data.float(), f"{len(held)} held-out rows of {held.name}"
    else:
        say("no held-out data: the flow is solved for other noise, as rows to compare with")
        other = {**drawing, "seed": arguments.seed + 1}
        reference, what = fine_ends(system, num, arguments.fine, say, **other)[0], "fine solutions from other noise"
    features, definition = features_for(system, reference)
    truth = Truth(ends, off, reference, features, definition, what)
    found = compare(system, truth, num_samples=num, calls=calls, solvers=candidates(system, names), talk=say, **drawing)
    return {system.call.name if system.call else "system": _plain(found, truth)}


def _held_out(arguments: argparse.Namespace, system: Any) -> Any:  # noqa: ANN401 - a Dataset, or None
    """Read the test split that a run is compared with; None if its data are not there and none were named.

    Raises:
        UsageError: If the data named with --data are not there or too few.
    """
    from condiff.data import read_like

    name = arguments.data or system.data.get("meta", {}).get("source") or system.data.get("name")
    if not name:
        return None
    try:
        held = read_like(system.data, arguments.data).test
    except (FileNotFoundError, ValueError) as error:
        if arguments.data:
            raise UsageError(str(error)) from None
        say(f"the data {name} cannot be read here ({error}); give their place with --data")
        return None
    if len(held) < FEWEST:
        raise UsageError(f"{name} has {len(held)} test examples; a distance needs {FEWEST} or more")
    return held


def _plain(found: Any, truth: Any) -> dict[str, Any]:  # noqa: ANN401 - a Comparison and its Truth
    return {
        "rows": [point.to_json() for point in found.points],
        "left_out": dict(found.left_out),
        "reference": truth.what,
        "error_of_the_fine_solution": truth.error,
        "floor": found.floor.to_json() if found.floor else None,
        "recommendation": {
            "solver": found.recommended.solver,
            "num_steps": found.recommended.num_steps,
            "calls": found.recommended.calls,
            "most_accurate": found.accurate.solver if found.accurate else None,
            "why": found.why,
        },
    }


def _told(name: str, found: Mapping[str, Any], calls: Sequence[int]) -> Iterator[str]:
    """Yield what is printed of one system: two tables, what was left out, the recommendation."""
    for key, title in (("error", "distance to the flow's end points, in spreads"), ("distance", "Frechet distance")):
        cells: dict[str, dict[int, str]] = {}
        for row in found["rows"]:
            if row[key] is not None:
                low, high = row[key]["interval"]
                text = f"{row[key]['value']:.3g} ({low:.2g} to {high:.2g})"
                cells.setdefault(row["solver"], {})[row["budget"]] = text
        against = f" to {found['reference']}" if key == "distance" else ""
        yield f"\n{name}: {title}{against}, by network calls"
        yield table(
            [[solver, *(got.get(n, "") for n in calls)] for solver, got in cells.items()], ("solver", *map(str, calls))
        )
    if found["floor"]:
        low, high = found["floor"]["interval"]
        yield f"the flow's own end points: Frechet distance {found['floor']['value']:.3g} ({low:.2g} to {high:.2g})"
    for left, why in found["left_out"].items():
        yield f"left out: {left}: {why}"
    yield f"\nrecommended: {found['recommendation']['why']}"


def _write(out: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write the numbers, and the chart where matplotlib is there; returns the files."""
    from condiff.claims.lab import plot
    from condiff.train.checkpoint import write_atomically

    target = out / "bench_solvers.json"
    write_atomically(target, json.dumps(facts, indent=1).encode())
    chart = out / "bench_solvers.png"
    count = len(facts["systems"])
    before = chart.stat().st_mtime_ns if chart.is_file() else None
    plot(out, chart.name, lambda figure: _draw(figure, facts["systems"], facts["budgets"]), size=(9.0, 3.4 * count))
    made = chart.is_file() and chart.stat().st_mtime_ns != before
    return [target, chart] if made else [target]


def _draw(figure: Any, systems: Mapping[str, Any], budgets: Sequence[int]) -> None:  # noqa: ANN401 - a Figure
    """Draw error and distance against calls, one row a system; what is a thousand times the best is cut off."""
    axes = figure.subplots(len(systems), 2, squeeze=False)
    for (name, found), pair in zip(systems.items(), axes, strict=True):
        solvers = list(dict.fromkeys(row["solver"] for row in found["rows"]))
        for panel, key, label in zip(pair, ("error", "distance"), ("error, spreads", "Frechet distance"), strict=True):
            for k, solver in enumerate(solvers):
                rows = [row for row in found["rows"] if row["solver"] == solver and row[key] is not None]
                if rows:
                    panel.plot(
                        [row["calls"] for row in rows], [max(row[key]["value"], 1e-6) for row in rows],
                        marker="osv^D"[k % 5], markersize=3, color=f"C{k % 10}", label=solver,
                        linestyle="-" if k < 10 else "--",
                    )  # fmt: skip
            panel.set(xscale="log", yscale="log", xlabel="network calls", ylabel=label, title=name)
            panel.set_xticks(budgets, [str(calls) for calls in budgets])
            panel.minorticks_off()
            least = min((max(row[key]["value"], 1e-6) for row in found["rows"] if row[key] is not None), default=1.0)
            panel.set_ylim(top=min(panel.get_ylim()[1], 1000.0 * least))
        if found["floor"]:
            pair[1].axhline(max(found["floor"]["value"], 1e-6), color="grey", linewidth=0.8)
        pair[1].legend(fontsize=6, ncols=2)
