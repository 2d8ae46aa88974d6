"""Exponential multistep solvers in data prediction: DPM-Solver++ (2M, 3M) and UniPC, one call a step.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t, q = sigma_s / sigma_t and c = alpha_s - alpha_t q, the linear
part of the flow is solved exactly: x_s = q x + integral of the data estimate, which is extrapolated from its history.
First steps, and a last step to sigma = 0, are the DDIM step x_s = q x + c * data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.shapes import Scalar, known
from condiff.process.gaussian import Gaussian
from condiff.process.scalar import choose, divide, expm1, finite, finite_or_zero, log, missing
from condiff.solvers.linear import Linear, Weights


def _lambda(process: Gaussian, t: Tensor) -> Scalar:
    """Return log(alpha / sigma) at t; nan where t is nan (no history)."""
    value = known(t)
    if not isinstance(value, Tensor) and value != value:
        return math.nan
    alpha, sigma = process.coefficients(t)
    return log(alpha) - log(sigma)


@final
@dataclass(frozen=True)
class _Step:
    """What every exponential step needs: q, c, alpha_s, h and lambda_t. h is infinite at the ends of the clock."""

    q: Scalar
    c: Scalar
    alpha: Scalar
    h: Scalar
    start: Scalar

    @classmethod
    def of(cls, process: Gaussian, t: Tensor, s: Tensor) -> _Step:
        alpha_t, sigma_t = process.coefficients(t)
        alpha_s, sigma_s = process.coefficients(s)
        q = sigma_s / sigma_t
        start = log(alpha_t) - log(sigma_t)
        return cls(q, alpha_s - alpha_t * q, alpha_s, log(alpha_s) - log(sigma_s) - start, start)


def _extrapolation(step: _Step, before: Scalar) -> Scalar:
    """Return w of 2M's x_s = q x + c m_0 + w (m_0 - m_1); 0 for a row without history."""
    return choose(missing(before), 0.0, step.c * divide(step.h, 2.0 * before))


_DATA = {"data": 1.0}


@final
@dataclass(frozen=True)
class Multistep(Linear[Gaussian]):
    """DPM-Solver++: orders 1 (DDIM), 2 (2M) and 3 (3M).

    2M: x_s = q x + c ((1 + w) m_0 - w m_1), w = h / (2 (lambda_t - lambda_1)), m the data estimates, newest first.

    Args:
        order: 1, 2 or 3.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix B. Needs a start with sigma > 0, so it cannot
    invert from the data itself; Jump can.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"Multistep has orders 1, 2 and 3, got {self.order}")

    @property
    def depth(self) -> int:
        """Earlier data estimates in use."""
        return self.order - 1

    def weights(self, process: Gaussian, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Weights:
        """Return the numbers of a step from t to s."""
        step = _Step.of(process, t, s)
        if self.order == 1:
            return Weights(step.q, _DATA, (step.c,))
        before = step.start - _lambda(process, past[0])
        if self.order == 2:
            w = _extrapolation(step, before)
            return Weights(step.q, _DATA, (step.c + w, -w))
        near, far = self._third(step, before, step.start - before - _lambda(process, past[1]))
        return Weights(step.q, _DATA, (step.c + near, far - near, -far))

    def _third(self, step: _Step, before: Scalar, earlier: Scalar) -> tuple[Scalar, Scalar]:
        h = step.h
        # Divided differences D1, D2 of the data estimate in units of h, as combinations of its two slopes.
        r0, r1 = divide(before, h), divide(earlier, h)
        slope = finite_or_zero(step.alpha * (divide(expm1(-h), h) + 1.0))
        curve = finite_or_zero(-step.alpha * (divide(expm1(-h) + h, h * h) - 0.5))
        two_back = _not(missing(before)) & _not(missing(earlier)) & finite(earlier) & finite(h)
        share = divide(r0, r0 + r1)
        first = slope * (1.0 + share) + divide(curve, r0 + r1)
        second = -slope * share - divide(curve, r0 + r1)
        # With one point of history it is the 2M step, with none the DDIM step.
        first = choose(two_back, first, 0.5 * step.c)
        second = choose(two_back, second, 0.0)
        near = choose(missing(before), 0.0, divide(first, r0))
        near = choose(finite(before) & finite(h), near, 0.0)
        far = choose(two_back, divide(second, r1), 0.0)
        return near, far


def _not(flag: Tensor | bool) -> Tensor | bool:
    return ~flag if isinstance(flag, Tensor) else not flag


@final
@dataclass(frozen=True)
class UniPC(Linear[Gaussian]):
    """UniPC of order 2 with B(h) = e^h - 1 (bh2): each new call first corrects the state it was made at.

    corrected = x + near m_0 - (near + far) m_1 + far m_2, and from there the step of `Multistep(2)`

    The state in `State.x` is the predicted one; the correction happens at the start of the next step, and the last
    state is not corrected. Both together are one row of x, m_0, m_1 and m_2: the prediction was linear in them too.

    Source: Zhao et al. 2023 (UniPC), algorithms 5 to 8, data prediction.
    """

    @property
    def depth(self) -> int:
        """Earlier data estimates in use."""
        return 2

    def weights(self, process: Gaussian, t: Tensor, s: Tensor, past: Sequence[Tensor]) -> Weights:
        """Return the numbers of a correction at t and a step to s."""
        step = _Step.of(process, t, s)
        w = _extrapolation(step, step.start - _lambda(process, past[0]))
        near, far = self._correction(process, t, past)
        return Weights(step.q, _DATA, (step.q * near + step.c + w, -step.q * (near + far) - w, step.q * far))

    def _correction(self, process: Gaussian, t: Tensor, past: Sequence[Tensor]) -> tuple[Scalar, Scalar]:
        fresh = missing(known(past[0]))
        if fresh is True:
            return 0.0, 0.0
        begin = torch.where(fresh, t, past[0]) if isinstance(fresh, Tensor) else past[0]
        step = _Step.of(process, begin, t)
        before = step.start - _lambda(process, past[1])
        # With H = -h, B = expm1(H), phi1 = expm1(H) / H - 1, phi2 = phi1 / H - 1/2:
        # rho_a + rho_b = phi1 / B and r rho_a + rho_b = 2 phi2 / B, r = -before / h; one point alone has rho_b = 1/2.
        minus = -step.h
        b = expm1(minus)
        phi1 = divide(b, minus) - 1.0
        phi2 = divide(phi1, minus) - 0.5
        g1, g2 = divide(phi1, b), divide(2.0 * phi2, b)
        r = divide(before, minus)
        usable = _not(missing(before)) & finite(before) & finite(step.h)
        rho_a = choose(usable, divide(g1 - g2, 1.0 - r), 0.0)
        rho_b = choose(usable, g1 - rho_a, 0.5)
        # corrected = q x_1 + c m_1 + c (rho_a (m_2 - m_1) / r + rho_b (m_0 - m_1)) as -alpha B = c, and the prediction
        # was x = q x_1 + c m_1 + w (m_1 - m_2).
        far = step.c * choose(usable, divide(rho_a, r), 0.0) + _extrapolation(step, before)
        return choose(fresh, 0.0, step.c * rho_b), choose(fresh, 0.0, far)
