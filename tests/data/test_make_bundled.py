"""The tool that builds the bundled sets: its NIfTI reader and its averaging."""

from __future__ import annotations

import gzip
import importlib.util
import io
import itertools
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "tools" / "make_bundled.py"
    spec = importlib.util.spec_from_file_location("make_bundled", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def volume(path: Path, voxels: np.ndarray, affine: np.ndarray, datatype: int = 2) -> None:
    """Write a NIfTI-1 file by hand."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape, 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, datatype)
    struct.pack_into("<3f", header, 108, 352.0, 1.0, 0.0)
    struct.pack_into("<h", header, 254, 2)
    header[280:328] = affine[:3].astype("<f4").tobytes()
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header) + voxels.astype(np.uint8).tobytes(order="F")))


def test_volumes_are_read_averaged_and_stay_in_place(tool: ModuleType, tmp_path: Path) -> None:
    voxels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5, 4, 6), np.uint8)
    affine = np.array([[1, 0, 0, -98], [0, 1.5, 0, -134], [0, 0, 2, -72], [0, 0, 0, 1]], float)
    for name in ("t1", "gm", "wm"):
        volume(tmp_path / f"mni152_{name}.nii.gz", voxels, affine)
    read, placed = tool.nifti(tmp_path / "mni152_t1.nii.gz")
    np.testing.assert_array_equal(read, voxels)
    np.testing.assert_array_equal(placed, affine)
    with np.load(io.BytesIO(tool.brains(tmp_path)), allow_pickle=False) as packed:
        assert packed["gm"].shape == (2, 2, 3)
        block = voxels[2:4, 0:2, 4:6]
        assert packed["gm"][1, 0, 2] == np.rint(block.mean())
        corners = [affine @ [2 + i, j, 4 + k, 1] for i, j, k in itertools.product((0, 1), repeat=3)]
        np.testing.assert_allclose(packed["affine"] @ [1, 0, 2, 1], np.mean(corners, axis=0))
    assert tool.brains(tmp_path) == tool.brains(tmp_path)  # byte for byte


def test_other_volumes_are_refused(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    volume(path, np.zeros((2, 2, 2)), np.eye(4), datatype=16)
    with pytest.raises(ValueError, match="expected one uint8 volume"):
        tool.nifti(path)
    path.write_bytes(gzip.compress(b"short"))
    with pytest.raises(ValueError, match="expected a single-file NIfTI-1"):
        tool.nifti(path)
