"""Data: the one in-memory type, readers of people's own files, the small real sets in the package, and the inspection.

Names are loaded when first used: looking at a folder (`condiff.data.inspect`) must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condiff.data.alphabet import Alphabet, BytePairs, Bytes, Characters
    from condiff.data.batch import Dataset, Splits, batch_index, permutation
    from condiff.data.inspect import Inspection, sniff
    from condiff.data.readers import read, read_like

__all__ = [
    "Alphabet",
    "BytePairs",
    "Bytes",
    "Characters",
    "Dataset",
    "Inspection",
    "Splits",
    "batch_index",
    "permutation",
    "read",
    "read_like",
    "sniff",
]

_HOMES = {
    "Alphabet": "alphabet",
    "BytePairs": "alphabet",
    "Bytes": "alphabet",
    "Characters": "alphabet",
    "Dataset": "batch",
    "Inspection": "inspect",
    "Splits": "batch",
    "batch_index": "batch",
    "permutation": "batch",
    "read": "readers",
    "read_like": "readers",
    "sniff": "inspect",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    if name in _HOMES:
        return getattr(import_module(f"condiff.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'condiff.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
