"""The bundled handwritten digits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from condiff.data import resource
from condiff.data.batch import Dataset, Splits
from condiff.data.splits import DIGITS


@lru_cache(maxsize=1)
def digits() -> Splits:
    """Load 10,000 MNIST digits: 8,000 train, 1,000 validation, 1,000 test.

    Data (N, 1, 28, 28) float32 in [-1, 1], 1 = ink; condition "label" int64 (N,).

    Source: LeCun, Cortes and Burges (CC BY-SA 3.0); see `bundled/LICENSES.md`.
    """
    arrays = resource.arrays("mnist10k.npz")
    images = torch.from_numpy(arrays["images"].astype(np.float32)[:, None] / 127.5 - 1)
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    validation, test = DIGITS

    def part(name: str, start: int, stop: int) -> Dataset:
        return Dataset(
            images[start:stop],
            {"label": labels[start:stop]},
            {"label": torch.ones(stop - start, dtype=torch.bool)},
            name="digits",
            kind="images",
            labels={"label": tuple("0123456789")},
            meta={
                "source": "digits",
                "split": name,
                "split_rule": f"rows {start} to {stop - 1}",
                "range": [-1.0, 1.0],
                "from_range": [0.0, 255.0],
                "conditions": {"label": {"kind": "class", "num_classes": 10}},
            },
        )

    return Splits(part("train", 0, validation), part("validation", validation, test), part("test", test, len(images)))


@lru_cache(maxsize=1)
def digits8() -> Splits:
    """Load the same digits at 8x8, for experiments in seconds: data (N, 1, 8, 8), everything else as in `digits`."""
    whole = digits()

    def small(part: Dataset) -> Dataset:
        return replace(part, data=shrink(part.data), name="digits8", meta={**part.meta, "source": "digits8"})

    return Splits(small(whole.train), small(whole.validation), small(whole.test))


def shrink(images: Tensor) -> Tensor:
    """Shrink digits (N, 1, 28, 28) to (N, 1, 8, 8): a black border of 2 pixels, then the mean of every 4x4 block."""
    return functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), value=-1.0), 4)
