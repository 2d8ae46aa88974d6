"""Looking at a folder of images. No torch here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from condiff.data import files, images
from condiff.data.columns import looks
from condiff.data.estimate import propose
from condiff.data.inspect import Inspection
from condiff.data.survey import count_classes, digest, doubles, guessed_parts, weigh

MOST = 20_000
"""Images that are decoded; of larger folders an even sample."""


def look_images(place: Path, steps: int, batch_size: int) -> Inspection:
    """Decode the images of a folder and say what they are."""
    layout = images.scan(place)
    every = [*layout.paths, *layout.inputs]
    pace = -(-len(every) // MOST) or 1
    shapes: dict[Path, images.Shape] = {}
    digests: dict[Path, bytes] = {}
    unreadable, flat = [], []
    low, high, mean = 255, 0, 0.0
    for path in every[::pace]:
        try:
            shape = images.measure(path)
            pixels = images.decode(path, shape.channels)
        except ValueError as error:
            unreadable.append(str(error).removeprefix(f"{place}/"))
            continue
        shapes[path] = shape
        digests[path] = digest(repr(pixels.shape).encode() + pixels.tobytes())
        first, last = int(pixels.min()), int(pixels.max())
        low, high, mean = min(low, first), max(high, last), mean + float(pixels.mean())
        if first == last:
            flat.append(path.relative_to(place).as_posix())
    problems = list(layout.problems)
    if unreadable:
        problems.append(f"{len(unreadable)} unreadable image(s): {files.listed(unreadable, 10)}")
    if not every and not problems:
        problems.append("no images found: add .png, .jpg, .bmp, .webp or .gif files")
    elif 0 < len(layout.paths) < 3:
        problems.append(
            f"only {len(layout.paths)} example(s), but train, validation and test need one each: add images"
        )
    sizes = Counter(f"{shape.height}x{shape.width}" for shape in shapes.values())
    facts: dict[str, object] = {
        "layout": _name(layout),
        "sizes": dict(sizes.most_common(5)),
        "channels": dict(Counter(str(shape.channels) for shape in shapes.values())),
        "modes": dict(Counter(shape.mode for shape in shapes.values())),
    }
    if shapes:
        facts["values"] = [low, high]
        facts["mean_value"] = round(mean / len(shapes), 2)
    if layout.parts:
        facts["split"] = {name: layout.parts.count(code) for code, name in enumerate(("train", "validation", "test"))}
    if pace > 1:
        facts["looked_at"] = f"every {pace}th image, {len(every[::pace]):,} of {len(every):,}"
    conditions = {
        name: "class" if name in layout.classes else looks(name, cells) for name, cells in layout.cells.items()
    }
    facts["conditions"] = {**conditions, **({"input": "picture"} if layout.inputs else {})}
    balance = {name: count_classes(layout.cells[name]) for name, kind in conditions.items() if kind == "class"}
    balance = {name: classes for name, classes in balance.items() if classes}
    names = [path.relative_to(place).as_posix() for path in layout.paths]
    parts = guessed_parts(names, layout.parts)
    rows = [row for row, path in enumerate(layout.paths) if path in digests]
    facts["duplicates"], warnings = doubles(
        [digests[layout.paths[row]] for row in rows],
        [names[row] for row in rows],
        [parts[row] for row in rows] if parts else [],
    )
    warnings = [*layout.remarks, *warnings, *weigh("images", len(layout.paths), balance)]
    for name, cells in layout.cells.items():
        missing = sum(cell is None for cell in cells)
        if 0 < missing and conditions[name] != "class":
            warnings.append(f"{missing} image(s) have no {name}; they train the unconditional part only")
    if flat:
        warnings.append(
            f"{len(flat)} image(s) are one flat colour ({files.listed(flat)}): remove them unless they are meant"
        )
    found = {(shape.height, shape.width) for shape in shapes.values()}
    arguments: dict[str, object] = {}
    side: int | None = None
    if len(found) > 1:
        side = images.square(found)
        warnings.append(
            f"{len(found)} different sizes: the central square is resized to {side}x{side} unless --resolution "
            f"says otherwise"
        )
    elif found and max(next(iter(found))) > 64:
        side = 64
        height, width = next(iter(found))
        warnings.append(f"{height}x{width} pixels are slow to train without a GPU: --resolution 64 is proposed")
    if side is not None:
        arguments["resolution"] = side
    if any(0 < min(size) < 8 for size in found):
        warnings.append("some images are smaller than 8 pixels: remove them if they are thumbnails")
    if len({shape.channels for shape in shapes.values()}) > 1:
        warnings.append("grey and colour images are mixed: all are read in colour unless --channels 1 is given")
    others = _others(place, layout)
    if others:
        warnings.append(
            f"{sum(others.values())} file(s) of other kinds are left out "
            f"({files.listed([f'{k} {v}' for k, v in others.items()])})"
        )
    proposal = None
    if not problems:
        depth = max(shape.channels for shape in shapes.values())
        height, width = (side, side) if side is not None else next(iter(found))
        proposal = propose(
            str(place), "images", (depth, height, width), len(layout.paths), arguments, steps, batch_size
        )
        free = files.memory()
        if free is not None and proposal.memory_mib * 2**20 > free:
            warnings.append(
                f"about {proposal.memory_mib:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free: "
                "give a smaller --resolution or --batch-size"
            )
    return Inspection(
        str(place), "images", len(layout.paths), facts, balance, tuple(problems), tuple(warnings), proposal
    )


def _name(layout: images.Layout) -> str:
    kind = (
        "input/ and target/ pairs" if layout.inputs
        else "class folders" if "label" in layout.classes
        else "captions beside the images" if list(layout.cells) == ["caption"]
        else "described by a metadata file" if layout.cells
        else "images without conditions"
    )  # fmt: skip
    return f"{kind}, in train/ val/ test/ folders" if layout.parts else kind


def _others(place: Path, layout: images.Layout) -> dict[str, int]:
    """Count files that are neither images nor captions nor metadata, by ending."""
    stems = {path.with_suffix("") for path in layout.paths}
    endings: Counter[str] = Counter()
    for path in place.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(place).parts):
            continue
        known = images.is_image(path) or path.name in ("metadata.csv", "metadata.jsonl")
        if not known and not (path.suffix == ".txt" and path.with_suffix("") in stems):
            endings[path.suffix or path.name] += 1
    return dict(endings.most_common())
