"""What crosses the socket: frames with a number and a capture time, and pictures that are safe to open.

A binary message, either way, is a header of 20 bytes in network order and an encoded picture:

| bytes | what |
|---|---|
| 4 | `CDF1` |
| 4 | number of the frame, unsigned |
| 8 | when it was captured, by the sender's clock, as a double; it comes back unchanged |
| 1 | 0 a new picture, 1 the last one again because the input stood still |
| 3 | zero |

Text messages are JSON objects with a `type`.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

HEADER = struct.Struct(">4sIdB3x")
MAGIC = b"CDF1"
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4_194_304
"""Pictures of more pixels are refused before they are decoded."""


@final
@dataclass(frozen=True, slots=True)
class Message:
    """A frame as it crosses the socket.

    Args:
        frame: Its number.
        captured: When it was captured, by the clock of its source.
        picture: The encoded picture; empty where only a new frame is asked for.
        again: Whether it repeats the picture before.
    """

    frame: int
    captured: float
    picture: bytes = b""
    again: bool = False


def pack(message: Message) -> bytes:
    """Return the binary message."""
    return HEADER.pack(MAGIC, message.frame, message.captured, int(message.again)) + message.picture


def unpack(data: bytes) -> Message:
    """Read a binary message.

    Raises:
        ValueError: If it is none.
    """
    if len(data) < HEADER.size:
        raise ValueError(f"a frame starts with a header of {HEADER.size} bytes, got {len(data)} in all")
    magic, frame, captured, again = HEADER.unpack_from(data)
    if magic != MAGIC or again > 1 or data[HEADER.size - 3 : HEADER.size] != b"\0\0\0":
        raise ValueError("this is no frame: it does not start as one")
    if not math.isfinite(captured):
        raise ValueError("the capture time of a frame must be a finite number")
    return Message(frame, captured, data[HEADER.size :], bool(again))


def opened(picture: bytes, shape: tuple[int, int, int]) -> Tensor:
    """Decode a picture and fit it to (C, H, W).

    Args:
        picture: PNG, JPEG or WebP.
        shape: Wanted channels, 1 or 3, height and width; the middle of the picture is cut out in their ratio.

    Returns: (1, C, H, W), float32 in [-1, 1].

    Raises:
        ValueError: If it is none of these, damaged, or larger than `MAX_PIXELS`.
    """
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"a frame of {image.width}x{image.height} is larger than {MAX_PIXELS:,} pixels")
            image.draft("L" if channels == 1 else "RGB", (4 * width, 4 * height))
            cut = min(image.width / width, image.height / height)
            left, top = (image.width - cut * width) / 2, (image.height - cut * height) / 2
            box = (left, top, left + cut * width, top + cut * height)
            fitted = _plain(image, channels).resize((width, height), Image.Resampling.BOX, box)
            values = np.asarray(fitted, np.float32).reshape(height, width, channels)
    except ValueError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a frame is no readable PNG, JPEG or WebP ({type(error).__name__})") from None
    return torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1.0


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Return the picture in grey or colour, what is transparent in it being black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def encoded(made: Tensor) -> bytes:
    """Encode one picture (1, C, H, W) in [-1, 1]: PNG while it is small, where JPEG would smear it, else JPEG."""
    from condiff.tasks.pictures import picture, pixels

    image, buffer = picture(pixels(made.float().cpu())[0]), io.BytesIO()
    if image.width * image.height <= 128 * 128:
        image.save(buffer, "png", compress_level=1)
    else:
        image.save(buffer, "jpeg", quality=90)
    return buffer.getvalue()
