"""The files of the bundled sets, wherever the package is installed."""

from __future__ import annotations

import io
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

NAMES = ("digits", "digits8", "kjv", "mni152", "mocap", "phrases", "traffic", "verses")
"""Names of the bundled sets that `read` accepts in place of a path."""


def content(file: str) -> bytes:
    """Bytes of a bundled file.

    Raises:
        FileNotFoundError: If the installation lacks it.
    """
    resource = files("condiff.data").joinpath("bundled", file)
    try:
        return resource.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the bundled file {file} is missing from this installation of condiff; install the package again"
        ) from None


def arrays(file: str) -> dict[str, NDArray[np.generic]]:
    """Arrays of a bundled NPZ file, without pickles."""
    with np.load(io.BytesIO(content(file)), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
