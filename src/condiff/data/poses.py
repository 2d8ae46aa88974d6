"""The bundled motion-capture clips: frames of joint rotations, and joint positions by forward kinematics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.data import resource
from condiff.data.batch import Dataset, Splits
from condiff.data.splits import PARTS, borders

SHARES = (0.65, 0.1)
"""Shares of train and validation along every clip; the rest is test."""

JOINTS = (
    "root", "chest", "neck",
    "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow", "right_wrist",
    "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip

PARENTS = (-1, 0, 1, 0, 3, 4, 1, 6, 7, 0, 9, 10, 1, 12, 13)
"""Parent of every joint; a parent comes before its children."""

OFFSETS = np.array(
    [
        (0, 0, 0), (0, 0.944604, 0), (0, 0.895576, 0),
        (0, 0, 0.339548), (0, -1.686184, 0), (0, -1.639480, 0),
        (-0.096200, 0.974000, 0.732440), (0, -1.099152, 0), (0, -1.035788, 0),
        (0, 0, -0.339548), (0, -1.686184, 0), (0, -1.639480, 0),
        (-0.096200, 0.974000, -0.732440), (0, -1.099152, 0), (0, -1.035788, 0),
    ]
) / 4  # fmt: skip
"""Place of every joint in the frame of its parent, in metres: y up, x ahead, z to the right (the source is in quarter
metres)."""

_QUATERNIONS = {0: 3, 1: 7, 2: 11, 3: 15, 5: 20, 6: 24, 9: 29, 11: 34, 12: 38}
_ANGLES = {4: 19, 7: 28, 10: 33, 13: 42}


@final
@dataclass(frozen=True, slots=True)
class Clip:
    """One motion.

    Args:
        name: What the person does.
        frames: Root position (3 numbers, metres), then rotations in the frame of the parent: quaternions (w, x, y, z)
            of root, chest, neck, hips, ankles and shoulders, one angle about z for knees and elbows; float32 (T, 43).
        seconds: How long every frame lasts, float32 (T,); the last may be 0.
        loops: Does the motion repeat?
    """

    name: str
    frames: NDArray[np.float32]
    seconds: NDArray[np.float32]
    loops: bool


@lru_cache(maxsize=1)
def clips() -> tuple[Clip, ...]:
    """Load the 15 clips, 1,620 frames together.

    Source: Peng et al. 2018 (DeepMimic, MIT), by way of pybullet (zlib); notices in `bundled/LICENSES.md`.
    """
    arrays = resource.arrays("mocap.npz")
    starts = arrays["starts"].astype(np.int64).tolist()
    return tuple(
        Clip(
            str(name),
            arrays["frames"][start:stop].astype(np.float32),
            arrays["seconds"][start:stop].astype(np.float32),
            bool(loops),
        )
        for name, loops, start, stop in zip(arrays["names"], arrays["loops"], starts[:-1], starts[1:], strict=True)
    )


def positions(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Place the joints: p_j = p_parent + R_parent o_j with R_j = R_parent r_j.

    Args:
        frames: Rows as in `Clip`, (T, 43).

    Returns: Joint positions in metres, y up, float64 (T, 15, 3).

    Raises:
        ValueError: If a row has not 43 numbers.
    """
    if frames.ndim != 2 or frames.shape[1] != 43:
        raise ValueError(f"expected frames of shape (T, 43), got {frames.shape}")
    table = frames.astype(np.float64)
    place = np.zeros((len(table), len(JOINTS), 3))
    turn = np.zeros((len(table), len(JOINTS), 3, 3))
    for joint, parent in enumerate(PARENTS):
        own = _rotation(table, joint)
        if parent < 0:
            place[:, joint], turn[:, joint] = table[:, :3], own
        else:
            place[:, joint] = place[:, parent] + turn[:, parent] @ OFFSETS[joint]
            turn[:, joint] = turn[:, parent] @ own
    return place


def mocap() -> Splits:
    """Load single poses: joints relative to the root, scaled to unit variance; condition "label" is the clip.

    Data (N, 15, 3) float32: (positions - root) / scale, scale in `meta["scale"]` in metres. The start of every clip is
    train, then validation, its end test.
    """
    train = np.concatenate([_relative(clip)[: borders(len(clip.frames), *SHARES)[0]] for clip in clips()])
    scale = float(train.std())

    def part(code: int) -> Dataset:
        rows, labels = [], []
        for number, clip in enumerate(clips()):
            edges = (0, *borders(len(clip.frames), *SHARES), len(clip.frames))
            rows.append(_relative(clip)[edges[code] : edges[code + 1]])
            labels += [number] * len(rows[-1])
        return Dataset(
            torch.from_numpy((np.concatenate(rows) / scale).astype(np.float32)),
            {"label": torch.tensor(labels)},
            {"label": torch.ones(len(labels), dtype=torch.bool)},
            name="mocap",
            kind="poses",
            labels={"label": tuple(clip.name for clip in clips())},
            meta={
                "source": "mocap",
                "split": PARTS[code],
                "split_rule": "65/10/25 % of every clip by time",
                "joints": list(JOINTS),
                "parents": list(PARENTS),
                "scale": scale,
                "conditions": {"label": {"kind": "class", "num_classes": len(clips())}},
            },
        )

    return Splits(part(0), part(1), part(2))


def _relative(clip: Clip) -> NDArray[np.float64]:
    place = positions(clip.frames)
    return place - place[:, :1]


def _rotation(table: NDArray[np.float64], joint: int) -> NDArray[np.float64]:
    """Rotation of a joint in the frame of its parent, (T, 3, 3)."""
    zero, one = np.zeros(len(table)), np.ones(len(table))
    if joint in _ANGLES:
        half = table[:, _ANGLES[joint]] / 2
        w, x, y, z = np.cos(half), zero, zero, np.sin(half)
    elif joint in _QUATERNIONS:
        start = _QUATERNIONS[joint]
        quaternion = table[:, start : start + 4]
        w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    else:
        w, x, y, z = one, zero, zero, zero
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
