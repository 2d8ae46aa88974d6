"""Build the small real data sets that the package carries, from the original files.

    python tools/make_bundled.py SOURCE_DIR [OUT_DIR]

SOURCE_DIR holds `mnist10k.npz`, `verses_kjv_bbe.tsv.xz`, `metro_traffic_hourly.csv.gz`, `mni152_{t1,gm,wm}.nii.gz` and
`mocap/*.json`; `src/condiff/data/bundled/LICENSES.md` says where each comes from and on what terms. The outputs are
byte-for-byte the same on every run, so a rebuild shows in version control only if a source changed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LIMIT = 6 * 1024 * 1024
"""Most bytes that all sets together may weigh in the wheel."""

COPIED = ("mnist10k.npz", "verses_kjv_bbe.tsv.xz", "metro_traffic_hourly.csv.gz")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays as the bytes of an NPZ file without pickles and without the time of day."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a gzipped little-endian NIfTI-1 volume of unsigned bytes.

    Returns: Voxels uint8 (X, Y, Z) and the float64 affine (4, 4) from voxel index to millimetres.

    Raises:
        ValueError: If the file is not such a volume.

    Source: NIfTI-1.1 header, byte offsets 0 (sizeof_hdr), 40 (dim), 70 (datatype), 108 (vox_offset), 112 (scl_slope,
    scl_inter), 254 (sform_code), 280 (srow_x, srow_y, srow_z), 344 (magic).
    """
    raw = gzip.decompress(path.read_bytes())
    if len(raw) < 352 or struct.unpack_from("<i", raw, 0)[0] != 348 or raw[344:347] != b"n+1":
        raise ValueError(f"{path.name}: expected a single-file NIfTI-1 volume")
    dims, x, y, z, frames = struct.unpack_from("<5h", raw, 40)
    datatype = struct.unpack_from("<h", raw, 70)[0]
    offset, slope, intercept = struct.unpack_from("<3f", raw, 108)
    sform = struct.unpack_from("<h", raw, 254)[0]
    if dims != 3 or frames > 1 or datatype != 2 or slope not in (0.0, 1.0) or intercept != 0.0 or sform <= 0:
        raise ValueError(f"{path.name}: expected one uint8 volume without scaling and with an sform")
    voxels = np.frombuffer(raw, np.uint8, count=x * y * z, offset=int(offset)).reshape((x, y, z), order="F")
    affine = np.eye(4)
    affine[:3] = np.frombuffer(raw, "<f4", count=12, offset=280).reshape(3, 4)
    return voxels, affine


def halve(voxels: np.ndarray) -> np.ndarray:
    """Average blocks of 2x2x2 voxels, rounded; an odd last plane is dropped."""
    x, y, z = (n // 2 for n in voxels.shape)
    blocks = voxels[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).astype(np.float64)
    averaged: np.ndarray = np.rint(blocks.mean(axis=(1, 3, 5))).astype(np.uint8)
    return averaged


def brains(source: Path) -> bytes:
    """Pack T1, grey and white matter at 2 mm, on one grid."""
    arrays: dict[str, np.ndarray] = {}
    affines = []
    for name in ("t1", "gm", "wm"):
        voxels, affine = nifti(source / f"mni152_{name}.nii.gz")
        arrays[name] = halve(voxels)
        affines.append(affine)
    if not all(np.array_equal(affine, affines[0]) for affine in affines):
        raise ValueError("the three MNI152 volumes are not on one grid")
    # The centre of the new voxel (0, 0, 0) is the middle of the old voxels 0 and 1 along every axis.
    arrays["affine"] = affines[0] @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    return pack(arrays)


def motions(source: Path) -> bytes:
    """Pack motion-capture clips end to end: frames (T, 43) float32, seconds (T,), names, starts (clips + 1,), loops."""
    names, frames, loops = [], [], []
    for path in sorted((source / "mocap").glob("*.json")):
        clip = json.loads(path.read_text(encoding="utf-8"))
        table = np.asarray(clip["Frames"], dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != 44:
            raise ValueError(f"{path.name}: expected rows of 44 numbers, got shape {table.shape}")
        names.append(path.stem.removeprefix("humanoid3d_"))
        frames.append(table)
        loops.append(clip["Loop"] == "wrap")
    if len(names) != 15:
        raise ValueError(f"expected 15 clips in {source / 'mocap'}, found {len(names)}")
    table = np.concatenate(frames)
    return pack(
        {
            "frames": table[:, 1:].astype(np.float32),
            "seconds": table[:, 0].astype(np.float32),
            "starts": np.cumsum([0, *(len(clip) for clip in frames)]).astype(np.int64),
            "names": np.asarray(names),
            "loops": np.asarray(loops),
        }
    )


def main(arguments: list[str]) -> int:
    """Build every set and print their sizes."""
    if not 1 <= len(arguments) <= 2:
        print("usage: make_bundled.py SOURCE_DIR [OUT_DIR]", file=sys.stderr)
        return 2
    source = Path(arguments[0])
    default = Path(__file__).resolve().parent.parent / "src" / "condiff" / "data" / "bundled"
    out = Path(arguments[1]) if len(arguments) == 2 else default
    out.mkdir(parents=True, exist_ok=True)
    contents = {name: (source / name).read_bytes() for name in COPIED}
    contents["mni152_2mm.npz"] = brains(source)
    contents["mocap.npz"] = motions(source)
    total = sum(map(len, contents.values()))
    for name, content in contents.items():
        print(f"{name:30s} {len(content):9,d} bytes")
    print(f"{'together':30s} {total:9,d} bytes")
    if total > LIMIT:
        raise ValueError(f"the sets weigh {total} bytes, more than the limit of {LIMIT}")
    for name, content in contents.items():
        write(out / name, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
