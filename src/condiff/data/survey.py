"""The looking itself, one function a kind of file. No torch here."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import as_file
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condiff.data import arrays, corpus, files, kinds, panel, resource, splits, tables
from condiff.data.alphabet import WINDOW
from condiff.data.columns import looks
from condiff.data.estimate import propose
from condiff.data.inspect import Inspection
from condiff.data.tracks import from_table, read_tracks

TINY = {"images": 100, "text": 100, "vectors": 100, "volumes": 20, "poses": 100, "series": 200}
"""Fewer examples (time steps for series) than this are worth a warning."""

SHORTEST = 5
"""A series of fewer steps has no room for a horizon of 1 in each of three parts."""

UNEVEN = 10
"""Classes are called uneven if the largest has this many times the examples of the smallest."""

BUNDLED_FILES = {
    "digits": "mnist10k.npz",
    "digits8": "mnist10k.npz",
    "kjv": "verses_kjv_bbe.tsv.xz",
    "mni152": "mni152_2mm.npz",
    "mocap": "mocap.npz",
    "traffic": "metro_traffic_hourly.csv.gz",
    "verses": "verses_kjv_bbe.tsv.xz",
}


def look(path: str, kind: str, steps: int, batch_size: int) -> Inspection:
    """Look at what was sniffed to be of a kind.

    Raises:
        ValueError: If the data are too broken to look at.
    """
    if path == "phrases":  # made of two files
        named = resource.arrays("mnist10k.npz")["labels"].astype(int) > 0
        return Inspection(path, kind, int(named.sum()), {"condition": "a digit of 8x8 pixels", "tokens": 16})
    if kinds.is_bundled(path):
        with as_file(package_files("condiff.data").joinpath("bundled", BUNDLED_FILES[path])) as place:
            if path in ("mni152", "mocap"):
                return _bundled(path, kind, arrays.scan(place))
            found = _file(place, path, kind, steps, batch_size)
        return replace(found, path=path)
    place = Path(path)
    if place.is_dir() and kind == "images":
        from condiff.data.survey_images import look_images

        return look_images(place, steps, batch_size)
    return _file(place, path, kind, steps, batch_size)


def weigh(kind: str, count: int, balance: dict[str, dict[str, int]]) -> list[str]:
    """Warn of too few examples and of uneven classes."""
    warnings = []
    if count < TINY[kind]:
        unit = "time steps" if kind == "series" else "examples"
        warnings.append(f"only {count} {unit}: the model will learn them by heart; {TINY[kind]} or more are better")
    for name, classes in balance.items():
        if len(classes) == 1:
            warnings.append(f"{name} has one class only, so it tells the model nothing: leave it out or add classes")
        elif max(classes.values()) > UNEVEN * min(classes.values()):
            rare = [label for label, size in classes.items() if UNEVEN * size < max(classes.values())]
            warnings.append(
                f"{name} is uneven: {files.listed(rare)} have less than a tenth of the largest class: add "
                f"examples of them"
            )
    return warnings


def count_classes(cells: Iterable[str | None]) -> dict[str, int]:
    """Examples by class, largest first."""
    return dict(Counter(cell for cell in cells if cell is not None).most_common())


def doubles(digests: Sequence[bytes], names: Sequence[str], parts: Sequence[int]) -> tuple[int, list[str]]:
    """Count exact duplicates, and warn of them; duplicates across the parts are the worse ones."""
    first: dict[bytes, int] = {}
    within: list[str] = []
    across: list[str] = []
    for row, digest in enumerate(digests):
        if digest in first:
            pair = f"{names[row]} = {names[first[digest]]}"
            (across if parts and parts[row] != parts[first[digest]] else within).append(pair)
        else:
            first[digest] = row
    warnings = []
    if across:
        warnings.append(
            f"{len(across)} exact duplicate(s) across train, validation and test ({files.listed(across)}): "
            "remove them, or the measured quality is too good"
        )
    if within:
        warnings.append(f"{len(within)} exact duplicate(s) ({files.listed(within)}): remove them unless they are meant")
    return len(across) + len(within), warnings


def digest(content: bytes) -> bytes:
    """Short hash that tells contents apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


def guessed_parts(names: Sequence[str], fixed: Sequence[int]) -> list[int]:
    """Parts that reading would use, where they can be told."""
    if fixed:
        return list(fixed)
    return splits.keyed_split(names).tolist() if len(names) >= 3 and len(set(names)) == len(names) else []


def _bundled(path: str, kind: str, found: arrays.Arrays) -> Inspection:
    facts = {name: f"{list(shape)} {dtype}" for name, (shape, dtype) in found.shapes.items()}
    return Inspection(path, kind, max((shape[0] for shape, _ in found.shapes.values() if shape), default=0), facts)


def _file(place: Path, path: str, kind: str, steps: int, batch_size: int) -> Inspection:
    if files.ending(place) in files.ARRAYS:
        return _arrays(place, path, steps, batch_size)
    if kind == "text":
        return _texts(place, path, steps, batch_size)
    if kind == "series" and files.ending(place) in (".json", ".jsonl"):
        return _entries(path, steps, batch_size)
    table = tables.parse(place)
    return _series(table, path, steps, batch_size) if kind == "series" else _vectors(table, path, steps, batch_size)


def _ranges(table: tables.Table) -> dict[str, object]:
    known = {name: column[np.isfinite(column)] for name, column in table.numbers.items()}
    return {name: [float(column.min()), float(column.max())] for name, column in known.items() if len(column)}


def _constant(table: tables.Table) -> list[str]:
    flat = []
    for name, column in table.numbers.items():
        known = column[np.isfinite(column)]
        if len(known) > 1 and known.min() == known.max():
            flat.append(name)
    return [f"column {files.listed(flat)} never changes: remove it"] if flat else []


def _series(table: tables.Table, path: str, steps: int, batch_size: int) -> Inspection:
    if not table.numbers or not np.isfinite(table.seconds).any():
        return Inspection(path, "series", table.num_rows, problems=table.problems)
    found = panel.panel(table)
    lengths = [len(item.seconds) for item in found.items]
    total = sum(lengths)
    facts: dict[str, object] = {
        "time_column": table.times,
        "layout": f"long, by {table.item}" if table.item else "wide, one column a series",
        "items": len(found.items),
        "steps_of_an_item": [min(lengths), max(lengths)],
        "step": found.frequency.name,
        "step_seconds": found.step,
        "period": found.period,
        "missing_values": found.missing,
        "missing_times": found.inserted,
        "ranges": _ranges(table),
    }
    warnings = [*found.remarks, *_constant(table), *weigh("series", total, {})]
    problems = [*table.problems, *found.problems]
    longest = max(lengths)
    if longest < SHORTEST and not problems:
        problems.append(f"the longest series has {longest} step(s), but even a horizon of 1 needs {SHORTEST}: add rows")
    if not problems:
        tracks = from_table(table, name=path).tracks
        facts["missing_values"] = missing = sum(int(np.isnan(track.values).sum()) for track in tracks)
        if missing > 0.2 * sum(map(len, tracks)):
            warnings.append(
                f"{missing / sum(map(len, tracks)):.0%} of the values are missing between the first and the last of "
                "their series: a model learns from what is there only"
            )
        if all(np.nanmin(track.values) == np.nanmax(track.values) for track in tracks):
            problems.append("no series ever changes, so there is nothing to learn: give data that do")
    proposal = None
    if not problems:
        ahead = _horizon(found.period, longest)
        proposal = propose(path, "series", (1, 4 * ahead), total, {"horizon": ahead}, steps, batch_size)
    return Inspection(path, "series", total, facts, {}, tuple(problems), tuple(warnings), proposal)


def _entries(path: str, steps: int, batch_size: int) -> Inspection:
    """Look at series in JSON lines."""
    found = read_tracks(path)
    lengths = [len(track) for track in found.tracks]
    facts: dict[str, object] = {
        "layout": "JSON lines of gluonts",
        "items": len(lengths),
        "steps_of_an_item": [min(lengths), max(lengths)],
        "step": found.frequency.name,
        "step_seconds": found.frequency.seconds,
        "period": found.frequency.period,
        "missing_values": found.missing,
    }
    ahead = _horizon(found.frequency.period, max(lengths))
    proposal = propose(path, "series", (1, 4 * ahead), sum(lengths), {"horizon": ahead}, steps, batch_size)
    warnings = (*found.remarks, *weigh("series", sum(lengths), {}))
    return Inspection(path, "series", sum(lengths), facts, {}, (), warnings, proposal)


def _horizon(period: int, longest: int) -> int:
    """Propose how far to forecast: a natural period, if the longest series has room for it."""
    return max(min(period if period > 1 else 8, (longest - 2) // 3), 1)


def _vectors(table: tables.Table, path: str, steps: int, batch_size: int) -> Inspection:
    columns = [name for name in table.numbers if name.lower() not in tables.CLASSES]
    texts = {
        name: [None if cell.lower() in tables.MISSING else cell for cell in cells]
        for name, cells in table.names.items()
    }
    texts |= {
        name: [f"{value:g}" if np.isfinite(value) else None for value in table.numbers[name]]
        for name in table.numbers
        if name not in columns
    }
    balance = {name: count_classes(cells) for name, cells in texts.items() if looks(name, cells) == "class"}
    balance = {name: classes for name, classes in balance.items() if classes}
    problems = list(table.problems)
    for name in columns:
        missing = int((~np.isfinite(table.numbers[name])).sum())
        if missing:
            problems.append(
                f"column {name}: {missing} missing or infinite value(s): fill them, remove the rows, or train with "
                f"--condition {name}, which rows may lack"
            )
    if not columns and table.numbers:
        problems.append("no column of data besides the class: add columns")
    if 0 < table.num_rows < 3:
        problems.append(f"only {table.num_rows} row(s), but train, validation and test need one each: add rows")
    facts: dict[str, object] = {"columns": columns, "ranges": _ranges(table)}
    warnings = [*_constant(table), *weigh("vectors", table.num_rows, balance)]
    ignored = [name for name in texts if name not in balance]
    if ignored:
        warnings.append(f"text column {files.listed(ignored)} hardly repeats, so it is no class and is left out")
    if columns and table.num_rows:
        stacked = np.stack([table.numbers[name] for name in columns], axis=1)
        rows = [str(row) for row in range(len(stacked))]
        facts["duplicates"], double = doubles([digest(row.tobytes()) for row in stacked], rows, guessed_parts(rows, ()))
        warnings += double
    proposal = None if problems else propose(path, "vectors", (len(columns),), table.num_rows, {}, steps, batch_size)
    return Inspection(path, "vectors", table.num_rows, facts, balance, tuple(problems), tuple(warnings), proposal)


def _arrays(place: Path, path: str, steps: int, batch_size: int) -> Inspection:
    found = arrays.scan(place)
    shape = found.shapes[found.main][0] if found.main else ()
    facts: dict[str, object] = {name: f"{list(size)} {dtype}" for name, (size, dtype) in found.shapes.items()}
    problems = list(found.problems)
    if problems or not found.kind:
        return Inspection(path, found.kind, shape[0] if shape else 0, facts, {}, tuple(problems), found.remarks)
    array = arrays.load(found, found.main)
    bad = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    known = array[np.isfinite(array)] if bad else array
    facts["range"] = [float(known.min()), float(known.max())] if known.size else []
    facts["nan_or_infinite"] = bad
    if bad:
        problems.append(f"array {found.main}: {bad} NaN or infinite value(s): mend or remove these rows")
    elif found.kind in ("images", "volumes"):
        if arrays.span(array) is None:
            problems.append(
                f"array {found.main}: values outside [0, 1], [-1, 1] and [0, 255]: bring them to one of these"
            )
        try:
            array = arrays.pictures(array, 2 if found.kind == "images" else 3)
        except ValueError as error:
            problems.append(f"array {found.main}: {error}: reshape it to (N, C, ...)")
    if len(array) < 3:
        problems.append(f"only {len(array)} row(s), but train, validation and test need one each: add rows")
    balance = {}
    for name, key in found.conditions.items():
        given = arrays.load(found, key)
        if given.ndim > 2:
            problems += _picture_faults(key, given, found.main, array)
        elif given.size == len(array) and given.dtype.kind in "iubUS":
            balance[name] = count_classes(str(value) for value in given.reshape(-1).tolist())
        elif given.dtype.kind == "f" and np.isinf(given).any():
            problems.append(f"array {key}: infinite value(s): mend or remove these rows")
    rows = [str(row) for row in range(len(array))]
    facts["duplicates"], warnings = doubles([digest(row.tobytes()) for row in array], rows, guessed_parts(rows, ()))
    warnings = [*found.remarks, *warnings, *weigh(found.kind, len(array), balance)]
    example = tuple(array.shape[1:])
    proposal = None if problems else propose(path, found.kind, example, len(array), {}, steps, batch_size)
    return Inspection(path, found.kind, len(array), facts, balance, tuple(problems), tuple(warnings), proposal)


def _picture_faults(key: str, given: NDArray[Any], main: str, array: NDArray[Any]) -> list[str]:
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        return [f"array {key}: NaN or infinite value(s): mend or remove these rows"]
    if arrays.span(given) is None:
        return [f"array {key}: values outside [0, 1], [-1, 1] and [0, 255]: bring them to one of these"]
    try:
        grid = arrays.pictures(given, array.ndim - 2).shape[2:]
    except ValueError as error:
        return [f"array {key}: {error}: reshape it to (N, C, ...)"]
    return (
        []
        if grid == array.shape[2:]
        else [f"array {key} has the grid {grid}, but {main} has {array.shape[2:]}: make them equal"]
    )


def _texts(place: Path, path: str, steps: int, batch_size: int) -> Inspection:
    found = corpus.scan(place)
    if found.problems:
        return Inspection(path, "text", len(found.texts), problems=found.problems, warnings=found.remarks)
    sizes = [len(text.encode()) for text in found.texts]
    facts: dict[str, object] = {
        "layout": "input and target" if found.inputs else "one example a line" if found.rows else "running text",
        "texts": len(found.texts),
        "bytes": sum(sizes),
        "bytes_of_a_text": [min(sizes), max(sizes)],
    }
    length = corpus.fitting(max(sizes)) if found.rows else WINDOW["byte"]
    count = len(found.texts) if found.rows else sum(sizes) // length
    facts["duplicates"], warnings = doubles(
        [digest(repr(row).encode()) for row in zip(found.texts, found.inputs or found.texts, strict=True)],
        found.names,
        [splits.book_part(int(name) // 1_000_000) for name in found.names]
        if path == "verses"
        else guessed_parts(found.names, found.parts),
    )  # fmt: skip
    long = sum(size > length for size in sizes)
    if found.rows and long:
        warnings.append(
            f"{long} text(s) are longer than {length} bytes and will be cut: give a larger --length to keep them"
        )
    cells = found.cells or {}
    balance = {name: count_classes(column) for name, column in cells.items() if looks(name, column) == "class"}
    balance = {name: classes for name, classes in balance.items() if classes}
    problems: tuple[str, ...] = ()
    if found.rows and count < 3:
        problems = (f"only {count} text(s), but train, validation and test need one each: add lines",)
    elif not found.rows and sum(sizes) < 20 * length:
        problems = (
            f"only {sum(sizes)} bytes, too few for windows of {length} in a test part of 5 %: add text or give "
            f"a smaller --length",
        )
    warnings += [*found.remarks, *weigh("text", count, balance)]
    proposal = None if problems else propose(path, "text", (length,), count, {"length": length}, steps, batch_size)
    return Inspection(path, "text", count, facts, balance, problems, tuple(warnings), proposal)
