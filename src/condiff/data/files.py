"""Opening people's own files: compressed or not, with errors that name the file, what was expected and what to do."""

from __future__ import annotations

import difflib
import gzip
import lzma
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from condiff.data.resource import NAMES

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"})
TABLES = frozenset({".csv"})
TEXTS = frozenset({".txt", ".tsv", ".jsonl"})
ARRAYS = frozenset({".npz"})
KNOWN = IMAGES | TABLES | TEXTS | ARRAYS
"""Endings that the readers understand, before any .gz or .xz."""


def ending(path: Path) -> str:
    """Lower-case ending of a file without .gz or .xz: ".csv" for both `a.csv` and `A.CSV.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in (".gz", ".xz"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def existing(path: str | os.PathLike[str]) -> Path:
    """Path of something that is there.

    Raises:
        FileNotFoundError: If nothing is at the path; names the nearest existing neighbour or bundled set.
    """
    place = Path(path)
    if place.exists():
        return place
    folder = place.parent if place.parent.is_dir() else None
    names = [*(sorted(entry.name for entry in folder.iterdir()) if folder else ()), *NAMES]
    near = difflib.get_close_matches(place.name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"give a path, or a bundled set: {', '.join(NAMES)}"
    raise FileNotFoundError(f"{place}: no such file or folder; {hint}")


def entries(folder: Path) -> list[Path]:
    """Visible files and folders inside a folder, sorted by name so that no file system order matters."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")))


def content(path: Path) -> bytes:
    """Bytes of a file, unpacked if it ends in .gz or .xz.

    Raises:
        ValueError: If the file is damaged or cut short.
    """
    suffix = path.suffix.lower()
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if suffix == ".gz" else lzma.decompress(raw) if suffix == ".xz" else raw
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or cut short as a {suffix} file ({error}); copy or pack it again") from None


def text(path: Path) -> str:
    """Text of a UTF-8 file, unpacked if needed, without a byte-order mark and with plain newlines.

    Raises:
        ValueError: If the bytes are damaged or not UTF-8.
    """
    raw = content(path)
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, but byte {error.start} is 0x{raw[error.start]:02x}; save the file as UTF-8"
        ) from None
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def listed(names: Sequence[object], most: int = 3) -> str:
    """Name the first few and count the rest: "a, b, c and 4 more"."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def memory() -> int | None:
    """Free memory of this machine in bytes, or None where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(path: Path, needed: int, remedy: str) -> None:
    """Refuse to start what cannot fit.

    Raises:
        ValueError: If more bytes are needed than the machine has free.
    """
    free = memory()
    if free is not None and needed > free:
        raise ValueError(
            f"{path}: needs {needed / 2**20:,.0f} MiB of memory, but {free / 2**20:,.0f} MiB are free; {remedy}"
        )
