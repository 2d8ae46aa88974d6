"""`condiff sample` of a system that writes text: to the terminal as it comes, and to a file with its recipe."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import category

from condiff.cli.errors import UsageError, usage
from condiff.cli.made import MARK, check_apart, conditions_for
from condiff.cli.output import alone, emit, say
from condiff.core.condition import TokenIds
from condiff.core.system import System
from condiff.process.blocks import Blockwise
from condiff.tasks.choose import write_best
from condiff.tasks.text import cut_tails, write
from condiff.tasks.tokens import alphabet_of
from condiff.train.checkpoint import write_atomically

CONTROL = "\ufffd"
"""Shown on a terminal in place of a character that would control it."""


def run_text(
    arguments: argparse.Namespace, system: System[Any, Any], conditions: Mapping[str, Sequence[str]] | None
) -> int:
    """Write texts, print them, and keep them in a file."""
    if not alone():
        raise UsageError("texts are written by one process; start condiff sample by itself, or use --first and -n")
    from condiff.cli.sample_verb import complete

    run = Path(arguments.run)
    folder = run / "samples" if run.is_dir() else run.parent
    out = Path(arguments.out) if arguments.out else folder / "sample.txt"
    if out.suffix != ".txt" or out.is_dir():
        raise UsageError(f"--out {out} does not fit text; expected a file that ends in .txt")
    if arguments.infill == "":
        raise UsageError("--infill got an empty text; mark what is to be written by underscores, as in 'In the ____'")
    recipe = {
        "made_by": "condiff sample",
        "run": arguments.run,
        "num_samples": arguments.num_samples or 4,
        "num_steps": system.num_steps if arguments.steps is None else arguments.steps,
        "solver": arguments.solver,
        "guidance_scale": system.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale,
        "cond": conditions,
        "seed": arguments.seed,
        "first": arguments.first,
        "batch_size": arguments.batch_size,
        "prompt": arguments.prompt or "",
        "infill": arguments.infill or "",
        "length": arguments.length,
        "block": arguments.block,
        "best_of": arguments.best_of or system.data.get("best_of", 1),
        "top_p": arguments.top_p,
        "precision": arguments.precision,
    }
    if not system.schema and recipe["guidance_scale"] != 1.0:
        raise UsageError(
            f"this system takes no condition, so --guidance-scale {recipe['guidance_scale']:g} cannot be used"
        )
    started = time.perf_counter()
    _check_steps(arguments, system)
    with usage():
        check_apart(out, system)
        cut_tails(system, arguments.top_p, arguments.solver)
        conditions_for(system, conditions, range(1))
        system.grid(recipe["num_steps"])
        pieces = texts(system, recipe)
        first = next(pieces)
    given = {} if conditions is None else conditions
    for name, kind in system.schema.items():
        if isinstance(kind, TokenIds) and name not in given:
            say(f"no {name} was given, so the texts are made from none; give one by --cond {name}=TEXT")
    if arguments.infill and alphabet_of(system).unit == "piece":
        say("every _ is one piece: a short word with the space before it, or a part of a word")
    # All texts are written together, so that the first is shown as it comes, and the others when it is whole.
    one = recipe["num_samples"] == 1
    show = (lambda text: None) if arguments.json else _show
    parts = [first]
    show(first[0] if one else f"--- 0\n{first[0]}")
    for new in pieces:
        parts.append(new)
        show(new[0])
    found = ["".join(each) for each in zip(*parts, strict=True)]
    show("\n" + body(found, 1))
    facts = {name: value for name, value in complete(recipe, system, 0).items() if name != "calls"}  # nobody counted
    head = MARK + json.dumps({**facts, "form": "txt"}) + "\n"
    write_atomically(out, (head + body(found)).encode())
    if arguments.json:
        emit({**recipe, "texts": found, "files": [str(out)], "seconds": round(time.perf_counter() - started, 3)})
    say(f"{len(found)} text{'' if one else 's'} in {time.perf_counter() - started:.1f} s: {out}")
    return 0


def _check_steps(arguments: argparse.Namespace, system: System[Any, Any]) -> None:
    """Refuse more calls of a block than it has tokens.

    Raises:
        UsageError: If so.
    """
    if isinstance(system.denoiser, Blockwise) and arguments.steps is not None:
        size = arguments.block or system.denoiser.size
        if arguments.steps > size:
            raise UsageError(
                f"--steps {arguments.steps} is more than the {size} tokens of a block; give fewer, or larger blocks by "
                "--block"
            )


def texts(system: System[Any, Any], recipe: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the iterator of `write`
    """Write what a recipe asks for, piece by piece."""
    from condiff.cli.sample_verb import ready

    count, first = recipe["num_samples"], recipe["first"]
    names = ("num_samples", "prompt", "infill", "length", "num_steps", "seed", "batch_size", "first")
    wanted = {
        "solver": cut_tails(system, recipe.get("top_p"), recipe["solver"]),
        "cond": conditions_for(system, recipe["cond"], range(first, first + count)),
        "guidance_scale": recipe["guidance_scale"] if system.schema else None,
        "block": recipe.get("block"),  # files from before there was a choice have none
        **{name: recipe[name] for name in names},
    }
    answers = recipe.get("best_of", 1)  # files from before there was a choice hold the only answer
    if answers == 1:
        return write(ready(system, recipe), **wanted)
    return iter([write_best(ready(system, recipe), answers, **wanted)])


def body(found: Sequence[str], first: int = 0) -> str:
    """Return texts from one of them on as they stand in a file and on the terminal, each under its number."""
    return "".join(f"--- {k}\n{text}\n" for k, text in enumerate(found) if k >= first)


def _show(text: str) -> None:
    """Print what is new at once; a terminal gets no control characters, which a model of bytes may well write."""
    if sys.stdout.isatty():
        text = "".join(CONTROL if category(letter) == "Cc" and letter not in "\n\t" else letter for letter in text)
    sys.stdout.write(text)
    sys.stdout.flush()
