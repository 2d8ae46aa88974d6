"""Exponential multistep solvers in data prediction: DPM-Solver++ (2M, 3M) and UniPC, one call a step.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t, q = sigma_s / sigma_t and c = alpha_s - alpha_t q, the linear
part of the flow is solved exactly: x_s = q x + integral of the data estimate, which is extrapolated from its history.
First steps, and a last step to sigma = 0, are the DDIM step x_s = q x + c * data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, known, mix
from condiff.core.solver import State
from condiff.process.gaussian import Gaussian
from condiff.process.scalar import expm1, log
from condiff.solvers.history import blank, choose, divide, finite_or_zero, missing, stamp


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


@final
@dataclass(frozen=True)
class Multistep:
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

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x with no history."""
        memory: dict[str, Tensor] = {}
        for back in range(1, self.order):
            memory |= {f"data{back}": torch.zeros_like(x), f"time{back}": blank(x, t)}
        return State(x, memory)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with one call."""
        x, memory = state.x, state.memory
        est = denoise(x, t)
        step = _Step.of(process, t, s)
        if self.order == 1:
            return State(est.add_to(step.q, x, {"data": step.c}))
        data = est.parts["data"]
        before = step.start - _lambda(process, memory["time1"])
        if self.order == 2:
            w = step.c * divide(step.h, 2.0 * before)
            w = choose(missing(before), 0.0, w)
            new = mix(1.0, mix(step.q, x, step.c + w, data), -w, memory["data1"])
            return State(new, {"data1": data, "time1": stamp(t, x)})
        new = self._third(process, step, before, x, data, memory["data1"], memory["data2"], memory["time2"])
        return State(new, {"data1": data, "time1": stamp(t, x), "data2": memory["data1"], "time2": memory["time1"]})

    def _third(
        self,
        process: Gaussian,
        step: _Step,
        before: Scalar,
        x: Tensor,
        m0: Tensor,
        m1: Tensor,
        m2: Tensor,
        oldest: Tensor,
    ) -> Tensor:
        earlier = step.start - before - _lambda(process, oldest)
        h = step.h
        # Divided differences D1, D2 of the data estimate in units of h, as combinations of its two slopes.
        r0, r1 = divide(before, h), divide(earlier, h)
        slope = finite_or_zero(step.alpha * (divide(expm1(-h), h) + 1.0))
        curve = finite_or_zero(-step.alpha * (divide(expm1(-h) + h, h * h) - 0.5))
        two_back = _not(missing(before)) & _not(missing(earlier)) & _is_finite(earlier) & _is_finite(h)
        share = divide(r0, r0 + r1)
        first = slope * (1.0 + share) + divide(curve, r0 + r1)
        second = -slope * share - divide(curve, r0 + r1)
        # With one point of history it is the 2M step, with none the DDIM step.
        first = choose(two_back, first, 0.5 * step.c)
        second = choose(two_back, second, 0.0)
        near = choose(missing(before), 0.0, divide(first, r0))
        near = choose(_is_finite(before) & _is_finite(h), near, 0.0)
        far = choose(two_back, divide(second, r1), 0.0)
        new = mix(step.q, x, step.c + near, m0)
        return mix(1.0, mix(1.0, new, far - near, m1), -far, m2)


def _not(flag: Tensor | bool) -> Tensor | bool:
    return ~flag if isinstance(flag, Tensor) else not flag


def _is_finite(value: Scalar) -> Tensor | bool:
    return torch.isfinite(value) if isinstance(value, Tensor) else abs(value) < math.inf


@final
@dataclass(frozen=True)
class UniPC:
    """UniPC of order 2 with B(h) = e^h - 1 (bh2): each new call first corrects the state it was made at.

    The state in `State.x` is the predicted one; the correction happens at the start of the next step, and the last
    state is not corrected.

    Source: Zhao et al. 2023 (UniPC), algorithms 5 to 8, data prediction.
    """

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x with no history."""
        none = blank(x, t)
        zero = torch.zeros_like(x)
        return State(x, {"x1": zero, "data1": zero, "time1": none, "data2": zero, "time2": none})

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Correct the state at t with this step's one call, then predict the state at s."""
        memory = state.memory
        m1, time1 = memory["data1"], memory["time1"]
        data = denoise(state.x, t).parts["data"]
        x = self._correct(process, state, t, data)
        step = _Step.of(process, t, s)
        before = step.start - _lambda(process, time1)
        # B / r with B(h) = -expm1(-h) alpha = c: predictor slope (m1 - data) / r, weight 1/2, r = -before / h.
        w = choose(missing(before), 0.0, 0.5 * step.c * divide(step.h, before))
        new = mix(1.0, mix(step.q, x, step.c + w, data), -w, m1)
        return State(new, {"x1": x, "data1": data, "time1": stamp(t, x), "data2": m1, "time2": time1})

    def _correct(self, process: Gaussian, state: State, t: Tensor, data: Tensor) -> Tensor:
        memory = state.memory
        time1 = memory["time1"]
        fresh = missing(known(time1))
        if fresh is True:
            return state.x
        begin = torch.where(fresh, t, time1) if isinstance(fresh, Tensor) else time1
        step = _Step.of(process, begin, t)
        before = step.start - _lambda(process, memory["time2"])
        # With H = -h, B = expm1(H), phi1 = expm1(H) / H - 1, phi2 = phi1 / H - 1/2:
        # rho_a + rho_b = phi1 / B and r rho_a + rho_b = 2 phi2 / B, r = -before / h; one point alone has rho_b = 1/2.
        minus = -step.h
        b = expm1(minus)
        phi1 = divide(b, minus) - 1.0
        phi2 = divide(phi1, minus) - 0.5
        g1, g2 = divide(phi1, b), divide(2.0 * phi2, b)
        r = divide(before, minus)
        usable = _not(missing(before)) & _is_finite(before) & _is_finite(step.h)
        rho_a = choose(usable, divide(g1 - g2, 1.0 - r), 0.0)
        rho_b = choose(usable, g1 - rho_a, 0.5)
        # x = q x1 + c m1 - alpha B (rho_a (m2 - m1) / r + rho_b (data - m1)), and -alpha B = c.
        far = step.c * choose(usable, divide(rho_a, r), 0.0)
        near = step.c * rho_b
        new = mix(step.q, memory["x1"], step.c - far - near, memory["data1"])
        new = mix(1.0, mix(1.0, new, far, memory["data2"]), near, data)
        if isinstance(fresh, Tensor):
            return torch.where(expand(fresh, new), state.x, new)
        return new
