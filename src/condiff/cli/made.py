"""Files that `condiff sample` makes: their forms, the units of their numbers, and the recipe inside each."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condiff.core.condition import Condition, Picture, TokenIds, Vector
from condiff.core.system import System
from condiff.data import files, images
from condiff.tasks.generate import condition_of
from condiff.tasks.pictures import columns_for, content_of, mosaic, npz_bytes, picture, pixels, png_bytes, recipe_in
from condiff.tasks.tokens import alphabet_of, counted, ids
from condiff.train.checkpoint import write_atomically

MARK = "# condiff "
"""How the first line of a CSV or text file begins; the recipe follows as JSON."""


def conditions_for(system: System[Any, Any], given: Mapping[str, Sequence[str]] | None, rows: range) -> Any:  # noqa: ANN401
    """Turn what was typed into what `sample` takes: numbers, class names, texts as tokens, picture files as pixels.

    Args:
        system: Whose schema to follow.
        given: Texts by condition name, used in turn; None asks for every class.
        rows: Sample numbers.

    Returns: A mapping, or a Condition of those rows if a text or picture is among them.

    Raises:
        ValueError: If a name, class, number or picture does not fit; the message says what would.
    """
    if given is None:
        return None
    plain: dict[str, Any] = {}
    rich: dict[str, Tensor] = {}
    for name, texts in given.items():
        match system.schema.get(name):
            case Vector(size=size):
                # Data may say that its numbers are the pixels of a picture: a file of one can then be given.
                shape = system.data.get("meta", {}).get("conditions", {}).get(name, {}).get("picture")
                if shape is not None and all(Path(text).suffix.lower() in files.IMAGES for text in texts):
                    drawn = [_pixels(text, shape[0], tuple(shape[1:])) for text in texts]
                    plain[name] = [one.flatten().tolist() for one in drawn]
                else:
                    plain[name] = _vectors(name, texts, size)
            case TokenIds(length=length):
                rich[name] = _tokens(system, name, ",".join(texts), length)
            case Picture(channels=channels):
                rich[name] = torch.stack([_pixels(text, channels, system.shape[1:]) for text in texts])
            case _:
                plain[name] = list(texts)
    cond = condition_of(system, plain, rows)
    if not rich or cond is None:
        return plain
    index = torch.tensor(rows)
    values = {name: rich[name][index % len(rich[name])] if name in rich else v for name, v in cond.values.items()}
    present = {name: torch.ones_like(v) if name in rich else v for name, v in cond.present.items()}
    return Condition(values, present)


def _tokens(system: System[Any, Any], name: str, text: str, length: int) -> Tensor:
    alphabet = alphabet_of(system, name)
    given = ids(text, alphabet)
    if len(given) > length:
        raise ValueError(
            f"condition {name} holds {counted(length, alphabet)}, but {text[:20]!r}... has {len(given)}; "
            "give a shorter text"
        )
    return torch.cat([given, given.new_full((length - len(given),), alphabet.end)])[None]


def _vectors(name: str, texts: Sequence[str], size: int) -> list[list[float]]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise ValueError(f"condition {name} needs numbers, got {','.join(texts)!r}") from None
    if len(numbers) % size:
        raise ValueError(f"condition {name} has {size} numbers, got {len(numbers)}")
    return [numbers[k : k + size] for k in range(0, len(numbers), size)]


def _pixels(text: str, channels: int, grid: tuple[int, ...]) -> Tensor:
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"no picture at {path}; give a file such as --cond input=photo.png")
    found = images.decode(path, channels, grid[0] if len(set(grid)) == 1 else None)
    if found.shape[1:] != grid:
        raise ValueError(f"{path} is {found.shape[1:]} pixels, but this system takes {grid}")
    return torch.from_numpy(found.copy()).float().div(127.5).sub(1.0)


def in_own_units(samples: Tensor, data: Mapping[str, Any]) -> Tensor:
    """Bring samples from the scale of training to the units of the file it was trained on.

    Vectors, poses and series were standardised by numbers that the checkpoint keeps; images stay in [-1, 1].
    """
    meta = data.get("meta", {})
    if "scale" in meta:
        return samples * float(meta["scale"])
    if "mean" not in meta or "std" not in meta:
        return samples
    mean, std = (torch.tensor(meta[name], dtype=torch.float64) for name in ("mean", "std"))
    if data.get("kind") == "series":  # one number a channel, the first axis of a sample
        mean, std = (value.reshape(-1, *[1] * (samples.ndim - 2)) for value in (mean, std))
    return (samples.double() * std + mean).to(samples.dtype)


def check_out(out: Path, drawable: bool, flat: bool) -> None:
    """Refuse an output that cannot be written, before anything is drawn.

    Raises:
        ValueError: If the ending does not fit the samples, or a file or folder is in the way.
    """
    forms = [".npz", *([".csv"] if flat else []), *([".png", "a folder for one PNG each"] if drawable else [])]
    if (out.suffix or "a folder for one PNG each") not in forms:
        raise ValueError(f"--out {out} does not fit these samples; expected {', '.join(forms)}")
    if out.suffix and out.is_dir():
        raise ValueError(f"{out} is a folder; give a file name, or a folder without an ending")
    if not out.suffix and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, but a folder is needed for one PNG each")
    parent = next((parent for parent in out.parents if parent.exists()), None)
    if parent is not None and not parent.is_dir():
        raise ValueError(f"{parent} is a file, so {out} cannot be written; give another --out")


def check_apart(out: Path, system: System[Any, Any], *data: str) -> None:
    """Refuse to write over the data that something is made from, or that the system has learned from.

    Raises:
        ValueError: If the output is one of them.
    """
    for name in (*data, system.data.get("meta", {}).get("source"), system.data.get("name")):
        if name and Path(name).is_file() and out.exists() and out.samefile(name):
            raise ValueError(f"--out {out} would overwrite the data {name}; give another --out")


def write(out: Path, samples: Tensor, recipe: Mapping[str, Any], system: System[Any, Any]) -> list[Path]:
    """Write samples with their recipe; returns the files."""
    if out.suffix == ".npz":
        write_atomically(out, npz_bytes(samples, {**recipe, "form": "npz"}))
        return [out]
    if out.suffix == ".csv":
        names = columns(system, samples.shape[1:])
        write_atomically(out, csv_bytes(samples, {**recipe, "form": "csv"}, names))
        return [out]
    if out.suffix == ".png":
        wide = columns_for(system) if recipe["cond"] is None else None
        write_atomically(out, png_bytes(mosaic(samples, wide), {**recipe, "form": "grid", "columns": wide}))
        return [out]
    files = []
    for k, tile in enumerate(pixels(samples)):
        file = out / f"{recipe['first'] + k:05d}.png"
        write_atomically(file, png_bytes(picture(tile), {**recipe, "form": "single", "index": k}))
        files.append(file)
    return files


def columns(system: System[Any, Any], shape: Sequence[int]) -> list[str]:
    """Name the columns of a CSV: as in the table it was trained on, else x0, x1, ..., or x0_1 for joint 0, axis 1."""
    known = system.data.get("meta", {}).get("columns", [])
    if len(known) == math.prod(shape):
        return list(known)
    return ["x" + "_".join(map(str, place)) for place in np.ndindex(*shape)]


def csv_bytes(samples: Tensor, recipe: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Encode a CSV with the recipe as a comment in its first line; its numbers read back exactly."""
    text = io.StringIO()
    text.write(MARK + json.dumps(recipe) + "\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows([str(value) for value in row] for row in samples.flatten(1).float().numpy())
    return text.getvalue().encode()


def recipe_of(path: Path) -> dict[str, Any]:
    """Read the recipe inside a generated PNG, NPZ, CSV or text file.

    Raises:
        ValueError: If the file is damaged or carries none.
    """
    if path.suffix.lower() not in (".csv", ".txt"):
        return recipe_in(path)
    with open(path, errors="replace") as file:
        first = file.readline()
    try:
        recipe = json.loads(first.removeprefix(MARK)) if first.startswith(MARK) else None
    except json.JSONDecodeError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} carries no recipe: it was not generated by condiff, or its first line was removed")
    return recipe


def content(path: Path) -> np.ndarray[Any, Any]:
    """Read the pixels of a PNG, the samples of an NPZ or CSV, or the bytes of a text after its first line.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        if path.suffix.lower() == ".csv":
            return np.loadtxt(path, np.float32, delimiter=",", skiprows=2, ndmin=2)
        if path.suffix.lower() == ".txt":
            return np.frombuffer(path.read_bytes().partition(b"\n")[2], np.uint8)
        return content_of(path)
    except (OSError, ValueError, KeyError, SyntaxError) as error:  # pillow raises SyntaxError for a broken PNG
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0][:120]}") from None
