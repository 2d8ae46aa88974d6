"""Recordings of a stream as MP4 (extra `[video]`)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from condiff.tasks.pictures import pixels


def mp4(frames: Sequence[Tensor], fps: int = 15) -> bytes:
    """Encode pictures (1, C, H, W) in [-1, 1], small ones enlarged by a whole factor, as H.264 in an MP4.

    Raises:
        ModuleNotFoundError: If PyAV is not installed.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        for frame in frames:
            image = pixels(frame.float().cpu())[0]
            image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image
            factor = max(1, 256 // max(image.shape[:2]))
            image = image.repeat(factor, 0).repeat(factor, 1)
            height, width = (size // 2 * 2 for size in image.shape[:2])
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
