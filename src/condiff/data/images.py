"""Folders of images: what lies where, and one image as bytes of a chosen size. No torch: the inspection uses it too."""

from __future__ import annotations

import csv
import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from condiff.data import files
from condiff.data.splits import FOLDERS

GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L"})


LARGEST = 64
"""Side in pixels that images of mixed sizes are brought to, if the smallest allows it and no resolution is given."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""Decoders that a file may choose by its content; Pillow knows others that start programs."""


@final
@dataclass(frozen=True)
class Layout:
    """Where the images of a folder are and what is written beside them.

    Args:
        root: The folder.
        paths: Image files, sorted.
        parts: Split code by image, for `train/ val/ test/` folders; empty if the folder fixes no split.
        cells: Raw text by condition name, one entry an image, None where it has none.
        classes: Condition names whose text is a class name (a folder name).
        inputs: Input image by image, for `input/` + `target/` pairs; empty otherwise.
        problems: What stops the folder from being read, each one sentence that names files.
        remarks: What is odd but can be read.
    """

    root: Path
    paths: tuple[Path, ...]
    parts: tuple[int, ...] = ()
    cells: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    classes: frozenset[str] = frozenset()
    inputs: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Shape:
    """Size of an image as it will be seen (turned by its EXIF tag) and how it is stored."""

    width: int
    height: int
    mode: str

    @property
    def channels(self) -> int:
        """1 for grey images, else 3."""
        return 1 if self.mode in GREY_MODES else 3


def is_image(path: Path) -> bool:
    """Does the name end like an image that we read?"""
    return path.suffix.lower() in files.IMAGES


def scan(root: Path) -> Layout:
    """Find the images of a folder and their conditions, whichever of the usual layouts it has.

    In this order: `train/ val/ test/` folders (each with one of the layouts below), `input/` + `target/` folders with
    equal stems, a `metadata.csv` or `metadata.jsonl`, class folders, and plain files with captions in `.txt` files
    beside them.
    """
    folders = [entry for entry in files.entries(root) if entry.is_dir()]
    named = [entry for entry in folders if entry.name.lower() in FOLDERS]
    if any(FOLDERS[entry.name.lower()] == 0 for entry in named):
        return _join(root, [(FOLDERS[entry.name.lower()], scan(entry)) for entry in named])
    by_name = {entry.name.lower(): entry for entry in folders}
    if "input" in by_name and "target" in by_name:
        return _pairs(root, by_name["input"], by_name["target"])
    for name in ("metadata.csv", "metadata.jsonl"):
        if (root / name).is_file():
            return _described(root, root / name)
    paths = tuple(sorted(path for path in root.rglob("*") if is_image(path) and _visible(path, root)))
    tops = tuple(path.relative_to(root).parts[0] if path.parent != root else None for path in paths)
    if any(top is not None for top in tops):
        loose = [path.name for path, top in zip(paths, tops, strict=True) if top is None]
        remarks = (
            (
                f"{len(loose)} image(s) lie beside the class folders and get no class "
                f"({files.listed(loose)}): move them into a class folder",
            )
            if loose
            else ()
        )
        return Layout(root, paths, cells={"label": tops}, classes=frozenset({"label"}), remarks=remarks)
    captions = tuple(_caption(path) for path in paths)
    if any(caption is not None for caption in captions):
        problems = tuple(
            f"{path.with_suffix('.txt').name}: not UTF-8 text, so {path.name} gets no caption: save it as UTF-8"
            for path, caption in zip(paths, captions, strict=True)
            if caption is None and path.with_suffix(".txt").is_file()
        )
        return Layout(root, paths, cells={"caption": captions}, problems=problems)
    return Layout(root, paths)


def measure(path: Path) -> Shape:
    """Read the size of an image from its header.

    Raises:
        ValueError: If the file is not an image, or claims to be too large to be decoded safely.
    """
    with _opened(path) as image:
        width, height = image.size
        exif = Image.Exif()
        try:
            exif.load(image.info.get("exif", b""))  # `getexif` would decode a whole PNG
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
            raise ValueError(f"{path}: has a damaged EXIF block ({error}); save it again without") from None
        turned = exif.get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientations that lie on their side
        if turned:
            width, height = height, width
        return Shape(width, height, image.mode)


def decode(path: Path, channels: int, resolution: int | None = None) -> NDArray[np.uint8]:
    """Decode an image (the first frame of an animation) and bring it to a size.

    The image is turned as its EXIF tag says, laid over white where it is transparent, cut to its central square and
    resized with a Lanczos filter if a resolution is given.

    Returns: Pixels uint8 (channels, H, W).

    Raises:
        ValueError: If the file is damaged or cut short.
    """
    with _opened(path) as image:
        try:
            image.seek(0)
            image.load()
            upright = ImageOps.exif_transpose(image)
            picture = _plain(upright, channels)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
            raise ValueError(f"{path}: cannot be decoded ({error}); replace or remove it") from None
    if resolution is not None and picture.size != (resolution, resolution):
        picture = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def square(sizes: set[tuple[int, int]]) -> int:
    """Side that mixed sizes are brought to: the smallest side, at most `LARGEST`, rounded down to a multiple of 8."""
    side = min(LARGEST, min(min(size) for size in sizes))
    return side // 8 * 8 if side >= 8 else side


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"{path}: claims more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be an attack on memory; "
            "make it smaller or remove it"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "empty file" if path.is_file() and path.stat().st_size == 0 else "not an image, or damaged"
        raise ValueError(f"{path}: {reason} ({type(error).__name__}); replace or remove it") from None


def _plain(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        wide = values.max() > 255 if values.size else False
        image = Image.fromarray(np.clip(np.rint(values / 257 if wide else values), 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        cover = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", cover.size, (255, 255, 255, 255)), cover)
    return image.convert(mode)


def _visible(path: Path, root: Path) -> bool:
    return path.is_file() and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)


def _caption(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return None
    try:
        return files.text(beside).strip() or None
    except ValueError:
        return None


def _pairs(root: Path, inputs: Path, targets: Path) -> Layout:
    problems = []
    found: list[dict[str, Path]] = []
    for folder in (inputs, targets):
        table: dict[str, Path] = {}
        for path in sorted(path for path in folder.rglob("*") if is_image(path) and _visible(path, folder)):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in table:
                problems.append(f"{folder.name}/: {table[stem].name} and {path.name} have one stem: rename one")
            table.setdefault(stem, path)
        found.append(table)
    left, right = found
    for mine, others, name in ((left, right, targets.name), (right, left, inputs.name)):
        alone = [path.relative_to(root).as_posix() for stem, path in mine.items() if stem not in others]
        if alone:
            problems.append(
                f"{len(alone)} image(s) have no partner in {name}/ ({files.listed(alone)}): add or remove it"
            )
    stems = sorted(left.keys() & right.keys())
    return Layout(
        root,
        tuple(right[stem] for stem in stems),
        inputs=tuple(left[stem] for stem in stems),
        problems=tuple(problems),
    )


def _described(root: Path, table: Path) -> Layout:
    try:
        rows = list(_records(table))
    except ValueError as error:
        return Layout(root, (), problems=(str(error),))
    if not rows or any("file_name" not in row for row in rows):
        have = sorted({name for row in rows for name in row})
        return Layout(
            root,
            (),
            problems=(f"{table.name}: expected a column file_name, found {have or 'no rows'}: name the images in it",),
        )
    problems: list[str] = []
    remarks: list[str] = []
    kept: list[dict[str, str | None]] = []
    paths: list[Path] = []
    missing: list[str] = []
    seen: set[str] = set()
    for row in rows:
        name = row["file_name"] or ""
        path = root / name
        inside = name != "" and path.resolve().is_relative_to(root.resolve())
        if not inside or not path.is_file():
            missing.append(name or "(empty)")
        elif name in seen:
            problems.append(f"{table.name}: {name} is described twice: keep one row")
        else:
            seen.add(name)
            kept.append(row)
            paths.append(path)
    if missing:
        problems.append(
            f"{table.name}: {len(missing)} file(s) are not there ({files.listed(missing)}): correct file_name"
        )
    silent = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if is_image(path) and _visible(path, root) and path.relative_to(root).as_posix() not in seen
    ]
    if silent:
        remarks.append(
            f"{table.name}: {len(silent)} image(s) have no row ({files.listed(silent)}) and are left out: add rows"
        )
    names = list(dict.fromkeys(name for row in kept for name in row if name != "file_name"))
    cells = {name: tuple(row.get(name) or None for row in kept) for name in names}
    return Layout(root, tuple(paths), cells=cells, problems=tuple(problems), remarks=tuple(remarks))


def _records(table: Path) -> list[dict[str, str | None]]:
    content = files.text(table)
    if table.suffix == ".csv":
        return [
            {str(name): cell for name, cell in row.items() if isinstance(name, str)}
            for row in csv.DictReader(content.splitlines())
        ]
    rows: list[dict[str, str | None]] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{table.name}: line {number} is not JSON ({error.msg}): correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{table.name}: line {number} is not a JSON object: write one object a line")
        rows.append({name: None if cell is None else str(cell) for name, cell in row.items()})
    return rows


def _join(root: Path, found: list[tuple[int, Layout]]) -> Layout:
    names = list(dict.fromkeys(name for _, layout in found for name in layout.cells))
    cells = {
        name: tuple(cell for _, layout in found for cell in layout.cells.get(name, (None,) * len(layout.paths)))
        for name in names
    }
    pairs = [bool(layout.inputs) for _, layout in found if layout.paths]
    problems = [f"{layout.root.name}/: {problem}" for _, layout in found for problem in layout.problems]
    problems += [f"{layout.root.name}/ has no images: add some or remove it" for _, layout in found if not layout.paths]
    if len(set(pairs)) > 1:
        problems.append("some of the split folders hold input/ + target/ pairs and some do not: give all one layout")
    return Layout(
        root,
        tuple(path for _, layout in found for path in layout.paths),
        parts=tuple(part for part, layout in found for _ in layout.paths),
        cells=cells,
        classes=frozenset().union(*(layout.classes for _, layout in found)),
        inputs=tuple(path for _, layout in found for path in layout.inputs) if all(pairs) else (),
        problems=tuple(problems),
        remarks=tuple(f"{layout.root.name}/: {remark}" for _, layout in found for remark in layout.remarks),
    )
