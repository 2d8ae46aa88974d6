"""History of multistep solvers: batch-major leaves that say for each row how far back it reaches.

A time leaf is nan where a row has no history yet, so a fresh row takes a first-order step whatever its neighbours do.
Leaves written by a shared step remember their value on the host; picking rows makes ordinary tensors of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from condiff.core.shapes import Scalar, host, instant


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


def finite_or_zero(value: Scalar) -> Scalar:
    """Return value where it is finite, and 0 where it is infinite or nan (no history, or an end of the clock)."""
    if isinstance(value, Tensor):
        return torch.where(torch.isfinite(value), value, 0.0)
    return value if abs(value) < math.inf else 0.0  # a graph that holds value as a symbol cannot trace math.isfinite


def choose(where: Tensor | bool, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` where the condition holds, else `no`, in host or tensor arithmetic."""
    if isinstance(where, Tensor):
        return torch.where(where, torch.as_tensor(yes, dtype=torch.float64), torch.as_tensor(no, dtype=torch.float64))
    return yes if where else no


def divide(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b, and 0 where that is not finite."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return finite_or_zero(torch.as_tensor(a, dtype=torch.float64) / torch.as_tensor(b, dtype=torch.float64))
    return finite_or_zero(a / b) if b != 0.0 and abs(b) < math.inf else 0.0


def missing(value: Scalar) -> Tensor | bool:
    """Tell where a time read from a leaf says "no history"."""
    return torch.isnan(value) if isinstance(value, Tensor) else value != value
