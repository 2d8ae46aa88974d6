from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serve.conftest import png

from condiff.serve.wire import HEADER, Message, encoded, opened, pack, unpack


@given(
    frame=st.integers(0, 2**32 - 1),
    captured=st.floats(allow_nan=False, allow_infinity=False),
    picture=st.binary(max_size=40),
    again=st.booleans(),
)
def test_messages_come_back(frame, captured, picture, again):
    message = Message(frame, captured, picture, again)
    assert unpack(pack(message)) == message


def test_the_header_by_hand():
    assert pack(Message(1, 0.5, b"x")) == b"CDF1" + b"\0\0\0\1" + struct.pack(">d", 0.5) + b"\0\0\0\0" + b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"CDF1",
        b"x" * 20,
        pack(Message(1, 1.0))[:-1],
        b"CDF1" + b"\0" * 12 + b"\2\0\0\0",
        b"CDF1" + b"\0" * 12 + b"\0\0\0\1",
        HEADER.pack(b"CDF1", 0, math.nan, 0),
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match="frame"):
        unpack(data)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data):
    try:
        opened(unpack(data).picture, (1, 4, 4))
    except ValueError:
        return


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_fitted(kind, channels):
    frame = opened(png((33, 17), 255, kind), (channels, 8, 12))
    assert frame.shape == (1, channels, 8, 12)
    assert frame.min() > 0.98


def test_the_middle_is_cut_out_and_numbers_are_right():
    image = np.zeros((4, 8), np.uint8)
    image[:, 2:6] = 255
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    assert torch.equal(opened(buffer.getvalue(), (1, 4, 4)), torch.ones(1, 1, 4, 4))
    assert torch.equal(opened(png((4, 4), 0), (1, 4, 4)), -torch.ones(1, 1, 4, 4))


def test_what_is_transparent_is_black():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(buffer, "png")
    assert torch.equal(opened(buffer.getvalue(), (1, 4, 4)), -torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff"])
def test_other_formats_are_refused(kind):
    with pytest.raises(ValueError, match="no readable"):
        opened(png(kind=kind), (1, 8, 8))


def bomb(width, height):
    """A PNG that says it is huge and whose data are few."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (2049, 2049), (20_000, 20_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_they_are_decoded(size, monkeypatch):
    def load(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ValueError, match="larger than|no readable"):
        opened(bomb(*size), (1, 8, 8))


@pytest.mark.parametrize("cut", [10, 30, 60])
def test_truncated_pictures_are_refused(cut):
    with pytest.raises(ValueError, match="no readable"):
        opened(png((64, 64), 7)[:cut], (1, 8, 8))


def test_small_pictures_are_sent_without_loss():
    made = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    again = opened(encoded(made), (1, 8, 8))
    assert (again - made).abs().max() <= 1 / 255 + 1e-6
    assert encoded(torch.zeros(1, 3, 200, 200))[:2] == b"\xff\xd8"
