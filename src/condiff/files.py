"""Systems on disk: a checkpoint names its recipe, and loading calls that again."""

from __future__ import annotations

import os
from typing import Any

from condiff.core.system import System
from condiff.recipes import find
from condiff.train import checkpoint


def load(path: str | os.PathLike[str]) -> System[Any, Any]:
    """Load a system from a run folder, a checkpoint folder or a single safetensors file.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If the file is damaged, of a newer format, or of a recipe that is not installed.
    """
    return checkpoint.load(path, find)


def save(system: System[Any, Any], path: str | os.PathLike[str]) -> None:
    """Save a system made by a recipe to a single safetensors file, which is enough by itself.

    Raises:
        ValueError: If the system was not made by a recipe.
    """
    checkpoint.save(system, path)
