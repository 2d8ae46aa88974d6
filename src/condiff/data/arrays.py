"""NPZ files: which array is the data, which are conditions, checked before anything is unpacked. No torch here."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files

MAIN = ("images", "volumes", "poses", "series", "vectors", "data", "x")
"""Array names that hold the examples, in order of preference."""

LABELS = ("labels", "label", "y")
"""Array names that hold one class or value an example; the condition is called "label"."""


@final
@dataclass(frozen=True)
class Arrays:
    """The arrays of an NPZ file by their part in training.

    Args:
        path: The file.
        kind: "images", "volumes", "poses", "series" or "vectors"; "" if there is no data array.
        main: Name of the data array.
        shapes: Shape and type of every array.
        conditions: Array name by condition name: those with one row an example.
        problems: What stops the file from being read.
        remarks: What is left out.
    """

    path: Path
    kind: str
    main: str
    shapes: dict[str, tuple[tuple[int, ...], str]]
    conditions: dict[str, str]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def scan(path: Path) -> Arrays:
    """Read the headers of an NPZ file and decide what its arrays are, without unpacking the numbers."""
    problems: list[str] = []
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                try:
                    shapes[name] = _header(archive, info)
                except (ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
                    problems.append(f"array {name}: {error}: save it again with numpy.savez as numbers")
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return Arrays(path, "", "", {}, {}, (f"not an NPZ file, or cut short ({error}): save it with numpy.savez",), ())
    found = [name for name in MAIN if name in shapes]
    if not found:
        have = files.listed(list(shapes), 6) or "none"
        problems.append(f"expected an array named {', '.join(MAIN)}; found {have}: rename the array of examples")
        return Arrays(path, "", "", shapes, {}, tuple(problems), ())
    main = found[0]
    shape, kind_of_number = shapes[main]
    kind = _kind(main, shape, np.dtype(kind_of_number))
    if not kind:
        problems.append(
            f"array {main} {shape} {kind_of_number}: expected images (N, H, W[, C]), volumes (N, [C,] X, Y, Z), "
            "poses (N, J, 2 or 3), series (N, [C,] L) or vectors (N, D) of numbers: reshape it or name it by its kind"
        )
    elif shape[0] == 0:
        problems.append(f"array {main} has no rows: add data")
    conditions: dict[str, str] = {}
    remarks = []
    for name, (other, type_of_other) in shapes.items():
        if name == main:
            continue
        if other and other[0] == shape[0] and not _fits(other, np.dtype(type_of_other), kind):
            problems.append(
                f"array {name} {other} {type_of_other} fits no kind of condition (classes (N,), vectors (N, D), "
                "or a picture on the grid of the data): remove it from the file"
            )
        elif other and other[0] == shape[0]:
            conditions["label" if name in LABELS else name] = name
        elif name in LABELS:
            problems.append(
                f"array {name} has {other[0] if other else 'no'} rows, but {main} has {shape[0]}: make them equal"
            )
        else:
            remarks.append(f"array {name} {other} has not one row an example and is left out")
    return Arrays(path, kind, main, shapes, conditions, tuple(problems), tuple(remarks))


def load(found: Arrays, name: str) -> NDArray[Any]:
    """Unpack one array of a scanned file, never a pickle.

    Raises:
        ValueError: If its numbers are damaged.
    """
    try:
        with np.load(found.path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[name]
            return array
    except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{found.path}: array {name} is damaged ({error}); save the file again") from None


def pictures(array: NDArray[Any], spatial: int) -> NDArray[Any]:
    """Bring images or volumes to (N, C, *grid): a missing channel axis is added, a last one moved to the front.

    Raises:
        ValueError: If no axis has 1 to 4 channels.
    """
    if array.ndim == spatial + 1:
        return array[:, None]
    first, last = array.shape[1] <= 4, array.shape[-1] <= 4
    if last and (not first or array.dtype == np.uint8):
        return np.moveaxis(array, -1, 1)
    if first:
        return array
    raise ValueError(f"expected 1 to 4 channels in the second or last axis, got shape {array.shape}")


def span(array: NDArray[Any]) -> tuple[float, float] | None:
    """Value range that stands for [-1, 1] in an array of images, or None if the numbers have no such meaning.

    Bytes are [0, 255], 16-bit numbers [0, 65535], truth values [0, 1]; other numbers within [0, 1], [-1, 1] or
    [0, 255] are taken as that range.
    """
    if array.dtype == np.bool_:
        return 0.0, 1.0
    if array.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(array.dtype).max)
    low, high = float(array.min()), float(array.max())
    return next(((a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)) if a <= low and high <= b), None)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], str]:
    """Shape and type that a member claims, checked against the bytes it has."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"NPY format {version} is not supported")
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError("holds Python objects (a pickle), which are never loaded")
    claimed = dtype.itemsize
    for size in shape:
        claimed *= int(size)
    if claimed != info.file_size - offset:
        raise ValueError(f"claims {claimed:,} bytes for shape {shape}, but has {info.file_size - offset:,}")
    return tuple(int(size) for size in shape), dtype.str


def _fits(shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> bool:
    """Can an array with one row an example be a condition?"""
    dims = {"images": (3, 4), "volumes": (4, 5)}.get(kind, ())
    return (len(shape) == 1 and dtype.kind in "biufUS") or (
        dtype.kind in "biuf" and (len(shape) == 2 or len(shape) in dims)
    )


def _kind(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    dims = len(shape)
    if dtype.kind not in "biuf" or 0 in shape[1:]:
        return ""
    allowed = {"images": (3, 4), "volumes": (4, 5), "poses": (3,), "series": (2, 3), "vectors": (2,)}
    if name in allowed:
        fits = dims in allowed[name] and (name != "poses" or shape[-1] in (2, 3))
        return name if fits else ""
    if dims == 3 and dtype.kind == "u":
        return "images"
    return {2: "vectors", 3: "series", 4: "images", 5: "volumes"}.get(dims, "")
