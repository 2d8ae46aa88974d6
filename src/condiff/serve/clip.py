"""A clip of real digits to try a stream with: each stands still for a while, then turns into the next."""

from __future__ import annotations

import torch
from torch import Tensor

from condiff.data import read
from condiff.tasks.pictures import picture, pixels


def still_clip(digits: Tensor, length: int) -> Tensor:
    """Make a clip (length, C, H, W) of pictures (N, C, H, W): seven frames of each, then three on the way on."""
    frames = []
    for k in range(length):
        at, phase = divmod(k, 10)
        here, there = digits[at % len(digits)], digits[(at + 1) % len(digits)]
        share = max(0, phase - 6) / 4
        frames.append((1 - share) * here + share * there)
    return torch.stack(frames)


def strip(shape: tuple[int, int, int], length: int = 120) -> bytes:
    """Encode a clip of bundled test digits, fitted to (C, H, W), as one PNG with a frame under the other."""
    import io

    channels, height, width = shape
    clip = still_clip(read("digits").test.data[: length // 10 + 1], length)
    fitted = torch.nn.functional.interpolate(clip, (height, width), mode="bilinear", antialias=True)
    whole = fitted.expand(-1, channels, -1, -1).transpose(0, 1).flatten(1, 2)[None]
    buffer = io.BytesIO()
    picture(pixels(whole.clamp(-1.0, 1.0))[0]).save(buffer, "png")
    return buffer.getvalue()
