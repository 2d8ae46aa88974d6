"""What a path holds, by looking at names and headers only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from condiff.data import arrays, files, images, resource, tables

BUNDLED = {
    "digits": "images", "digits8": "images", "kjv": "text", "mni152": "volumes", "mocap": "poses", "phrases": "text",
    "traffic": "series", "verses": "text",
}  # fmt: skip


def is_bundled(path: str | os.PathLike[str]) -> bool:
    """Is this the name of a bundled set? Write `./digits` for a folder of that name."""
    return isinstance(path, str) and path in resource.NAMES


def sniff(path: str | os.PathLike[str]) -> str:
    """Kind of data at a path: "images", "series", "text", "vectors", "volumes" or "poses".

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If nothing there can be read as data.
    """
    if is_bundled(path):
        return BUNDLED[str(path)]
    place = files.existing(path)
    if place.is_dir():
        return _sniff_folder(place)
    kind = files.ending(place)
    if kind in files.ARRAYS:
        found = arrays.scan(place)
        if not found.kind:
            raise ValueError(f"{place}: {found.problems[0]}")
        return found.kind
    if kind in files.TABLES:
        return "series" if tables.parse(place, 500).times else "vectors"
    if (kind in (".json", ".jsonl") and _holds_entries(place)) or (kind == ".tsv" and _holds_times(place)):
        return "series"
    if kind in files.TEXTS:
        return "text"
    if kind in files.IMAGES:
        raise ValueError(f"{place}: is a single image, but training needs a folder of images; give {place.parent}/")
    raise ValueError(
        f"{place}: unknown kind of file {kind or '(no ending)'}; "
        "expected a folder of images or text, or .csv, .npz, .txt, .tsv, .jsonl or .json (also .gz or .xz)"
    )


def _sniff_folder(place: Path) -> str:
    has_text = False
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder) / name
            if name.startswith("."):
                continue
            if images.is_image(path):
                return "images"
            has_text = has_text or files.ending(path) == ".txt"
    if has_text:
        return "text"
    names = [entry.name for entry in files.entries(place)]
    holds = f"it holds {files.listed(names)}" if names else "it is empty"
    readable = [name for name in names if files.ending(Path(name)) in files.ARRAYS | files.TABLES | files.TEXTS]
    remedy = (
        f"give the file, such as {place / readable[0]}"
        if readable
        else "add .png, .jpg, .bmp, .webp, .gif or .txt files"
    )
    raise ValueError(f"{place}: no images or text files in this folder ({holds}); {remedy}")


def _holds_times(place: Path) -> bool:
    """Is a file with tabs a table of numbers over time, rather than pairs of texts?"""
    try:
        found = tables.parse(place, 500)
    except ValueError:
        return False
    return found.times is not None and bool(found.numbers) and not found.names and not found.problems


def _holds_entries(place: Path) -> bool:
    """Does a file hold series as JSON lines: objects with "start" and "target"?"""
    try:
        first = files.text(place).lstrip().split("\n", 1)[0]
        entry = json.loads(first)
    except (ValueError, OSError):
        return False
    return isinstance(entry, dict) and {"start", "target"} <= entry.keys() and isinstance(entry["target"], list)
