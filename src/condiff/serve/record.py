"""Recordings of a stream as MP4 (extra `[video]`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from condiff.tasks.pictures import pixels


def mp4(frames: Sequence[Tensor], fps: int = 15) -> bytes:
    """Encode pictures (1, C, H, W) in [-1, 1], small ones enlarged by a whole factor, as VP9 in an MP4.

    VP9 and not H.264: browsers play both, and its encoder is free of the GPL.

    Raises:
        ModuleNotFoundError: If PyAV is not installed.
    """
    import av

    images = [_coloured(frame) for frame in frames]
    height, width = (size // 2 * 2 for size in images[0].shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libvpx-vp9", rate=fps, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def _coloured(frame: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = pixels(frame.float().cpu())[0]
    image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image
    factor = max(1, 256 // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)
