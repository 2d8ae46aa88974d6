"""`condiff replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError
from condiff.cli.output import emit
from condiff.cli.parser import Parser

TOLERANCE = 2.0
"""Largest difference called equal within tolerance: two of 255 levels in a picture, 0.02 in an array."""


def run(words: list[str]) -> int:
    """Regenerate a file and compare."""
    parser = Parser(prog="condiff replay", description="Regenerate a generated file from the recipe inside it.")
    parser.add_argument("file", metavar="FILE", help="a PNG or NPZ made by condiff sample")
    parser.add_argument("--run", help="where the run is now, if it was moved")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    path = Path(arguments.file)
    if not path.is_file():
        raise UsageError(f"no file at {path}; give a PNG or NPZ made by condiff sample")

    from condiff.tasks.pictures import content_of, recipe_in

    recipe = recipe_in(path)
    if recipe.get("made_by") != "condiff sample":
        raise ValueError(f"{path} was made by {recipe.get('made_by')!r}, which this version cannot replay")
    verdict, detail, difference = _compare(path, recipe, arguments.run, content_of(path))
    if arguments.json:
        emit({"file": str(path), "verdict": verdict, "difference": difference, "detail": detail})
    else:
        print(f"{verdict}: {detail}")
    return 0 if verdict in ("equal", "within tolerance") else 1


def _compare(path: Path, recipe: dict[str, Any], moved: str | None, content: Any) -> tuple[str, str, float | None]:  # noqa: ANN401
    import numpy as np
    import torch

    from condiff.cli.sample_verb import generate, opened
    from condiff.tasks.pictures import fingerprint, mosaic, picture, pixels
    from condiff.train.checkpoint import weights_file

    place = moved or recipe["run"]
    try:
        weights = weights_file(Path(place))
    except FileNotFoundError:
        return "cannot replay", f"the run {place} is gone; give its new place with --run", None
    if fingerprint(weights) != recipe["weights_sha256"]:
        return "cannot replay", f"{weights} has changed since: the run was trained further or replaced", None
    system = opened(place)
    samples, _ = generate(system, recipe)
    if recipe["form"] == "npz":
        made, limit = samples.numpy(), TOLERANCE / 100
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
