"""History of multistep solvers: batch-major leaves that say for each row how far back it reaches.

A time leaf is nan where a row has no history yet, so a fresh row takes a first-order step whatever its neighbours do.
Leaves written by a shared step remember their value on the host; picking rows makes ordinary tensors of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from condiff.core.shapes import host, instant


def blank(x: Tensor, t: Tensor) -> Tensor:
    """Return a time leaf that says "no history", nan of shape (B,) or of t's shape if that is longer."""
    if t.ndim > 1:
        return torch.full(t.shape, torch.nan, dtype=torch.float64, device=x.device)
    return _spread(instant(math.nan, x.device), x)


def stamp(t: Tensor, x: Tensor) -> Tensor:
    """Return t as a time leaf of shape (B,), or of its own shape if that is longer."""
    return _spread(t, x) if t.ndim == 0 else t.to(torch.float64)


def _spread(t: Tensor, x: Tensor) -> Tensor:
    leaf = t.expand(x.shape[0])
    value = host(t)
    if value is not None:
        leaf._condiff_host = value  # type: ignore[attr-defined]  # torch tensors carry attributes; see core.shapes.instant
    return leaf
