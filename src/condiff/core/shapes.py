"""Prefix times (law 2) and the two forms in which a coefficient travels.

A time is a tensor whose shape is a *prefix* of the state's shape: `()` shared by the whole batch, `(B,)` per sample,
`(B, T)` per frame, `(B, L)` per token. A coefficient of such a time is either

- a Python float, when the time is shared and its value is known on the host. The update is then one or two fused
  tensor operations, and nothing is read back from the device; or
- a tensor of the time's shape, when rows stand at different levels.

`instant` makes shared times that remember their host value; `coefficients` and `expand` are the only places where the
two forms part ways.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Scalar = float | Tensor
"""A coefficient: a float shared by all rows, or a tensor of the time's prefix shape."""

Num = TypeVar("Num", float, Tensor)
"""A schedule's argument and result: host arithmetic for a float, tensor arithmetic for a tensor."""

Kept = TypeVar("Kept")

_HOST = "_condiff_host"
_KEPT = "_condiff_kept"


def instant(value: float, device: torch.device | str | None = None) -> Tensor:
    """Make a time shared by all rows, shape (), float64, that remembers its value on the host."""
    t = torch.full((), value, dtype=torch.float64, device=device)
    setattr(t, _HOST, float(value))
    return t


def shared(values: Sequence[float], device: torch.device | str | None = None) -> list[Tensor]:
    """Make one time as by `instant` for every value, out of a single tensor."""
    times = list(torch.tensor(values, dtype=torch.float64, device=device).unbind())
    for t, value in zip(times, values, strict=True):
        setattr(t, _HOST, float(value))
    return times


def host(t: Tensor) -> float | None:
    """Return the host value of a time made by `instant`, or None for any other tensor. Never reads the device."""
    value = getattr(t, _HOST, None)
    return value if isinstance(value, float) else None


def known(t: Tensor) -> Scalar:
    """Return the float behind a shared time if the host knows it, else the time itself in float64."""
    value = host(t)
    return t.to(torch.float64) if value is None else value


def keeping(t: Tensor) -> Tensor:
    """Let what is computed from a time be kept with it, for a loop that meets the same tensor again and again.

    Neither the tensor nor anything got from `kept` may be written to.
    """
    setattr(t, _KEPT, {})
    return t


def kept(t: Tensor, name: Hashable, make: Callable[[], Kept]) -> Kept:
    """Return what `make` computes from t; from a time made by `keeping` it is computed once for each name."""
    store: dict[Hashable, Kept] | None = getattr(t, _KEPT, None)
    if store is None:
        return make()
    if name not in store:
        store[name] = make()
    return store[name]


def expand(value: Tensor, x: Tensor) -> Tensor:
    """Reshape a prefix-shaped tensor so that it broadcasts against x.

    Args:
        value: Shape () or a prefix of x.shape.
        x: State, shape (B, *S).

    Returns: value with trailing ones, x.ndim dimensions (or 0).

    Raises:
        ValueError: If value.shape is not a prefix of x.shape.
    """
    if value.ndim == 0:
        return value
    if value.shape != x.shape[: value.ndim]:
        raise ValueError(
            f"a time or coefficient of shape {tuple(value.shape)} is not a prefix of the state's shape "
            f"{tuple(x.shape)}; use () for one time, (B,) per sample, (B, T) per frame"
        )
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def scale(a: Scalar, x: Tensor) -> Tensor:
    """Return a * x in x's dtype; a is a float or a prefix-shaped tensor."""
    if isinstance(a, Tensor):
        return x * expand(a, x).to(x.dtype)
    return x * a


def mix(a: Scalar, x: Tensor, b: Scalar, y: Tensor) -> Tensor:
    """Return a * x + b * y in x's dtype, in two operations; a and b are floats or prefix-shaped tensors.

    Zeros and ones known on the host cost nothing.
    """
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return weigh(a, x, b, y)
    first = x if not isinstance(a, Tensor) and a == 1.0 else scale(a, x)
    if not isinstance(b, Tensor):
        return torch.add(first, y, alpha=b) if b != 0.0 else first
    b = expand(b, y).to(y.dtype)
    # A product made here may be written to: batches of a training step are large, and a new one costs its pages.
    return first.addcmul_(y, b) if first is not x and y.dtype is first.dtype else torch.addcmul(first, y, b)


def weigh(a: float, x: Tensor, b: float, y: Tensor) -> Tensor:
    """Return a * x + b * y by numbers known on the host."""
    if b == 0.0:
        return x if a == 1.0 else x * a
    if a == 0.0:
        return y if b == 1.0 else y * b
    if a == 1.0:
        return torch.add(x, y, alpha=b)
    if b == 1.0:
        return torch.add(y, x, alpha=a)
    if 0.5 <= a <= 2.0:
        # Two sums cost less than a product with a number, which is first made a tensor; a - 1 is exact on this range.
        return torch.add(x, y, alpha=b).add_(x, alpha=a - 1.0)
    return (x * a).add_(y, alpha=b)
