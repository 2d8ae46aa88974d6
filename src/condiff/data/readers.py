"""Reading people's own data, and the bundled sets by name, into train, validation and test."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.data import arrays, columns, corpus, files, images, kinds, panel, splits, tables
from condiff.data.alphabet import WINDOW, Alphabet, Learned, described, restored, settled
from condiff.data.batch import Dataset, Splits
from condiff.data.build import build
from condiff.data.cells import Conditions
from condiff.data.numeric import array_file
from condiff.data.series import windowed
from condiff.data.splits import PARTS, TRAIN
from condiff.data.tracks import read_tracks
from condiff.data.windows import windowed_tracks

SHORTEST = 8
"""Tokens of the shortest window that is proposed where a text is too short for the one asked for."""


def read(
    path: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    channels: int | None = None,
    length: int | None = None,
    stride: int | None = None,
    horizon: int | None = None,
    context: int | None = None,
    lags: Sequence[int] | None = None,
    scaling: str | None = None,
    conditions: Sequence[str] = (),
    tokens: Alphabet | Learned | None = None,
    pack: bool = False,
) -> Splits:
    """Read a folder of images or text, a CSV, NPZ or text file, or a bundled set by its name.

    Args:
        path: Folder, file, or one of "digits", "digits8", "kjv", "mni152", "mocap", "phrases", "traffic", "verses"
            (write `./digits` for your own folder).
        resolution: Side in pixels that images are cut and resized to; None keeps images that are all of one size and
            brings mixed ones to one square.
        channels: 1 for grey, 3 for colour; None takes grey if every image is grey.
        length: Steps of a series window or tokens of a text example; None chooses by the data.
        stride: Steps or tokens from one window to the next; None chooses.
        horizon: Steps of a series to forecast: its windows are then cut for that (see `data.windows`), and conditions
            are what is known in advance. 0 takes a natural period: a day of hours, a week of days. None cuts plain
            windows of all channels.
        context: Steps before the horizon within a window; None chooses.
        lags: Steps back that every step of a window may look; None chooses, [] is none.
        scaling: "deviation" or "mean": what windows are measured by (see `data.windows.Window`); None is "deviation".
        conditions: Names that examples are to be conditioned on. Numeric columns of a plain table are data unless they
            are named here; a named one may have empty cells, which mean "not known".
        tokens: Of text: an alphabet such as one read off a checkpoint, or what learns one from the training part, such
            as `Characters.fit` or `BytePairs.fit`. None is bytes.
        pack: Of several texts (a folder, JSON lines): lay them one after another, an end behind each, and cut windows
            through all of them. Otherwise a record is one example, cut at the length, and windows of a file lie within
            it; what is shorter than an example is filled up with ends, which are learned like any token.

    Returns: The three parts, with statistics of the training part in `meta`.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If the data cannot be used as they are; the message says what to mend.
    """
    try:
        kind = kinds.sniff(path)
        _check(path, kind, resolution, channels, length, stride)
        _check_horizon(path, kind, length, horizon, context)
        if horizon is None and (lags is not None or scaling is not None):
            raise ValueError("lags and scaling are for windows of a horizon; add a horizon (--horizon 24)")
        if kind != "text" and (tokens is not None or pack):
            raise ValueError(f"{path}: tokens and packing are for text, but this is {kind}; leave them out")
        if horizon is not None:
            tracks = read_tracks(path, known=conditions)
            splits = windowed_tracks(
                tracks,
                horizon=horizon or None,
                context=context,
                lags=lags,
                scaling=scaling or "deviation",
                stride=stride,
            )
        else:
            splits = _read(path, kind, resolution, channels, length, stride, tuple(conditions), tokens, pack)
            _check_conditions(conditions, list(splits.train.conditions))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    options = {
        "resolution": resolution, "channels": channels, "length": length, "stride": stride,
        "horizon": horizon, "context": context, "lags": None if lags is None else list(lags), "scaling": scaling,
    }  # fmt: skip
    asked: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    if conditions:
        asked["conditions"] = list(conditions)
    if pack:
        asked["pack"] = True
    if not asked:
        return splits
    # What was asked for travels with the data, so that an evaluation reads them the same way.
    return Splits(*(replace(p, meta={**p.meta, "read": asked}) for p in (splits.train, splits.validation, splits.test)))


def read_like(data: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> Splits:
    """Read the data of a system again, or other data in the same way: with the options and the tokens it was made for.

    Args:
        data: What a system remembers of its data, `System.data`.
        path: Other data; None is its own.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If the data cannot be used, or nothing says where they are.
    """
    meta = data.get("meta", {})
    place = path or meta.get("source") or data.get("name")
    if not place:
        raise ValueError("nothing says what this was trained on; name the data")
    options = dict(meta.get("read", {}))
    if data.get("kind") == "text":
        options["tokens"] = restored(meta.get("tokens"))
        splits = read(place, **options)
        if "stride" not in splits.train.meta:  # records, whose length follows the longest one that is there
            return Splits(*(_as_long(part, meta) for part in (splits.train, splits.validation, splits.test)))
        return splits
    return read(place, **options)


def _as_long(part: Dataset, meta: Mapping[str, Any]) -> Dataset:
    """Fill or cut texts, and those they are conditioned on, to the lengths of the data that a meta describes."""

    def fitted(rows: Tensor, facts: Mapping[str, Any]) -> Tensor:
        if facts.get("length") is None or "pad" not in facts:
            return rows
        return torch.nn.functional.pad(rows, (0, facts["length"] - rows.shape[1]), value=facts["pad"])

    given = meta.get("conditions", {})
    conditions = {name: fitted(value, given.get(name, {})) for name, value in part.conditions.items()}
    return replace(part, data=fitted(part.data, meta), conditions=conditions)


def _read(
    path: str | os.PathLike[str],
    kind: str,
    resolution: int | None,
    channels: int | None,
    length: int | None,
    stride: int | None,
    conditions: tuple[str, ...],
    tokens: Alphabet | Learned | None,
    pack: bool,
) -> Splits:
    if kinds.is_bundled(path):
        if pack:
            raise ValueError(f"{path}: only files of your own are packed; leave it out")
        return _bundled(str(path), length, stride, tokens)
    place = Path(path)
    if place.is_dir() and kind == "images":
        return _image_folder(place, resolution, channels)
    if files.ending(place) in files.ARRAYS:
        return _array_file(place)
    if kind == "text":
        return _texts(place, length, stride, tokens, pack)
    if kind == "series":
        return _series_table(place, length, stride)
    return _vector_table(place, conditions)


def _check(
    path: str | os.PathLike[str],
    kind: str,
    resolution: int | None,
    channels: int | None,
    length: int | None,
    stride: int | None,
) -> None:
    if resolution is not None and not 1 <= resolution <= 4096:
        raise ValueError(f"resolution must be 1 to 4096 pixels, got {resolution}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    for name, value in (("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    folder = not kinds.is_bundled(path) and Path(path).is_dir()
    if not (kind == "images" and folder) and (resolution is not None or channels is not None):
        raise ValueError(
            f"{path}: resolution and channels are for folders of images, but this is {kind}; leave them out"
        )
    if kind not in ("series", "text") and (length is not None or stride is not None):
        raise ValueError(f"{path}: length and stride are for series and text, but this is {kind}; leave them out")
    if kind == "series" and not folder and files.ending(Path(path)) in files.ARRAYS and (length or stride):
        raise ValueError(f"{path}: the series are already cut in this file; leave length and stride out")


def _check_horizon(
    path: str | os.PathLike[str], kind: str, length: int | None, horizon: int | None, context: int | None
) -> None:
    if horizon is None and context is None:
        if kind == "series" and not kinds.is_bundled(path) and files.ending(Path(path)) in (".json", ".jsonl"):
            raise ValueError("series of unequal length are read to be forecast; add a horizon (--horizon 24)")
        return
    table = not kinds.is_bundled(path) and Path(path).is_file() and files.ending(Path(path)) in files.TABLES
    if kind == "vectors" and table:
        return  # no times, no rows, ...: who reads the series says what the table lacks
    if kind != "series":
        raise ValueError(f"{path}: horizon and context are for series, but this is {kind}; leave them out")
    if horizon is None:
        raise ValueError(f"{path}: a context of {context} steps needs a horizon too")
    if length is not None:
        raise ValueError(f"{path}: a window of a horizon is context and horizon long; give --context, not --length")
    if horizon < 0 or (context is not None and context < 1):
        raise ValueError(f"horizon must be at least 0 and context at least 1, got {horizon} and {context}")
    if not kinds.is_bundled(path) and files.ending(Path(path)) in files.ARRAYS:
        raise ValueError(f"{path}: series in an array have no times to forecast; give a table with dates")


def _check_conditions(asked: Sequence[str], there: Sequence[str]) -> None:
    for name in asked:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1, 0.6)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"nothing named {name!r} to condition on{hint} There are {', '.join(there) or 'none'}")


def _bundled(name: str, length: int | None, stride: int | None, tokens: Alphabet | Learned | None) -> Splits:
    if name == "digits":
        from condiff.data.digits import digits

        return digits()
    if name == "digits8":
        from condiff.data.digits import digits8

        return digits8()
    if name == "mni152":
        from condiff.data.volumes import mni152

        return mni152()
    if name == "mocap":
        from condiff.data.poses import mocap

        return mocap()
    if name == "traffic":
        from condiff.data.series import traffic

        return traffic(length or 192, stride or 24)
    if name == "phrases":
        from condiff.data.phrases import LENGTH, phrases

        return phrases(length or LENGTH, tokens)
    if name == "kjv":
        from condiff.data.verses import passages

        return passages(length, "kjv", stride, tokens)
    if stride is not None:
        raise ValueError("verses: every example is one verse, so there is no stride; leave it out")
    from condiff.data.verses import verses

    return verses(length or corpus.LENGTH, tokens)


def _stop(path: Path, problems: tuple[str, ...]) -> None:
    """Refuse data with problems: the first in full, the number of the others."""
    if problems:
        more = f" (and {len(problems) - 1} more problem(s): run condiff doctor {path})" if len(problems) > 1 else ""
        first = problems[0] if problems[0].startswith(str(path)) else f"{path}: {problems[0]}"
        raise ValueError(first + more)


def _parts(names: list[str], fixed: tuple[int, ...]) -> tuple[NDArray[np.int8], str]:
    """Parts of every row: those that folders fix, and the missing ones taken from train by a keyed hash."""
    if not fixed:
        return splits.keyed_split(names), "hash of the name, 90/5/5"
    parts = np.array(fixed, np.int8)
    missing = [code for code in (splits.VALIDATION, splits.TEST) if not (parts == code).any()]
    if not missing:
        return parts, "folders train, val and test"
    chosen = np.flatnonzero(parts == TRAIN)
    cut = splits.keyed_split([names[row] for row in chosen])
    for code in missing:
        parts[chosen[cut == code]] = code
    return parts, f"folders, and {' and '.join(PARTS[code] for code in missing)} from train by hash of the name"


def _image_folder(place: Path, resolution: int | None, channels: int | None) -> Splits:
    layout = images.scan(place)
    _stop(place, layout.problems)
    every = [*layout.paths, *layout.inputs]
    shapes: list[images.Shape] = []
    unreadable: list[str] = []
    for path in every:
        try:
            shapes.append(images.measure(path))
        except ValueError as error:
            unreadable.append(str(error))
    _stop_unreadable(place, unreadable)
    sizes = {(shape.height, shape.width) for shape in shapes}
    depth = channels or max(shape.channels for shape in shapes)
    side = resolution if resolution is not None or len(sizes) == 1 else images.square(sizes)
    height, width = (side, side) if side is not None else next(iter(sizes))
    files.check_memory(
        place,
        len(every) * depth * height * width * 9,  # bytes now, float32 whole, float32 once more while it is cut
        f"give a smaller resolution than {height}x{width} or fewer images",
    )
    pixels = np.empty((len(every), depth, height, width), np.uint8)
    for row, path in zip(pixels, every, strict=True):
        try:
            picture = images.decode(path, depth, side)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        if picture.shape != row.shape:
            unreadable.append(
                f"{path}: is {picture.shape[1:]} pixels, but its header says {row.shape[1:]}; save it again"
            )
            continue
        row[...] = picture
    _stop_unreadable(place, unreadable)
    scaled = torch.from_numpy(pixels).float().div_(127.5).sub_(1)
    names = [path.relative_to(place).as_posix() for path in layout.paths]
    parts, rule = _parts(names, layout.parts)
    conditions = Conditions()
    for name, column in layout.cells.items():
        if name in layout.classes:
            conditions.add_classes(name, column)
        elif any(cell is not None for cell in column):
            conditions.add_cells(name, column, parts)
    if layout.inputs:
        conditions.add("input", scaled[len(names) :])
        conditions.meta["input"] = {"kind": "picture", "channels": depth, "range": [-1.0, 1.0]}
    resized = side is not None and sizes != {(side, side)}
    meta: dict[str, object] = {
        "source": str(place),
        "split_rule": rule,
        "range": [-1.0, 1.0],
        "from_range": [0.0, 255.0],
        "sizes": sorted(f"{h}x{w}" for h, w in sizes)[:20],
        "resized": f"central square, Lanczos, to {side}x{side}" if resized else "no",
        "remarks": list(layout.remarks),
    }
    return build(scaled[: len(names)], conditions, parts, name=place.resolve().name, kind="images", meta=meta)


def _stop_unreadable(place: Path, errors: list[str]) -> None:
    if errors:
        raise ValueError(f"{place}: {len(errors)} unreadable image(s): {files.listed(errors)}")


def _series_table(place: Path, length: int | None, stride: int | None) -> Splits:
    table = tables.parse(place)
    _stop(place, table.problems)
    found = panel.panel(table)
    _stop(place, found.problems)
    return windowed(found, length, stride, name=place.name, source=str(place))


def _vector_table(place: Path, asked: tuple[str, ...] = ()) -> Splits:
    table = tables.parse(place)
    _stop(place, table.problems)
    _check_conditions(asked, [*table.numbers, *table.names])
    classes = {name for name in table.numbers if name.lower() in tables.CLASSES and name not in asked}
    known = [name for name in table.numbers if name in asked]
    numeric = [name for name in table.numbers if name not in classes and name not in known]
    if not numeric and known:
        raise ValueError(f"{place}: every numeric column is a condition; leave some of them as data")
    if not numeric:
        raise ValueError(f"{place}: the only numeric column is the class {min(classes)}; add columns of data")
    values = np.stack([table.numbers[name] for name in numeric], axis=1)
    _stop_missing(place, numeric, values)
    parts, rule = splits.split_rows(len(values)), "hash of the row number, 90/5/5"
    conditions = Conditions()
    left_out = []
    for name in classes:
        column = [f"{value:g}" if np.isfinite(value) else None for value in table.numbers[name]]
        conditions.add_classes(name, column)
    for name in known:
        if not np.isfinite(table.numbers[name][parts == TRAIN]).any():
            raise ValueError(f"{place}: column {name} has no number in the training rows; give some rows a value")
        conditions.add_vectors(name, table.numbers[name][:, None], parts)
    for name, texts in table.names.items():
        column = [None if text.lower() in tables.MISSING else text for text in texts]
        if columns.looks(name, column) == "class":
            conditions.add_classes(name, column)
        else:
            left_out.append(name)
    mean, std = columns.moments(values[parts == TRAIN])
    meta: dict[str, object] = {
        "source": str(place), "split_rule": rule, "columns": numeric, "left_out": left_out,
        "mean": mean.tolist(), "std": std.tolist(),
    }  # fmt: skip
    data = torch.from_numpy(((values - mean) / std).astype(np.float32))
    return build(data, conditions, parts, name=place.name, kind="vectors", meta=meta)


def _stop_missing(place: Path, names: list[str], values: NDArray[np.float64]) -> None:
    missing = ~np.isfinite(values)
    if missing.any():
        worst = [f"{names[column]} ({missing[:, column].sum()})" for column in np.flatnonzero(missing.any(axis=0))]
        raise ValueError(
            f"{place}: {int(missing.sum())} missing or infinite value(s) in column {files.listed(worst)}; fill "
            f"them or remove the rows, or make the column a condition, which some rows may lack"
        )


def _array_file(place: Path) -> Splits:
    found = arrays.scan(place)
    _stop(place, found.problems)
    return array_file(found)


def _texts(
    place: Path, length: int | None, stride: int | None, tokens: Alphabet | Learned | None, pack: bool
) -> Splits:
    found = corpus.scan(place)
    _stop(place, found.problems)
    if pack:
        _check_packable(place, found)
    elif found.rows:
        return _text_rows(place, found, length, stride, tokens)
    several = pack or len(found.texts) >= 3 or bool(found.parts)
    pieces: list[list[str]] = [[], [], []]
    if several:
        codes, rule = _parts(list(found.names), found.parts)
        for text, code in zip(found.texts, codes.tolist(), strict=True):
            pieces[code].append(text)
    else:
        rule = "position in the text, 90/5/5"
        for text in found.texts:
            edges = (0, *splits.borders(len(text), 0.9, 0.05), len(text))
            for code in range(3):
                pieces[code].append(text[edges[code] : edges[code + 1]])
    alphabet = settled(tokens, pieces[TRAIN])
    size = length or WINDOW[alphabet.unit]
    step = stride or size
    coded = [[alphabet.encode(text) for text in texts] for texts in pieces]
    # Where nothing is filled up, the part whose longest text is shortest says which windows there can be.
    room = [sum(map(len, rows)) + len(rows) if pack else max(map(len, rows), default=0) for rows in coded]
    cut = []
    for code, rows in enumerate(coded):
        # A part of one text does not end where it was cut off, so there is nothing to fill it up with.
        whole = alphabet.end if several else None
        cut.append(corpus.packed(rows, size, step, alphabet.end) if pack else corpus.windows(rows, size, step, whole))
        if not len(cut[-1]):
            held = f"{'all texts' if pack else 'longest text'} there: {room[code]} {alphabet.unit}s"
            most = min(room)
            remedy = f"give a length of {most} or less, or more text" if most >= SHORTEST else "it takes more text"
            raise ValueError(
                f"{place}: no window of {size} {alphabet.unit}s fits into the {PARTS[code]} part ({held}); {remedy}"
            )
    meta: dict[str, object] = {"source": str(place), **described(alphabet, size), "split_rule": rule, "stride": step}
    if pack:
        meta["packed"] = True
    codes_of = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in cut])
    data = torch.from_numpy(np.concatenate(cut))
    return build(data, Conditions(), codes_of, name=place.name, kind="text", meta=meta)


def _check_packable(place: Path, found: corpus.Corpus) -> None:
    if found.inputs or found.cells:
        given = [*(["input"] if found.inputs else []), *(found.cells or {})]
        raise ValueError(
            f"{place}: a packed window holds several texts, so it cannot be conditioned on {files.listed(given)}; "
            "remove these fields, or do not pack"
        )
    if len(found.texts) < 3:
        raise ValueError(
            f"{place}: packing is for three texts or more, a folder of files or JSON lines, but there "
            f"{'is' if len(found.texts) == 1 else 'are'} {len(found.texts)}; do not pack"
        )


def _text_rows(
    place: Path, found: corpus.Corpus, length: int | None, stride: int | None, tokens: Alphabet | Learned | None
) -> Splits:
    """Read lines or records, each one example with what it is conditioned on."""
    if stride is not None:
        raise ValueError(f"{place}: every line is one example, so there is no stride; leave it out")
    parts, rule = _parts(list(found.names), found.parts)
    taught = [
        text for row in (found.texts, found.inputs) for text, code in zip(row, parts, strict=False) if code == TRAIN
    ]
    alphabet = settled(tokens, taught)
    conditions = Conditions()
    if found.inputs:
        conditions.add_texts("input", found.inputs, length or corpus.LENGTH, alphabet)
    for name, column in (found.cells or {}).items():
        conditions.add_cells(name, column, parts)
    size = length or corpus.fitting(max(len(alphabet.encode(text)) for text in found.texts))
    data, cut = corpus.padded(found.texts, size, alphabet)
    meta = {"source": str(place), **described(alphabet, size), "split_rule": rule, "cut": cut}
    return build(torch.from_numpy(data), conditions, parts, name=place.name, kind="text", meta=meta)
