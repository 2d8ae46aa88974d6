"""`condiff sample`."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError, usage
from condiff.cli.output import emit, lead, say
from condiff.cli.parser import Parser, natural, number, positive, step_count


def _parser() -> Parser:
    parser = Parser(prog="condiff sample", description="Draw samples from a trained run or a single checkpoint file.")
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("-n", "--num-samples", type=positive, default=None, help="how many [16, or 4 of each class]")
    parser.add_argument("--steps", "--num-steps", type=step_count, dest="steps", help="solver steps [the system's]")
    parser.add_argument("--solver", help="solver by name [the system's]")
    parser.add_argument("--guidance-scale", type=number, help="1 is none [the system's]")
    parser.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="class, number, text or picture file; a list 3,7 is used in turn",
    )
    parser.add_argument("--seed", type=natural, default=0, help="sample i of a seed is always the same [0]")
    parser.add_argument("--first", type=natural, default=0, help="number of the first sample [0]")
    parser.add_argument("--batch-size", type=positive, default=64, help="samples at a time [64]")
    parser.add_argument("--out", metavar="PATH", help=".png (a grid), .npz, .csv, or a folder (one PNG each)")
    parser.add_argument("--prompt", metavar="TEXT", help="text systems: continue this text")
    parser.add_argument("--infill", metavar="TEXT", help="text systems: fill the gaps, one underscore a token")
    parser.add_argument(
        "--length",
        type=positive,
        metavar="N",
        help="text systems: tokens of the whole text (bytes, characters or pieces)",
    )
    parser.add_argument("--block", type=positive, metavar="N", help="text in blocks: tokens of a block [the system's]")
    parser.add_argument(
        "--best-of", type=positive, metavar="N", help="text systems: keep the best of N answers [the system's]"
    )
    parser.add_argument(
        "--top-p",
        type=number,
        metavar="P",
        help="text systems: keep the likeliest tokens of mass P, 1 all [the system's]",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="type the network computes in [fp32]"
    )
    parser.add_argument("--device", default="cpu", help="where to compute [cpu]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def read_conditions(texts: Sequence[str]) -> dict[str, Any] | None:
    """Parse NAME=VALUE pairs; None if there are none.

    Raises:
        UsageError: If one has no "=", or a name comes twice.
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--cond needs NAME=VALUE, got {text!r}")
        if name in given:
            raise UsageError(f"--cond {name} was given twice; use a list such as {name}=3,7")
        given[name] = value.split(",")
    return given or None


def opened(path: str, device: str = "cpu") -> Any:  # noqa: ANN401 - a System
    """Load a system for a verb.

    Raises:
        UsageError: If nothing is there.
    """
    from condiff.cli.train_verb import _device
    from condiff.files import load
    from condiff.train.fit import module_of

    try:
        system = load(path)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    module_of(system).to(_device(device))
    return system


def run(words: list[str]) -> int:
    """Sample."""
    arguments = _parser().read(words)
    conditions = read_conditions(arguments.cond)

    from condiff.cli.made import check_apart, check_out, conditions_for, write
    from condiff.cli.train_verb import memory
    from condiff.core.condition import ClassLabel, Condition
    from condiff.tasks.generate import check_solver, condition_of, guides
    from condiff.tasks.pictures import drawable

    system = opened(arguments.run, arguments.device)
    if system.data.get("kind") == "text":
        from condiff.cli.writing import run_text

        return run_text(arguments, system, conditions)
    windows = "given" in system.schema and "window" in system.data.get("meta", {})
    if windows and not guides(system.solver):
        raise UsageError(
            f"this run continues series: use condiff forecast {arguments.run} --data PATH, or condiff impute for gaps"
        )
    only = ("prompt", "infill", "length", "block", "best_of", "top_p")
    asked = next((name for name in only if getattr(arguments, name) is not None), None)
    if asked:
        raise UsageError(
            f"--{asked.replace('_', '-')} is for systems that write text; "
            f"this one makes {system.data.get('kind', 'no text')}"
        )
    classes = [kind.num_classes for kind in system.schema.values() if isinstance(kind, ClassLabel)]
    count = arguments.num_samples or (4 * classes[0] if len(classes) == 1 and classes[0] <= 20 else 16)
    out = Path(arguments.out) if arguments.out else _default_out(Path(arguments.run), drawable(system))
    need = 4 * count * math.prod(system.shape) * 3  # the samples, joined, and their encoded form
    if need > memory() > 0:
        raise UsageError(
            f"-n {count} needs {need / 2**30:,.0f} GiB, more than this machine has; draw parts with --first and -n"
        )
    recipe = {
        "made_by": "condiff sample",
        "run": arguments.run,
        "num_samples": count,
        "num_steps": system.num_steps if arguments.steps is None else arguments.steps,
        "solver": arguments.solver,
        "guidance_scale": system.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "cond": conditions,
        "seed": arguments.seed,
        "first": arguments.first,
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
    }
    with usage():
        check_out(out, drawable(system), flat=not drawable(system))
        check_apart(out, system)
        if arguments.solver:
            check_solver(system, arguments.solver)
        one = conditions_for(system, conditions, range(1))
        system.process.given(one if isinstance(one, Condition) else condition_of(system, one, range(1)))
        system.grid(recipe["num_steps"])
    started = time.perf_counter()
    try:
        samples, calls = generate(system, recipe, device=arguments.device, talk=True)
    except (TypeError, ValueError) as error:
        if arguments.solver is None:
            raise
        # Some pairings are refused only by a step: what was typed is wrong then, not the run.
        raise UsageError(f"--solver {arguments.solver}: {error}") from error
    seconds = time.perf_counter() - started
    if not lead():
        return 0
    files = write(out, samples, complete(recipe, system, calls), system)
    folder = Path(arguments.run)
    if (folder / "config.yaml").is_file() and files[0].parent.resolve() == (folder / "samples").resolve():
        from condiff.cli.report import write_report

        write_report(folder)
    text = f"{count} samples in {seconds:.1f} s, {calls} network calls a batch"
    say(f"{text}: {files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""))
    if arguments.json:
        facts = {"files": [str(file) for file in files], "calls": calls, "seconds": round(seconds, 3)}
        emit({**complete(recipe, system, calls), **facts})
    return 0


def ready(system: Any, recipe: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a System
    """Prepare a system for sampling in the precision of a recipe.

    Raises:
        ValueError: If that is unknown.
    """
    import torch

    from condiff.tasks.ready import prepare

    precision = recipe.get("precision", "fp32")  # files from before there was a choice were made in fp32
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16, the recipe says {precision!r}")
    return prepare(system, dtype=torch.bfloat16 if precision == "bf16" else None)


def generate(system: Any, recipe: Mapping[str, Any], *, device: Any = "cpu", talk: bool = False) -> tuple[Any, int]:  # noqa: ANN401
    """Draw the samples a recipe asks for, in the units of the data; returns them with the network calls of one batch.

    Several workers, as `torchrun` starts them, draw a share each; all of them return the whole.

    Raises:
        UsageError: If the system cannot honour the guidance scale.
        ValueError: If the recipe names an unknown precision.
        RuntimeError: If a sample is not finite.
    """
    import torch

    from condiff.cli.made import conditions_for, in_own_units
    from condiff.tasks.generate import batches
    from condiff.train.fit import module_of
    from condiff.train.workers import join, share, workers

    if not system.schema and recipe["guidance_scale"] != 1.0:
        raise UsageError(
            f"this system takes no condition, so --guidance-scale {recipe['guidance_scale']:g} cannot be used"
        )
    system = ready(system, recipe)
    crew = workers(device)
    count, first = recipe["num_samples"], recipe["first"]
    mine = share(crew, count)
    rows = range(first + mine.start, first + mine.stop)
    names = ("num_steps", "solver", "seed", "batch_size")
    wanted = {**{name: recipe[name] for name in names}, "num_samples": len(rows), "first": rows.start}
    wanted["cond"] = conditions_for(system, recipe["cond"], rows)
    module_of(system).to(crew.device)
    if system.schema:
        wanted["guidance_scale"] = recipe["guidance_scale"]
    live = talk and crew.rank == 0 and sys.stderr.isatty() and "NO_COLOR" not in os.environ
    parts, calls, done = [], 0, 0
    for part, used in batches(system, device=crew.device, **wanted):
        calls = used
        parts.append(part)
        done += len(part)
        if live and done < len(rows):
            sys.stderr.write(f"\r{done * crew.size}/{count} samples")
            sys.stderr.flush()
    if live and len(parts) > 1:
        sys.stderr.write("\r\x1b[K")
    samples = join(crew, torch.cat(parts), count)
    if not bool(samples.isfinite().all()):
        raise RuntimeError(
            f"{int((~samples.isfinite()).flatten(1).any(1).sum())} of {len(samples)} samples are not finite; "
            "use more --steps, another --solver or a smaller --guidance-scale"
        )
    return in_own_units(samples, system.data), calls


def complete(recipe: Mapping[str, Any], system: Any, calls: int) -> dict[str, Any]:  # noqa: ANN401 - a System
    """Add what made a file besides the sampling call: weights, recipe of the system, versions."""
    import torch

    from condiff import __version__
    from condiff.tasks.pictures import fingerprint
    from condiff.train.checkpoint import weights_file

    weights = weights_file(Path(recipe["run"]))
    return {
        **recipe,
        "calls": calls,
        "weights": str(weights),
        "weights_sha256": fingerprint(weights),
        "recipe": system.call.name,
        "arguments": dict(system.call.arguments),
        "condiff": __version__,
        "torch": torch.__version__,
    }


def _default_out(run: Path, images: bool) -> Path:
    folder = run / "samples" if run.is_dir() else run.parent
    return folder / ("sample.png" if images else "sample.npz")
