"""The bundled brain volumes: three co-registered pictures of one average head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.data import resource
from condiff.data.batch import Dataset, Splits
from condiff.data.splits import PARTS

MODALITIES = ("t1", "gm", "wm")

SLABS = ((45, 104), (13, 29), (29, 45))
"""Planes [start, stop) along y of train, validation and test; the brain fills planes 13 to 103, back to front."""


@lru_cache(maxsize=1)
def atlas() -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
    """Load the ICBM 152 atlas (2009a) at 2 mm.

    Returns: T1 image "t1", grey matter "gm" and white matter "wm", each uint8 (98, 116, 94), and the affine (4, 4) from
    voxel to millimetre.

    Source: Fonov et al. 2011, McConnell Brain Imaging Centre; notice in `bundled/LICENSES.md`. Not for clinical use.
    """
    arrays = resource.arrays("mni152_2mm.npz")
    return {name: arrays[name].astype(np.uint8) for name in MODALITIES}, arrays["affine"].astype(np.float64)


def mni152(
    size: int = 16,
    stride: int | None = None,
    targets: Sequence[str] = ("t1",),
    inputs: Sequence[str] = ("gm", "wm"),
    filled: float = 0.5,
) -> Splits:
    """Load cubic patches of the atlas: one modality from the others.

    Data (N, targets, size, size, size) float32 in [-1, 1]; condition "input" (N, inputs, size, size, size) likewise.
    Patches of the three parts lie in different slabs (`SLABS`), so no voxel is in two parts.

    Args:
        size: Edge of a patch in voxels of 2 mm, 1 to 16 (the thinnest slab).
        stride: Voxels from one patch to the next; half the size if None.
        targets: Modalities to be generated, of "t1", "gm", "wm".
        inputs: Modalities that are given; empty for no condition.
        filled: Least share of a patch that is brain, in [0, 1].

    Raises:
        ValueError: If an argument is out of range or a modality is unknown.
    """
    step = max(size // 2, 1) if stride is None else stride
    thin = min(stop - start for start, stop in SLABS)
    if not 1 <= size <= thin or step < 1 or not 0 <= filled <= 1:
        raise ValueError(
            f"need size in 1..{thin}, stride >= 1 and filled in [0, 1], got size={size}, stride={step}, filled={filled}"
        )
    unknown = sorted({*targets, *inputs} - set(MODALITIES))
    if unknown or not targets:
        raise ValueError(f"modalities are {', '.join(MODALITIES)}; got targets {targets} and inputs {inputs}")
    voxels, affine = atlas()
    brain = voxels["t1"] > 0

    def part(code: int) -> Dataset:
        start, stop = SLABS[code]
        corners = [
            (x, y, z)
            for x in range(0, brain.shape[0] - size + 1, step)
            for y in range(start, stop - size + 1, step)
            for z in range(0, brain.shape[2] - size + 1, step)
            if brain[x : x + size, y : y + size, z : z + size].mean() >= filled
        ]

        def cut(names: Sequence[str]) -> torch.Tensor:
            rows = np.empty((len(corners), len(names), size, size, size), np.float32)
            for row, (x, y, z) in zip(rows, corners, strict=True):
                for channel, name in zip(row, names, strict=True):
                    channel[...] = voxels[name][x : x + size, y : y + size, z : z + size] / 127.5 - 1
            return torch.from_numpy(rows)

        given = {"input": cut(inputs)} if inputs else {}
        return Dataset(
            cut(targets),
            given,
            {name: torch.ones(len(corners), dtype=torch.bool) for name in given},
            name="mni152",
            kind="volumes",
            meta={
                "source": "mni152",
                "split": PARTS[code],
                "split_rule": f"planes {start} to {stop - 1} along y",
                "range": [-1.0, 1.0],
                "from_range": [0.0, 255.0],
                "channels": list(targets),
                "affine": affine.tolist(),
                "corners": [list(corner) for corner in corners],
                "conditions": {"input": {"kind": "picture", "channels": list(inputs)}} if inputs else {},
            },
        )

    return Splits(part(0), part(1), part(2))
