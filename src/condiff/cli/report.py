"""report.html of a run: one file with its settings, loss curve, samples, metrics and the commands behind them."""

from __future__ import annotations

import base64
import html
import json
import shlex
from pathlib import Path
from typing import Any

import yaml

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
img{max-width:100%;image-rendering:pixelated;border:1px solid #ddd}
pre,code{background:#f4f4f4;padding:.1rem .3rem}pre{padding:.6rem;overflow-x:auto}"""
_NUM_STEPS_SHOWN = 4
_MEANS = {
    "class_agreement": "an independent classifier reads the class that was asked for; higher is better",
    "class_agreement_unguided": "the same without guidance; what guidance adds is the difference",
    "frechet": "how far the samples as a whole are from real held-out data; lower is better, see frechet_train",
    "frechet_train": "the same for real training data: about what perfect samples would score",
    "kid": "another distance to real held-out data, without bias; about 0 is perfect",
    "precision": "share of samples that lie among real data; higher is more lifelike",
    "recall": "share of real data that lie among samples; higher is more varied",
    "density": "how densely real data surround the samples; about 1 is perfect",
    "coverage": "share of real data with a sample near by; higher is more varied",
    "copying_ratio": "distance to the nearest training example, over that of new real data; far below 1 is copying",
    "copying_share": "share of samples suspiciously near a training example; about 0.01 is no copying",
    "weighted_quantile_loss": "error of the forecast bands, as a share of the size of the series; lower is better",
    "ensemble_crps": "the same measured on the draws themselves; lower is better",
    "mase": "error of the median, over that of repeating the last season within the past; below 1 is better than that",
    "coverage_50": "share of true values within the 50 % band; 0.5 is right",
    "coverage_80": "share of true values within the 80 % band; 0.8 is right",
    "coverage_90": "share of true values within the 90 % band; 0.9 is right",
    "pit_mean": "0.5 is right; more says that forecasts are too low",
    "pit_spread": "1 is right; more says that bands are too narrow, less that they are too wide",
    "energy_score": "error of whole paths, as a share of the size of the series; lower is better",
    "bits_per_dim": "bits to encode a number of a held-out example with this model; lower is better",
}
"""What a metric says, in words for everybody; the exact definition is folded away beside it."""


def write_report(run: Path) -> Path:
    """Write RUN/report.html from what the run folder holds.

    Args:
        run: A run folder; parts that are not there yet, such as an evaluation, are left out.

    Returns: The page.
    """
    from condiff.train.checkpoint import write_atomically

    config = yaml.safe_load((run / "config.yaml").read_text())
    evaluation = json.loads((run / "eval.json").read_text()) if (run / "eval.json").is_file() else None
    others = [json.loads(path.read_text()) for path in sorted(run.glob("eval-*.json"))]
    drawn, commands = _drawn(run), [str(config["command"])]
    commands += [_sample_command(recipe) for _, recipe in drawn]
    if evaluation is not None:
        commands.append(_eval_command(evaluation))
    commands += [f"{_eval_command(other)} --data {shlex.quote(other['data'])}" for other in others]
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[-1:]]
    parts = [
        f"<h1>{html.escape(str(config['recipe']))}</h1>",
        f"<p>{html.escape(_summary(config, last, evaluation))}</p>",
    ]
    parts += [f"<h2>Samples</h2><p>{html.escape(_caption(recipe))}</p>{_picture(path)}" for path, recipe in drawn]
    parts.append(_steps(run))
    if (run / "loss.png").is_file():
        parts.append(f"<h2>Loss</h2>{_picture(run / 'loss.png')}")
    parts += [_evaluation(each) for each in ([evaluation] if evaluation is not None else []) + others]
    parts.append(f"<h2>Commands</h2><pre>{html.escape(chr(10).join(commands))}</pre>")
    if last:
        parts.append(f"<h2>Last step</h2>{_rows(list(last[0].items()))}")
    settings = {**config["settings"], "seed": config["seed"], "condiff": config["condiff"], "torch": config["torch"]}
    if settings["seconds"]:
        settings["steps"] = "as many as the clock allows"
    parts.append(f"<h2>Settings</h2>{_rows(list(settings.items()))}")
    parts.append(f"<h2>Recipe arguments</h2>{_rows(list(config['arguments'].items()))}")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(run.name)}</title><style>{_STYLE}</style>"
    )
    write_atomically(run / "report.html", (page + "\n".join(parts) + "</html>").encode())
    return run / "report.html"


def _summary(config: dict[str, Any], last: list[dict[str, Any]], evaluation: dict[str, Any] | None) -> str:
    """Say in two sentences what was trained and how good it is."""
    about = config["arguments"].get("about") or {}
    rows = f" on {about['rows']:,} examples of {about['name']}" if {"rows", "name"} <= about.keys() else ""
    text = f"A model of the recipe {config['recipe']}, trained{rows}"
    if last:
        text += f" for {last[0]['step']:,} steps in {last[0]['seconds']:,.0f} seconds"
    judged = {metric["name"]: metric for metric in evaluation["metrics"]} if evaluation is not None else {}
    if "class_agreement" not in judged:
        return f"{text}."
    found = judged["class_agreement"]
    return (
        f"{text}. Of {found['n']:,} samples, {100 * found['value']:.1f} % are read as the class that was asked for "
        f"(95 % interval {100 * found['interval'][0]:.1f} to {100 * found['interval'][1]:.1f})."
    )


def _drawn(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Find the pictures that `condiff sample` left in the run, with the recipe inside each."""
    from condiff.tasks.pictures import recipe_in

    found = []
    for path in sorted((run / "samples").glob("*.png")):
        if path.name.startswith("step_"):
            continue
        try:
            recipe = recipe_in(path)
        except ValueError:  # a picture of the user's own
            continue
        if recipe.get("made_by") == "condiff sample":
            found.append((path, recipe))
    return found


def _eval_command(evaluation: dict[str, Any]) -> str:
    words = ["condiff", "eval", evaluation["run"], "-n", str(evaluation["n"]), "--seed", str(evaluation["seed"])]
    if "windows" in evaluation:
        words += ["--windows", str(evaluation["windows"])]
    if evaluation.get("fits"):
        words += ["--fit-seconds", str(next(iter(evaluation["fits"].values()))["seconds"])]
    for name, value in evaluation.get("asked", {}).items():  # instead of the run's own
        words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    if evaluation.get("quick", not evaluation.get("condition_use")):  # files of earlier versions do not say
        words.append("--quick")
    return shlex.join(words)


def _sample_command(recipe: dict[str, Any]) -> str:
    words = ["condiff", "sample", recipe["run"], "-n", str(recipe["num_samples"]), "--steps", str(recipe["num_steps"])]
    words += ["--guidance-scale", f"{recipe['guidance_scale']:g}", "--seed", str(recipe["seed"])]
    if recipe["solver"]:
        words += ["--solver", recipe["solver"]]
    if recipe.get("precision", "fp32") != "fp32":
        words += ["--precision", recipe["precision"]]
    for name, values in (recipe["cond"] or {}).items():
        words += ["--cond", f"{name}={','.join(map(str, values))}"]
    return shlex.join(words)


def _caption(recipe: dict[str, Any]) -> str:
    return (
        f"{recipe['num_samples']} samples, guidance scale {recipe['guidance_scale']:g}, {recipe['num_steps']} steps "
        f"({recipe['calls']} network calls), seed {recipe['seed']}"
    )


def _steps(run: Path) -> str:
    """Show how samples of the same noise improved: some grids of training, evenly spaced, the last included."""
    grids = sorted((run / "samples").glob("step_*.png"))
    if not grids:
        return ""
    chosen = sorted({round(k * (len(grids) - 1) / max(1, _NUM_STEPS_SHOWN - 1)) for k in range(_NUM_STEPS_SHOWN)})
    shown = "".join(f"<h3>Step {int(grids[k].stem[5:])}</h3>{_picture(grids[k])}" for k in chosen)
    return f"<h2>Samples while training</h2>{shown}"


def _evaluation(evaluation: dict[str, Any]) -> str:
    heads = "<tr><th>metric</th><th>value</th><th>interval (95 %)</th><th>n</th><th>meaning</th></tr>"
    lines = "".join(
        f"<tr><td>{html.escape(m['name'])}</td><td>{m['value']:.4g} {html.escape(m['unit'])}</td>"
        f"<td>{m['interval'][0]:.4g} to {m['interval'][1]:.4g}</td><td>{m['n']}</td><td>{_meaning(m)}</td></tr>"
        for m in evaluation["metrics"]
    )
    use = evaluation.get("condition_use")
    verdict = f"<p>{html.escape(use['verdict'])}</p>" if use else _beside(evaluation)
    about = f"<p>{html.escape(evaluation['data'])}, {evaluation['split']} split, seed {evaluation['seed']}</p>"
    return f"<h2>Evaluation</h2>{about}<table>{heads}{lines}</table>{verdict}"


def _beside(evaluation: dict[str, Any]) -> str:
    """Lay the baselines of a forecast beside it."""
    every = {"model": evaluation["metrics"], **evaluation.get("baselines", {})}
    if len(every) < 2:
        return ""
    names = [metric["name"] for metric in evaluation["metrics"]]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("forecast", *names))
    lines = ""
    for title, metrics in every.items():
        values = {metric["name"]: f"{metric['value']:.3g}" for metric in metrics}
        cells = "".join(f"<td>{values.get(name, '')}</td>" for name in names)
        lines += f"<tr><th>{html.escape(title)}</th>{cells}</tr>"
    fits = "".join(
        f"<p>{html.escape(_fits(title, counts))}</p>" for title, counts in evaluation.get("fits", {}).items()
    )
    return f"<h3>Beside baselines, on the same windows</h3><table><tr>{heads}</tr>{lines}</table>{fits}"


def _fits(title: str, counts: dict[str, int]) -> str:
    """Say to which histories a classical model was fitted."""
    how = {
        "fitted": "forecast with parameters fitted to their own history",
        "earlier": "with those of an earlier origin of their series",
        "borrowed": "with parameters that were not fitted to their series",
        "failed": "by their last season, since no fit succeeded",
    }
    said = ", ".join(f"{counts[name]} {words}" for name, words in how.items() if counts.get(name))
    return f"{title}, windows: {said or 'none'}; {counts['seconds']} s were allowed for fitting"


def _meaning(metric: dict[str, Any]) -> str:
    words = html.escape(_MEANS.get(metric["name"], ""))
    return f"{words}<details><summary>definition</summary>{html.escape(metric['definition'])}</details>"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.name)}" src="data:image/png;base64,{data}">'


def _rows(pairs: list[tuple[str, Any]]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>" for name, value in pairs
    )
    return f"<table>{cells}</table>"


def _text(value: Any) -> str:  # noqa: ANN401 - any plain value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
