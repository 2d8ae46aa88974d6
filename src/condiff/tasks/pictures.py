"""Pictures of samples: grids for people, and generated files that carry the recipe that made them."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from condiff.core.condition import ClassLabel, Picture
from condiff.core.system import System
from condiff.data.batch import Dataset
from condiff.tasks.generate import sample

KEY = "condiff"


def pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Turn images (N, C, H, W) in [-1, 1] into bytes (N, H, W, C), rounding to the nearest level.

    Raises:
        ValueError: If they are not images of 1 or 3 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"pictures need images (N, 1 or 3, H, W), got {tuple(images.shape)}")
    scaled = ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def picture(one: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """Make a picture of bytes (H, W, C)."""
    return Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)


def mosaic(images: Tensor, columns: int | None = None, gap: int = 2) -> Image.Image:
    """Lay images (N, C, H, W) in [-1, 1] out on a grid, enlarged by a whole factor if they are small.

    Args:
        images: The images, in reading order.
        columns: Images a row; about a square if None.
        gap: Pixels between images, before enlarging.
    """
    tiles = pixels(images)
    count, height, width, channels = tiles.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = (k // columns) * (height + gap) + gap, (k % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = tile
    made = picture(sheet)
    factor = max(1, min(4, 640 // max(made.size)))
    return made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST) if factor > 1 else made


def drawable(system: System[Any, Any]) -> bool:
    """Does this system make images of 1 or 3 channels?"""
    shape = system.codec.decode(torch.zeros(1, *system.shape)).shape[1:]
    return len(shape) == 3 and shape[0] in (1, 3)


def columns_for(system: System[Any, Any]) -> int | None:
    """Return one column a class, for a system with one class condition of at most 20 classes."""
    kinds = [kind for kind in system.schema.values() if isinstance(kind, ClassLabel)]
    return kinds[0].num_classes if len(kinds) == 1 and kinds[0].num_classes <= 20 else None


def draw(system: System[Any, Any], data: Dataset | None = None) -> Image.Image | None:
    """Draw a grid of samples, the same noise every time; None if the system does not make images.

    Args:
        system: The system.
        data: Where a system that reads pictures takes them from, with the other conditions of those rows; without data
            it is asked for every class in turn.
    """
    if not drawable(system):
        return None
    columns = columns_for(system) or 8
    count = 4 * columns
    cond = None
    if data is not None and any(isinstance(kind, Picture) for kind in system.schema.values()):
        _, cond = data.rows(torch.arange(count) % len(data))
    return mosaic(sample(system, num_samples=count, seed=0, cond=cond), columns)


def png_bytes(image: Image.Image, recipe: Mapping[str, Any]) -> bytes:
    """Encode a PNG with the complete recipe in a text chunk."""
    info = PngInfo()
    info.add_text(KEY, json.dumps(recipe))
    buffer = io.BytesIO()
    image.save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def npz_bytes(samples: Tensor, recipe: Mapping[str, Any]) -> bytes:
    """Encode an NPZ with arrays `samples` and `condiff` (the recipe as JSON text); nothing in it is pickled."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, samples=samples.numpy(), condiff=np.array(json.dumps(recipe)))
    return buffer.getvalue()


def recipe_in(path: Path) -> dict[str, Any]:
    """Read the recipe inside a generated PNG or NPZ.

    Raises:
        ValueError: If the file is damaged or carries none.
    """
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays[KEY]) if KEY in arrays else ""
        else:
            with Image.open(path) as image:
                text = str(image.info.get(KEY, ""))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a PNG or NPZ file ({str(error).splitlines()[0][:80]})") from None
    try:
        recipe = json.loads(text) if text else None
    except json.JSONDecodeError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} carries no recipe: it was not generated by condiff, or its text was stripped")
    return recipe


def content_of(path: Path) -> np.ndarray[Any, Any]:
    """Read the pixels of a PNG or the samples of an NPZ."""
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["samples"])
    with Image.open(path) as image:
        return np.asarray(image)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
