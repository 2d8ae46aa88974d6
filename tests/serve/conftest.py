from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from condiff.core import ClassLabel
from condiff.core.condition import schema_to_json
from condiff.recipes import streamdiffusion


def small():
    """A stream of 8x8 pictures in two classes, untrained: what it makes is wrong, how it is made is not."""
    torch.manual_seed(0)
    conditions = schema_to_json({"label": ClassLabel(3, ("cat", "dog", "owl"))})
    return streamdiffusion(shape=(1, 8, 8), size="flat", conditions=conditions)


@pytest.fixture(scope="session")
def system():
    return small()


def png(size=(8, 8), value=128, kind="png", mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, kind)
    return buffer.getvalue()
