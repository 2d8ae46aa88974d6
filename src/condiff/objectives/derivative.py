"""Forward-mode derivatives of a network along a direction, as the losses of flow maps need them."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def along(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return a function's value and its derivative along tangents, in the type of its arguments without autocast.

    Args:
        function: Called as function(*at).
        at: Where.
        tangents: A direction for every argument, of its shape and type.
    """
    _load()
    with torch.autocast(at[0].device.type, enabled=False):
        value, slope, *_ = torch.func.jvp(function, at, tangents)
    return value, slope


@functools.cache
def _load() -> None:
    """Load torch's own forward-mode rules once, which torch does with a deprecation warning nobody can act upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")
