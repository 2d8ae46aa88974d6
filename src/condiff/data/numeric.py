"""NPZ files as examples: images and volumes to [-1, 1], everything else to zero mean and unit variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.data import arrays, columns, files, splits
from condiff.data.arrays import Arrays
from condiff.data.batch import Splits
from condiff.data.build import build
from condiff.data.cells import Conditions
from condiff.data.splits import TRAIN


def array_file(found: Arrays) -> Splits:
    """Read a scanned NPZ file without problems.

    Raises:
        ValueError: If numbers are missing, infinite, out of any known range, or do not fit into memory.
    """
    place = found.path
    shape, _ = found.shapes[found.main]
    files.check_memory(place, int(np.prod(shape, dtype=np.float64)) * 9, "keep fewer or smaller examples in the file")
    array = arrays.load(found, found.main)
    _stop_missing(found, found.main, array)
    parts = splits.split_rows(len(array))
    meta: dict[str, object] = {
        "source": str(place),
        "array": found.main,
        "split_rule": "hash of the row number, 90/5/5",
        "remarks": list(found.remarks),
    }
    grid: tuple[int, ...] = ()
    if found.kind in ("images", "volumes"):
        spatial = 2 if found.kind == "images" else 3
        data, from_range = _picture(found, found.main, array, spatial)
        grid = data.shape[2:]
        meta |= {"range": [-1.0, 1.0], "from_range": list(from_range)}
    else:
        data, statistics = _standard(found.kind, array, parts)
        meta |= statistics
    conditions = Conditions()
    for name, key in found.conditions.items():
        _add(found, conditions, name, key, grid, parts)
    return build(torch.from_numpy(data), conditions, parts, name=place.name, kind=found.kind, meta=meta)


def _picture(
    found: Arrays, name: str, array: NDArray[Any], spatial: int
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    span = arrays.span(array)
    if span is None:
        raise ValueError(
            f"{found.path}: array {name} has values from {array.min():g} to {array.max():g}; "
            "bring them to [0, 1], [-1, 1] or [0, 255]"
        )
    try:
        pictures = arrays.pictures(array, spatial)
    except ValueError as error:
        raise ValueError(f"{found.path}: array {name}: {error}; reshape it to (N, C, ...)") from None
    low, high = span
    scaled = (pictures.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
    return np.ascontiguousarray(scaled), span


def _standard(kind: str, array: NDArray[Any], parts: NDArray[np.int8]) -> tuple[NDArray[np.float32], dict[str, object]]:
    """Scale by training statistics: a column of vectors and a channel of series on its own, all of a pose together."""
    values = array.astype(np.float64)
    if kind == "series" and values.ndim == 2:
        values = values[:, None]
    train = values[parts == TRAIN]
    if kind == "vectors":
        mean, std = columns.moments(train)
    elif kind == "series":
        mean, std = (m[:, None] for m in columns.moments(train.transpose(0, 2, 1).reshape(-1, train.shape[1])))
    else:  # one deviation for all joints and axes keeps the shape of the body
        mean = train.mean(axis=0)
        std = np.asarray((train - mean).std() or 1.0)
    scaled = ((values - mean) / std).astype(np.float32)
    return scaled, {"mean": np.squeeze(mean).tolist(), "std": np.squeeze(std).tolist()}


def _add(
    found: Arrays, conditions: Conditions, name: str, key: str, grid: tuple[int, ...], parts: NDArray[np.int8]
) -> None:
    array = arrays.load(found, key)
    kind = array.dtype.kind
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and kind in "USb":
        conditions.add_classes(name, [_label(value) for value in array])
    elif array.ndim == 1 and kind in "iu" and (name == "label" or len(np.unique(array)) <= max(2, len(array) // 2)):
        conditions.add_classes(name, [str(value) for value in array.tolist()])
    elif array.ndim <= 2:
        _stop_infinite(found, key, array)
        conditions.add_vectors(name, array.astype(np.float64).reshape(len(array), -1), parts)
    else:
        _stop_missing(found, key, array)
        picture, span = _picture(found, key, array, len(grid))
        if picture.shape[2:] != grid:
            raise ValueError(
                f"{found.path}: array {key} has the grid {picture.shape[2:]}, but {found.main} has {grid}; make "
                f"them equal"
            )
        conditions.add(name, torch.from_numpy(picture))
        conditions.meta[name] = {"kind": "picture", "channels": picture.shape[1], "from_range": list(span)}


def _label(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _stop_missing(found: Arrays, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
            raise ValueError(
                f"{found.path}: array {name} has {int(bad.sum())} NaN or infinite value(s), in row "
                f"{files.listed(rows.tolist())}; "
                "mend or remove these rows"
            )


def _stop_infinite(found: Arrays, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise ValueError(f"{found.path}: array {name} has infinite values; mend or remove these rows")
