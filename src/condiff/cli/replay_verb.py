"""`condiff replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError
from condiff.cli.output import emit
from condiff.cli.parser import Parser

TOLERANCE = 2.0
"""Largest difference called equal within tolerance: two of 255 levels in a picture; in an array 0.02, or 2 % of the
largest number if that is more than 1."""

NEEDED = (
    "run", "weights_sha256", "num_samples", "num_steps", "solver", "guidance_scale", "cond", "seed", "first",
    "batch_size", "form", "torch",
)  # fmt: skip
"""What a recipe must say to be followed."""


def run(words: list[str]) -> int:
    """Regenerate a file and compare."""
    parser = Parser(prog="condiff replay", description="Regenerate a generated file from the recipe inside it.")
    parser.add_argument("file", metavar="FILE", help="a file made by condiff sample, forecast or impute")
    parser.add_argument("--run", help="where the run is now, if it was moved")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    path = Path(arguments.file)
    if not path.is_file():
        raise UsageError(f"no file at {path}; give a PNG, NPZ, CSV or TXT made by condiff sample")

    from condiff.cli.made import content, recipe_of

    recipe = recipe_of(path)
    if recipe.get("made_by") in ("condiff forecast", "condiff impute"):
        verdict, detail, difference = _compare_series(path, recipe, arguments.run)
        return _tell(path, verdict, detail, difference, arguments.json)
    if recipe.get("made_by") != "condiff sample":
        raise ValueError(f"{path} was made by {recipe.get('made_by')!r}, which this version cannot replay")
    missing = [name for name in NEEDED if name not in recipe]
    if missing:
        raise ValueError(f"{path}: the recipe inside lacks {missing[0]!r}; it was edited, or made by another version")
    verdict, detail, difference = _compare(path, recipe, arguments.run, content(path))
    return _tell(path, verdict, detail, difference, arguments.json)


def _tell(path: Path, verdict: str, detail: str, difference: float | None, as_json: bool) -> int:
    if as_json:
        emit({"file": str(path), "verdict": verdict, "difference": difference, "detail": detail})
    else:
        print(f"{verdict}: {detail}")
    return 0 if verdict in ("equal", "within tolerance") else 1


def _compare_series(path: Path, recipe: dict[str, Any], moved: str | None) -> tuple[str, str, float | None]:
    """Forecast or fill again, and compare the table."""
    import torch

    from condiff.cli.forecasting import difference, fingerprint_of, forecast_rows, make_filled, make_forecast
    from condiff.cli.sample_verb import opened

    wanted = ("run", "weights_sha256", "data", "num_samples", "num_steps", "solver", "seed", "memory", "torch")
    missing = [name for name in wanted if name not in recipe]
    if missing:
        raise ValueError(f"{path}: the recipe inside lacks {missing[0]!r}; it was edited, or made by another version")
    if recipe.get("form") == "plot":
        raise ValueError(f"{path} is a picture of a forecast; replay the table that was made with it")
    place, why = _place(path, recipe, moved)
    if place is None:
        return "cannot replay", why, None
    if recipe["data_sha256"] is not None and (
        not Path(recipe["data"]).is_file() or fingerprint_of(recipe["data"]) != recipe["data_sha256"]
    ):
        return "cannot replay", f"the data {recipe['data']} are gone or have changed since", None
    system = opened(place)
    if recipe["made_by"] == "condiff forecast":
        found, truth, _ = make_forecast(system, recipe)
        heads, rows = forecast_rows(found, truth)
    else:
        heads, rows, _, _ = make_filled(system, recipe)
    apart = difference(path, heads, rows)
    if apart is None:
        return "different", "its rows are others: the file was edited", None
    if apart[0] == 0:
        return "equal", f"{path} is regenerated exactly", 0.0
    limit = TOLERANCE / 100 * apart[1]
    if apart[0] <= limit:
        return "within tolerance", f"largest difference {apart[0]:g}, of {limit:g} allowed", apart[0]
    reason = f"made with torch {recipe['torch']}" if recipe["torch"] != torch.__version__ else "the file was edited"
    return "different", f"largest difference {apart[0]:g}, more than {limit:g}; {reason}", apart[0]


def _place(path: Path, recipe: dict[str, Any], moved: str | None) -> tuple[str | None, str]:
    """Find the run that made a file, with the weights it had; or say why there is none."""
    from condiff.tasks.pictures import fingerprint
    from condiff.train.checkpoint import weights_file

    found = []
    # Where it was, or around the file itself: a run folder that was moved took its samples along.
    for place in [moved] if moved else [recipe["run"], *map(str, path.absolute().parents[:3])]:
        try:
            found.append((place, weights_file(Path(place))))
        except FileNotFoundError:
            continue
    if not found:
        return None, f"the run {moved or recipe['run']} is gone; give its new place with --run"
    equal = [place for place, weights in found if fingerprint(weights) == recipe["weights_sha256"]]
    if not equal:
        return None, f"{found[0][1]} has changed since: the run was trained further or replaced"
    return equal[0], ""


def _compare(path: Path, recipe: dict[str, Any], moved: str | None, content: Any) -> tuple[str, str, float | None]:  # noqa: ANN401
    import numpy as np
    import torch

    from condiff.cli.sample_verb import generate, opened
    from condiff.tasks.pictures import mosaic, picture, pixels

    place, why = _place(path, recipe, moved)
    if place is None:
        return "cannot replay", why, None
    system = opened(place)
    if recipe["form"] == "txt":
        from condiff.cli.writing import body, texts
        from condiff.tasks.text import joined

        made = np.frombuffer(body(joined(texts(system, recipe))).encode(), np.uint8)
        equal_texts = made.shape == content.shape and bool((made == content).all())
        return ("equal", f"{path} is regenerated exactly", 0.0) if equal_texts else _edited(path, recipe)
    samples, _ = generate(system, recipe)
    if recipe["form"] in ("npz", "csv"):
        made = samples.numpy() if recipe["form"] == "npz" else samples.flatten(1).numpy()
        limit = TOLERANCE / 100 * max(1.0, float(np.abs(made).max()))
    elif recipe["form"] == "grid":
        made, limit = np.asarray(mosaic(samples, recipe["columns"])), TOLERANCE
    else:
        made, limit = np.asarray(picture(pixels(samples)[recipe["index"]])), TOLERANCE
    if made.shape != content.shape:
        return "different", f"its size is {content.shape}, regenerated {made.shape}: the file was edited", None
    difference = float(np.abs(made.astype(np.float64) - content.astype(np.float64)).max())
    if difference == 0:
        return "equal", f"{path} is regenerated exactly", 0.0
    if difference <= limit:
        return "within tolerance", f"largest difference {difference:g}, of {limit:g} allowed", difference
    why = (
        ""
        if recipe["torch"] == torch.__version__
        else f"; made with torch {recipe['torch']}, this is {torch.__version__}"
    )
    return (
        "different",
        f"largest difference {difference:g}, more than {limit:g}{why or '; the file was edited'}",
        difference,
    )


def _edited(path: Path, recipe: dict[str, Any]) -> tuple[str, str, float | None]:
    import torch

    if recipe["torch"] != torch.__version__:
        return "different", f"made with torch {recipe['torch']}, this is {torch.__version__}", None
    return "different", f"the text of {path} was edited", None
