"""`condiff train`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError, nearest, usage
from condiff.cli.output import emit, lead, say
from condiff.cli.parser import Parser, lags, natural, positive
from condiff.cli.signature import add_options, chosen, recipe_names, recipe_options, training_options

GENERAL = {"images": "images", "vectors": "vectors", "poses": "vectors", "text": "text", "series": "series"}
TOKENS = ("bytes", "characters", "bpe")
"""What a token of text may be; `_tokens` makes them."""

_DATA_OPTIONS = ("resolution", "channels", "length", "stride", "horizon", "context")


def _parser(recipe: str | None) -> Parser:
    names = ", ".join(recipe_names())
    summary, own = recipe_options(recipe) if recipe else ("Train a recipe, or the general recipe for your data.", [])
    parser = Parser(
        prog=f"condiff train {recipe}" if recipe else "condiff train",
        description=f"{summary}\n\nrecipes: {names}; or a folder or file of your own"
        + ("" if recipe else "\ncondiff train RECIPE --help lists a recipe's own options"),
    )
    parser.add_argument("target", metavar="RECIPE_OR_PATH", help="a recipe, or data to choose the general recipe for")
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="data to train on [the recipe's own]")
    parser.add_argument("--out", metavar="RUN", help="run folder [runs/NAME]")
    parser.add_argument("--seed", type=natural, default=0, help="names weights, order of data and noise [0]")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run folder")
    parser.add_argument(
        "--report-to", metavar="NAMES", default="", help="trackers: tensorboard, wandb, trackio, mlflow"
    )
    parser.add_argument("--device", default="cpu", help="where to compute [cpu]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout at the end")
    for name in _DATA_OPTIONS:
        parser.add_argument(f"--{name}", type=positive, help=f"{name} of the examples read from --data")
    parser.add_argument(
        "--condition",
        metavar="NAMES",
        default="",
        help="columns of a table that are conditions, not data; of series those known in advance",
    )
    parser.add_argument(
        "--lags", type=lags, metavar="STEPS", help="steps back that every step of a window may look: 24,168"
    )
    parser.add_argument("--tokens", choices=TOKENS, help="what a token of text is; bpe needs the extra [text] [bytes]")
    parser.add_argument(
        "--vocab-size", type=positive, metavar="N", help="tokens to learn: bpe [4096], characters [all]"
    )
    taken = {"data", "out", "seed", "resume", "device", "json", "condition", "lags", *_DATA_OPTIONS}
    parser.add_argument("--pack", action="store_true", help="lay several texts one after another, an end behind each")
    taken |= {"tokens", "vocab_size", "pack"}
    add_options(parser, "training", training_options(recipe), taken)
    add_options(parser, "recipe", own, taken)
    return parser


def _target(word: str) -> tuple[str, str | None]:
    """Return (recipe name, data named by the target or None)."""
    if word in recipe_names():
        return word, None
    if (Path(word) / "config.yaml").is_file():
        raise UsageError(f"{word} is a run, not data; to go on with it, type its command again with --resume")
    from condiff.data.inspect import sniff

    try:
        with usage():
            kind = sniff(word)
    except FileNotFoundError:
        raise UsageError(
            f"no recipe and no file or folder named {word!r}{nearest(word, recipe_names())} "
            f"Recipes are {', '.join(recipe_names())}"
        ) from None
    if kind not in GENERAL:
        raise UsageError(
            f"{word} holds {kind}, and this version has no general recipe for {kind}; there are {', '.join(GENERAL)}"
        )
    return GENERAL[kind], word


def _first_word(words: list[str]) -> str | None:
    """Return the word that is neither a flag nor a flag's value; every flag takes one, but for these."""
    takes_value = False
    for word in words:
        if takes_value:
            takes_value = False
        elif word.startswith("-") and word != "-":
            takes_value = "=" not in word and word not in ("--resume", "--json", "--pack", "--help", "-h")
        else:
            return word
    return None


def run(words: list[str]) -> int:
    """Train."""
    target = _first_word(words)
    if not target or "--help" in words or "-h" in words:
        _parser(target if target in recipe_names() else None).read(words)
        raise UsageError(f"condiff train needs a recipe ({', '.join(recipe_names())}) or the path of your data")
    recipe_name, implied = _target(target)
    arguments = _parser(recipe_name).read(words)
    own, training = [o for o in recipe_options(recipe_name)[1] if o.settable], training_options()
    user, settings_given = chosen(arguments, own), chosen(arguments, training)
    run_folder = Path(arguments.out or f"runs/{Path(target).stem if implied else recipe_name}")
    if run_folder.exists() and not run_folder.is_dir():
        raise UsageError(f"{run_folder} is a file, but --out needs a folder; give another")
    if run_folder.is_dir() and any(run_folder.iterdir()) and not arguments.resume:
        raise UsageError(f"{run_folder} is not empty; add --resume to go on with that run, or give another --out")

    import torch

    from condiff.cli.report import write_report
    from condiff.core.rng import key
    from condiff.data import read
    from condiff.recipes import find
    from condiff.tasks.pictures import draw
    from condiff.train import train
    from condiff.train.fit import module_of
    from condiff.train.run import OtherRunError

    recipe = find(recipe_name)
    data = arguments.data or implied or recipe.data
    if not data:
        raise UsageError(f"recipe {recipe_name} has no data of its own; add --data PATH")
    try:
        given: dict[str, Any] = {
            name: getattr(arguments, name) for name in _DATA_OPTIONS if getattr(arguments, name) is not None
        }
        if arguments.lags is not None:
            given["lags"] = arguments.lags
        tokens = _tokens(arguments.tokens, arguments.vocab_size)
        if tokens is not None:
            given["tokens"] = tokens
        if arguments.pack:
            given["pack"] = True
        splits = read(data, **{**recipe.reads, **given}, conditions=_conditions(arguments.condition, recipe, user))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    if implied:  # not before: data that cannot be read get one line
        say(f"{implied} holds {splits.train.kind}: training the general recipe {recipe_name!r}")
    settings = _settings(recipe.training, settings_given)
    device = _device(arguments.device)
    try:
        options = recipe.measured(splits, **user)
        with torch.random.fork_rng(devices=[]):  # initial weights are named by the seed, whatever ran before
            torch.manual_seed(key(arguments.seed, "weights"))
            system = recipe(**options)
        _check_fit(system, splits, settings)
    except (ValueError, TypeError) as error:
        raise UsageError(f"recipe {recipe_name}: {error}") from error
    size = sum(p.numel() for p in module_of(system).parameters())
    shape = "x".join(map(str, splits.train.data.shape[1:]))
    say(
        f"{recipe_name}: {size:,} parameters, {len(splits.train):,} training examples of "
        f"{_tokens_of(splits.train, shape) or f'shape {shape}'}, run folder {run_folder}"
    )
    if cut := splits.train.meta.get("cut"):
        say(f"{cut:,} texts are longer than {shape} and are cut; a larger --length keeps them")
    command = "condiff train " + shlex.join(words)
    trackers = [name for name in arguments.report_to.split(",") if name]
    try:
        train(
            system,
            splits,
            out=run_folder,
            settings=settings,
            seed=arguments.seed,
            resume=arguments.resume,
            pictures=lambda averaged, step: draw(averaged, splits.validation),
            report_to=trackers,
            command=command,
            device=device,
        )
    except OtherRunError as error:
        raise UsageError(str(error)) from error
    if not lead():
        return 0
    write_report(run_folder)
    name = shlex.quote(str(run_folder))
    onward = (
        f"continue your series with: condiff forecast {name}, and judge it with: condiff eval {name}"
        if "window" in splits.train.meta
        else f"or draw samples with: condiff sample {name}"
    )
    say(f"done: look at {run_folder / 'report.html'}, {onward}")
    if arguments.json:
        emit(_summary(run_folder, recipe_name, size))
    return 0


def _conditions(typed: str, recipe: Any, user: dict[str, Any]) -> list[str]:  # noqa: ANN401 - a Recipe
    """List the columns that are conditions: those typed, and those that the recipe's own options name."""
    own = [user.get(name, recipe.signature.parameters[name].default) for name in recipe.columns]
    return list(dict.fromkeys([*(name for name in typed.split(",") if name), *own]))


def _tokens(kind: str | None, size: int | None) -> Any:  # noqa: ANN401 - an alphabet, or what learns one, or None
    """Return what turns text into tokens.

    Raises:
        UsageError: If a size was given for tokens that have none.
    """
    from functools import partial

    from condiff.data import BytePairs, Bytes, Characters

    if size is not None and kind not in ("characters", "bpe"):
        raise UsageError(f"--vocab-size {size} is for --tokens characters or bpe; there are always 256 bytes")
    match kind:
        case "bytes":
            return Bytes()
        case "characters":
            return partial(Characters.fit, size=size)
        case "bpe":
            return partial(BytePairs.fit, size=size)
    return None


def _tokens_of(data: Any, shape: str) -> str:  # noqa: ANN401 - a Dataset
    """Say what examples of text are made of; "" for other data."""
    if data.kind != "text":
        return ""
    from condiff.data.alphabet import restored

    alphabet = restored(data.meta["tokens"])
    return f"{shape} {alphabet.unit}s, {alphabet.end:,} kinds of them"


def _check_fit(system: Any, splits: Any, settings: Any) -> None:  # noqa: ANN401 - nothing here imports torch on top
    """Refuse options that contradict the data or cannot be honoured, before anything is written.

    Raises:
        ValueError: If they do; the message names the option.
    """
    import torch

    from condiff.core.condition import ClassLabel
    from condiff.objectives import Dropping

    data, cond = splits.train.rows(torch.zeros(1, dtype=torch.int64))
    found = tuple(system.codec.encode(data, cond).shape[1:])
    if found != tuple(system.shape):
        raise ValueError(f"{splits.train.name} has examples of shape {found}, but these options make {system.shape}")
    for name, kind in system.schema.items():
        values = splits.train.conditions.get(name)
        if isinstance(kind, ClassLabel) and values is not None and int(values.max()) >= kind.num_classes:
            raise ValueError(f"{name} has {int(values.max()) + 1} classes, but these options make {kind.num_classes}")
    if isinstance(system.objective, Dropping):
        for name, share in system.objective.probability.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"the share of rows whose {name} is dropped must lie in [0, 1], got {share:g}")
    system.grid(system.num_steps)
    rows = settings.batch_size // settings.accumulate
    need = 8 * settings.batch_size + 4 * rows * int(torch.tensor(found).prod())
    if need > memory() > 0:
        raise ValueError(
            f"a batch of {settings.batch_size:,} needs {need / 2**30:,.0f} GiB, more than this machine has; "
            "give a smaller --batch-size"
        )


def memory() -> int:
    """Return the machine's memory in bytes; 0 where it cannot be told."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _settings(default: Any, given: dict[str, Any]) -> Any:  # noqa: ANN401 - Training, not imported before it is needed
    from dataclasses import replace

    try:
        if "seconds" in given and "steps" not in given:
            given = {**given, "steps": 1_000_000}  # the clock decides
        return replace(default, **given)
    except (ValueError, TypeError) as error:
        raise UsageError(f"training settings: {error}") from None


def _device(name: str) -> Any:  # noqa: ANN401 - torch.device, not imported before it is needed
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0][:120]}") from None
    return device


def _summary(run_folder: Path, recipe: str, size: int) -> dict[str, Any]:
    import json

    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return {
        "run": str(run_folder),
        "recipe": recipe,
        "parameters": size,
        "last": json.loads(lines[-1]) if lines else {},
    }
