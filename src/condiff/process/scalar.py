"""Elementary functions for schedules, in host arithmetic for floats and tensor arithmetic for tensors.

Limits are returned instead of raised (log 0 = -inf, 1 / 0 = inf), so that both kinds agree at the ends of time.
"""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

from condiff.core.shapes import Num, Scalar


@overload
def exp(x: float) -> float: ...
@overload
def exp(x: Tensor) -> Tensor: ...
def exp(x: Scalar) -> Scalar:
    """Return e^x."""
    if isinstance(x, Tensor):
        return torch.exp(x)
    return math.exp(x) if x < 709.0 else math.inf


@overload
def expm1(x: float) -> float: ...
@overload
def expm1(x: Tensor) -> Tensor: ...
def expm1(x: Scalar) -> Scalar:
    """Return e^x - 1 without cancellation."""
    if isinstance(x, Tensor):
        return torch.expm1(x)
    return math.expm1(x) if x < 709.0 else math.inf


@overload
def log(x: float) -> float: ...
@overload
def log(x: Tensor) -> Tensor: ...
def log(x: Scalar) -> Scalar:
    """Return log x; -inf at 0."""
    if isinstance(x, Tensor):
        return torch.log(x)
    return math.log(x) if x > 0.0 else -math.inf


@overload
def sqrt(x: float) -> float: ...
@overload
def sqrt(x: Tensor) -> Tensor: ...
def sqrt(x: Scalar) -> Scalar:
    """Return the square root."""
    return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)


def sin(x: Num) -> Num:
    """Return the sine."""
    return torch.sin(x) if isinstance(x, Tensor) else math.sin(x)


def cos(x: Num) -> Num:
    """Return the cosine."""
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)


def asin(x: Num) -> Num:
    """Return the arc sine of x in [-1, 1]; values out of range by rounding are clipped."""
    if isinstance(x, Tensor):
        return torch.asin(x.clamp(-1.0, 1.0))
    return math.asin(max(-1.0, min(1.0, x)))


def atan(x: Num) -> Num:
    """Return the arc tangent."""
    return torch.atan(x) if isinstance(x, Tensor) else math.atan(x)


@overload
def ratio(a: float, b: float) -> float: ...
@overload
def ratio(a: Tensor, b: Tensor) -> Tensor: ...
@overload
def ratio(a: Scalar, b: Scalar) -> Scalar: ...
def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b; infinite with the sign of a where b = 0, nan for 0 / 0."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a / b
    if b == 0.0:
        return math.nan if a == 0.0 else math.copysign(math.inf, a)
    return a / b


def sigmoid(x: Num) -> Num:
    """Return 1 / (1 + e^-x)."""
    if isinstance(x, Tensor):
        return torch.sigmoid(x)
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def softplus(x: Num) -> Num:
    """Return log(1 + e^x), exact for large |x|."""
    if isinstance(x, Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@overload
def clip(x: float, low: float, high: float) -> float: ...
@overload
def clip(x: Tensor, low: float, high: float) -> Tensor: ...
@overload
def clip(x: Scalar, low: float, high: float) -> Scalar: ...
def clip(x: Scalar, low: float, high: float) -> Scalar:
    """Clamp to [low, high]."""
    return x.clamp(low, high) if isinstance(x, Tensor) else max(low, min(high, x))


def logsnr(alpha: Num, sigma: Num) -> Num:
    """Return log(alpha^2 / sigma^2); +inf at sigma = 0 and -inf at alpha = 0."""
    return 2.0 * (log(alpha) - log(sigma))


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


def finite(value: Scalar) -> Tensor | bool:
    """Tell where a value is neither infinite nor nan."""
    return torch.isfinite(value) if isinstance(value, Tensor) else abs(value) < math.inf


def holds(flag: Tensor | bool) -> bool:
    """Tell if a condition holds anywhere; it reads the device, and is False in a traced graph.

    Tracing cannot branch on a value: a compiled step with per-row times relies on its caller's grid.
    """
    return flag if not isinstance(flag, Tensor) else not torch.compiler.is_compiling() and bool(flag.any())
