from __future__ import annotations

import io

import pytest
import torch

from condiff.serve.record import mp4

av = pytest.importorskip("av", reason="extra [video]")


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 28, 28), (252, 252)), ((3, 17, 23), (252, 186)), ((3, 300, 301), (300, 300))]
)
def test_recordings_hold_every_frame_enlarged_by_a_whole_factor(shape, size):
    """As many frames as were recorded, even sides, and the brightness that was in them."""
    frames = [torch.full((1, *shape), level) for level in (-1.0, 0.0, 1.0, 1.0)]
    with av.open(io.BytesIO(mp4(frames, 10))) as video:
        found = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    assert len(found) == 4
    assert found[0].shape == (size[1], size[0])
    assert found[0].mean() < 30 < 90 < found[1].mean() < 170 < 225 < found[3].mean()
