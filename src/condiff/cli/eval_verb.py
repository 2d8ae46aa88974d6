"""`condiff eval`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError
from condiff.cli.output import emit, lead, say, table
from condiff.cli.parser import Parser, natural, number, positive, step_count

FEWEST = 10
"""Fewer rows than this have no neighbours or intervals worth the name."""


def check_fit(name: str, system: Any, data: Any) -> None:  # noqa: ANN401 - a System and a Dataset, not imported on top
    """Refuse data of another shape or with other conditions than the system was trained for.

    Raises:
        UsageError: If they differ.
    """
    import torch

    rows, cond = data.rows(torch.zeros(1, dtype=torch.int64))
    try:
        shape = tuple(system.codec.encode(rows, cond).shape[1:])
    except (RuntimeError, ValueError):
        shape = tuple(rows.shape[1:])
    if shape != tuple(system.shape):
        raise UsageError(f"{name} has examples of shape {shape}, but this system makes {tuple(system.shape)}")
    if set(cond.values) != set(system.schema):
        raise UsageError(
            f"{name} has the conditions {sorted(cond.values) or 'none'}, but this system takes "
            f"{sorted(system.schema) or 'none'}"
        )


def asked_of(arguments: Any) -> dict[str, float]:  # noqa: ANN401 - a parsed namespace
    """Return what was typed instead of a run's own settings, by the name of the option."""
    typed = {name: getattr(arguments, name) for name in ("steps", "guidance_scale", "best_of")}
    return {name: value for name, value in typed.items() if value is not None}


def keep(facts: dict[str, Any], folder: Path, system: Any, asked: str | None) -> Path | None:  # noqa: ANN401 - a System
    """Write an evaluation into its run: eval.json of the run's own data, and eval-NAME.json beside it of others.

    Args:
        facts: What was measured.
        folder: Where the run lies.
        system: Its system, which knows the data it was trained on.
        asked: The data that were asked for, None for the run's own.

    Returns: The file; None if the folder holds no run.
    """
    from condiff.cli.report import write_report
    from condiff.train.checkpoint import write_atomically

    if not (folder / "config.yaml").is_file():
        return None
    place = folder / "eval.json"
    own = {str(name) for name in (system.data.get("meta", {}).get("source"), system.data.get("name")) if name}
    if asked is not None and asked not in own and Path(asked).resolve() not in {Path(name).resolve() for name in own}:
        place = _beside(folder, asked)
    write_atomically(place, json.dumps(facts, indent=1).encode())
    write_report(folder)
    return place


def _beside(folder: Path, data: str) -> Path:
    """Name the evaluation of other data by their file, and by the folders above it where another has that name."""
    parts = Path(data).resolve().parts
    for depth in range(1, len(parts) + 1):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts[-depth:]).strip("/"))
        place = folder / f"eval-{name}.json"
        if not place.is_file() or Path(json.loads(place.read_text())["data"]).resolve() == Path(data).resolve():
            break
    return place


def run(words: list[str]) -> int:
    """Evaluate a run."""
    parser = Parser(
        prog="condiff eval", description="Measure a trained run on held-out data; every number has an interval."
    )
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="data to compare with [what it was trained on]")
    parser.add_argument("-n", "--num-samples", type=positive, help="how many samples [1000; 100 of a forecast]")
    parser.add_argument(
        "--best-of", type=positive, metavar="N", help="text: judge the best of N answers, as sample does [the run's]"
    )
    parser.add_argument("--steps", type=step_count, help="solver steps [the run's]")
    parser.add_argument("--guidance-scale", type=number, help="1 is none, 0 where a run guides itself [the run's]")
    parser.add_argument("--windows", type=positive, default=100, help="series: test windows, evenly spread [100]")
    parser.add_argument(
        "--fit-seconds", type=natural, default=60, help="series: time to fit each of ETS and ARIMA [60]"
    )
    parser.add_argument("--seed", type=natural, default=0, help="names samples and draws [0]")
    parser.add_argument("--quick", action="store_true", help="distances and agreement only")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    if arguments.num_samples is not None and arguments.num_samples < FEWEST:
        raise UsageError(f"-n {arguments.num_samples} is too few: intervals need {FEWEST} samples or more")

    from condiff.cli.sample_verb import opened
    from condiff.data import read_like
    from condiff.tasks.assess import assess
    from condiff.train.fit import module_of
    from condiff.train.workers import workers

    system = opened(arguments.run)
    folder = Path(arguments.run)
    text = system.data.get("kind") == "text"
    if arguments.best_of is not None and not text:
        raise UsageError(
            f"--best-of is for systems that write text; this one makes {system.data.get('kind', 'no text')}"
        )
    best_of = arguments.best_of or system.data.get("best_of", 1)
    if arguments.steps is not None:
        system = replace(system, num_steps=arguments.steps)
    if "window" in system.data.get("meta", {}):
        return _series(system, arguments, folder)
    if arguments.guidance_scale is not None:
        if not system.schema and arguments.guidance_scale != 1.0:
            raise UsageError(
                f"this system takes no condition, so --guidance-scale {arguments.guidance_scale:g} cannot be used"
            )
        system = replace(system, guidance_scale=arguments.guidance_scale)
    arguments.num_samples = arguments.num_samples or 1000
    name = arguments.data or system.data.get("meta", {}).get("source") or system.data.get("name")
    if not name:
        raise UsageError(f"{arguments.run} does not say what it was trained on; add --data PATH")
    try:
        splits = read_like(system.data, arguments.data)
    except FileNotFoundError:
        raise UsageError(f"the data {name} are not there; give their place with --data") from None
    except ValueError as error:
        raise UsageError(str(error)) from error
    if len(splits.test) < FEWEST:
        raise UsageError(f"{name} has {len(splits.test)} test examples; intervals need {FEWEST} or more")
    check_fit(str(name), system, splits.test)
    crew = workers()
    module_of(system).to(crew.device)
    metrics, use = assess(
        system,
        splits,
        num=arguments.num_samples,
        seed=arguments.seed,
        quick=arguments.quick,
        num_answers=best_of,
        talk=say,
        workers=crew,
    )
    if not lead():
        return 0
    facts = {
        "run": arguments.run,
        "data": str(name),
        "split": "test",
        "n": arguments.num_samples,
        "seed": arguments.seed,
        "quick": arguments.quick,
        "num_steps": system.num_steps,
        "guidance_scale": system.guidance_scale,
        "asked": asked_of(arguments),
        **({"best_of": best_of} if text else {}),
        "metrics": [metric.to_json() for metric in metrics],
        "condition_use": use.to_json() if use is not None else None,
    }
    kept = keep(facts, folder, system, arguments.data)
    if arguments.json:
        emit(facts)
        return 0
    rows = [(m.name, _value(m), f"{m.interval[0]:.4g} to {m.interval[1]:.4g}", m.n) for m in metrics]
    print(table(rows, ("metric", "value", "interval (95 %)", "n")))
    if use is not None:
        print(f"\nis the condition used? {use.verdict}")
    if kept is not None:
        say(f"definitions of every number: {kept}")
    return 0


def _value(metric: Any) -> str:  # noqa: ANN401 - a Metric
    """Say a value with its unit, and with its entropy where it says little without."""
    text = f"{metric.value:.4g} {metric.unit}".strip()
    return f"{text}, entropy {metric.details['entropy']:.2f} bits" if "entropy" in metric.details else text


def _series(system: Any, arguments: Any, folder: Path) -> int:  # noqa: ANN401 - a System and a parsed namespace
    """Evaluate a run that forecasts."""
    from condiff.cli.output import alone
    from condiff.cli.series_eval import evaluate, lines, losses

    if not alone():
        raise UsageError("forecasts are judged by one process; start condiff eval by itself")
    try:
        facts = {**evaluate(system, arguments), "asked": asked_of(arguments)}
    except ValueError as error:
        raise UsageError(str(error)) from error
    kept = keep(facts, folder, system, arguments.data)
    if arguments.json:
        emit(facts)
        return 0
    rows, heads = lines(facts)
    print(table(rows, ("forecast", *heads)))
    main = losses(facts)
    if main:
        heads = ["forecast", "weighted_quantile_loss", "interval (95 %)", "model is below by", "interval (95 %)"]
        print(f"\non the same {facts['windows']} windows, compared one by one:")
        print(table(main, heads))
    if kept is not None:
        say(f"definitions and intervals of every number: {kept}")
    return 0
