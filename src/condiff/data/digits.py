"""The bundled handwritten digits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

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
