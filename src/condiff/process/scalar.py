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


def ratio(a: Num, b: Num) -> Num:
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


def clip(x: Num, low: float, high: float) -> Num:
    """Clamp to [low, high]."""
    return x.clamp(low, high) if isinstance(x, Tensor) else max(low, min(high, x))


def logsnr(alpha: Num, sigma: Num) -> Num:
    """Return log(alpha^2 / sigma^2); +inf at sigma = 0 and -inf at alpha = 0."""
    return 2.0 * (log(alpha) - log(sigma))
