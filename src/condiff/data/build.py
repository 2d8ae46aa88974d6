"""Gathered examples as three data sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.data.batch import Dataset, Splits
from condiff.data.cells import Conditions
from condiff.data.splits import PARTS


def build(
    data: Tensor, conditions: Conditions, parts: NDArray[np.int8], *, name: str, kind: str, meta: dict[str, object]
) -> Splits:
    """Cut gathered examples into the three parts.

    Args:
        data: All examples, (N, *S), in model range.
        conditions: Their conditions, N rows each.
        parts: Split code of every row.
        name: Name of the set.
        kind: As in `Dataset`.
        meta: JSON-able facts that hold for all parts.
    """
    whole = Dataset(
        data,
        conditions.values,
        conditions.present,
        name=name,
        kind=kind,
        labels=conditions.labels,
        meta={**meta, "conditions": conditions.meta},
    )
    train, validation, test = (
        replace(part, meta={**part.meta, "split": PARTS[code]})
        for code, part in enumerate(whole.where(torch.from_numpy(np.flatnonzero(parts == code))) for code in range(3))
    )
    return Splits(train, validation, test)
