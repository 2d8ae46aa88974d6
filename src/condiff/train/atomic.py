"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill or a full disk leaves the previous one whole.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise named(error, path) from None
    sync_folder(path.parent)


def named(error: BaseException, path: Path) -> BaseException:
    """Say which file a full disk or a locked folder kept from being written; writing alone does not name it."""
    if not isinstance(error, OSError):
        return error
    reason = (error.strerror or str(error)).rstrip(".")
    return type(error)(error.errno, f"{reason}: could not be written, what was there before is untouched", str(path))


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a rename in it survives a power cut."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename itself is still atomic
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
