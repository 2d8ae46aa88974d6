"""`condiff sample`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError, usage
from condiff.cli.output import emit, say
from condiff.cli.parser import Parser, natural, number, positive


def _parser() -> Parser:
    parser = Parser(prog="condiff sample", description="Draw samples from a trained run or a single checkpoint file.")
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("-n", "--num-samples", type=positive, default=None, help="how many [16, or 4 of each class]")
    parser.add_argument("--steps", "--num-steps", type=positive, dest="steps", help="solver steps [the system's]")
    parser.add_argument("--solver", help="solver by name [the system's]")
    parser.add_argument("--guidance-scale", type=number, help="1 is none [the system's]")
    parser.add_argument(
        "--cond", action="append", default=[], metavar="NAME=VALUE", help="condition; a list 3,7 is used in turn"
    )
    parser.add_argument("--seed", type=natural, default=0, help="sample i of a seed is always the same [0]")
    parser.add_argument("--first", type=natural, default=0, help="number of the first sample [0]")
    parser.add_argument("--batch-size", type=positive, default=64, help="samples at a time [64]")
    parser.add_argument("--out", metavar="PATH", help=".png (a grid), .npz (all samples), or a folder (one PNG each)")
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


def typed_conditions(system: Any, given: Mapping[str, Any] | None) -> dict[str, Any] | None:  # noqa: ANN401 - a System
    """Turn texts into class names for classes and numbers for everything else.

    Raises:
        UsageError: If a number cannot be read.
    """
    from condiff.core.condition import ClassLabel

    if given is None:
        return None
    typed: dict[str, Any] = {}
    for name, texts in given.items():
        if isinstance(system.schema.get(name), ClassLabel) or name not in system.schema:
            typed[name] = texts
            continue
        try:
            typed[name] = [float(text) for text in texts]
        except ValueError:
            raise UsageError(f"--cond {name} needs numbers, got {','.join(texts)!r}") from None
    return typed


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

    from condiff.core.condition import ClassLabel
    from condiff.tasks.generate import condition_of, solver_named
    from condiff.tasks.pictures import drawable

    system = opened(arguments.run, arguments.device)
    classes = [kind.num_classes for kind in system.schema.values() if isinstance(kind, ClassLabel)]
    count = arguments.num_samples or (4 * classes[0] if len(classes) == 1 and classes[0] <= 20 else 16)
    out = Path(arguments.out) if arguments.out else _default_out(Path(arguments.run), drawable(system))
    _check_out(out, drawable(system))
    recipe = {
        "made_by": "condiff sample",
        "run": arguments.run,
        "num_samples": count,
        "num_steps": arguments.steps or system.num_steps,
        "solver": arguments.solver,
        "guidance_scale": system.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "cond": typed_conditions(system, conditions),
        "seed": arguments.seed,
        "first": arguments.first,
        "batch_size": arguments.batch_size,
    }
    with usage():
        if arguments.solver:
            solver_named(arguments.solver)
        condition_of(system, recipe["cond"], range(1))
        system.grid(recipe["num_steps"])
    started = time.perf_counter()
    samples, calls = generate(system, recipe, device=arguments.device, talk=True)
    seconds = time.perf_counter() - started
    files = write(out, samples, complete(recipe, system, calls), system)
    text = f"{count} samples in {seconds:.1f} s, {calls} network calls a batch"
    say(f"{text}: {files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""))
    if arguments.json:
        facts = {"files": [str(file) for file in files], "calls": calls, "seconds": round(seconds, 3)}
        emit({**complete(recipe, system, calls), **facts})
    return 0


def generate(system: Any, recipe: Mapping[str, Any], *, device: str = "cpu", talk: bool = False) -> tuple[Any, int]:  # noqa: ANN401
    """Draw the samples a recipe asks for; returns them with the network calls of one batch."""
    import torch

    from condiff.tasks.generate import batches

    names = ("num_samples", "num_steps", "solver", "cond", "seed", "first", "batch_size")
    wanted = {name: recipe[name] for name in names}
    if system.schema:
        wanted["guidance_scale"] = recipe["guidance_scale"]
    elif recipe["guidance_scale"] != 1.0:
        raise UsageError(
            f"this system takes no condition, so --guidance-scale {recipe['guidance_scale']:g} cannot be used"
        )
    parts, calls, done = [], 0, 0
    for part, used in batches(system, device=device, **wanted):
        calls = used
        parts.append(part)
        done += len(part)
        if talk and sys.stderr.isatty() and done < recipe["num_samples"]:
            sys.stderr.write(f"\r{done}/{recipe['num_samples']} samples")
            sys.stderr.flush()
    if talk and sys.stderr.isatty() and len(parts) > 1:
        sys.stderr.write("\r\x1b[K")
    return torch.cat(parts), calls


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


def _check_out(out: Path, images: bool) -> None:
    if out.suffix == ".png" and not images:
        raise UsageError(f"{out}: these samples are not pictures; give --out FILE.npz")
    if out.suffix not in (".png", ".npz", ""):
        raise UsageError(f"--out ends in {out.suffix}; expected .png, .npz, or a folder for one PNG each")
    if not out.suffix and not images:
        raise UsageError(f"{out}: a folder is for pictures; give --out FILE.npz")
    if out.suffix and out.is_dir():
        raise UsageError(f"{out} is a folder; give a file name, or a folder without an ending")
    if not out.suffix and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, but a folder is needed for one PNG each")
    for parent in out.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UsageError(f"{parent} is a file, so {out} cannot be written; give another --out")
            break


def write(out: Path, samples: Any, recipe: Mapping[str, Any], system: Any) -> list[Path]:  # noqa: ANN401
    """Write samples with their recipe; returns the files."""
    from condiff.tasks.pictures import columns_for, mosaic, npz_bytes, picture, pixels, png_bytes
    from condiff.train.checkpoint import write_atomically

    if out.suffix == ".npz":
        write_atomically(out, npz_bytes(samples, {**recipe, "form": "npz"}))
        return [out]
    if out.suffix == ".png":
        columns = columns_for(system) if recipe["cond"] is None else None
        write_atomically(out, png_bytes(mosaic(samples, columns), {**recipe, "form": "grid", "columns": columns}))
        return [out]
    files = []
    for k, tile in enumerate(pixels(samples)):
        file = out / f"{recipe['first'] + k:05d}.png"
        write_atomically(file, png_bytes(picture(tile), {**recipe, "form": "single", "index": k}))
        files.append(file)
    return files
