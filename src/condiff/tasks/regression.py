"""Linear quantile regression, solved to a proven distance from the least loss there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.guidance.observed import pinball

ROUNDS, STEPS = 40, 30
"""Most rounds, and Newton steps in each; on two years of hours 6 rounds of 6 steps do."""

WIDEST, NARROWEST = 0.3, 0.03
"""Width of the smoothing at first, and where it stops to be halved, in deviations of what least squares leave."""

SMALLEST = 1e-5
"""Directions of the features that vary less than this share of all are left out: they are rounding of float32."""

ROUNDING = 1e-12
"""Sums of float64 are not known any better, as a share of the target's size."""


@final
@dataclass(frozen=True, eq=False)
class Regression:
    """Linear quantile functions of features, one a level: x . weight + intercept.

    Args:
        weight: (F, Q).
        intercept: (Q,).
        loss: What they score on what they were fitted to: mean pinball loss plus penalty, (Q,).
        gap: How far that lies above the least there is, at most, (Q,).
    """

    weight: Tensor
    intercept: Tensor
    loss: Tensor
    gap: Tensor


def quantile_regression(
    features: Tensor, target: Tensor, levels: Sequence[float], *, penalty: float = 0.0, accuracy: float = 1e-4
) -> Regression:
    """Fit a linear quantile regression for every level.

    min over w, b of mean_n pinball(y_n - x_n . w - b, level) + penalty sum_f (w_f std_f)^2 / (2 spread)

    The pinball loss of r is the maximum of a r over a in [level - 1, level]. Around the a of the round before it is
    smoothed, max_a a r - width (a - a_before)^2 / 2, and solved by Newton steps with a line search: the curvature is
    1 / width where a lies inside and 0 elsewhere, so a step costs little. Unlike plain smoothing, it converges at any
    width. Their a is a point of the dual problem, once it is moved to where the balance of the weights holds; its value
    bounds the least loss from below, and rounds end when the distance is proven to be small.

    Args:
        features: (N, F). A constant needs no column, and a column that others tell changes nothing.
        target: (N,).
        levels: Q levels, each in (0, 1).
        penalty: On the squares of the weights, the intercept left out; 0 is the exact regression. std are the
            deviations of the features and spread is that of the target, so units change nothing.
        accuracy: Largest gap as a share of the loss.

    Returns: The regression, float64.

    Raises:
        ValueError: If a number is out of range or not finite, or shapes differ.

    Source: Koenker and Bassett 1978; Li, Sun and Toh 2018 for Newton steps on the augmented Lagrangian of the dual,
        here of the pinball loss.
    """
    if not levels or not all(0.0 < level < 1.0 for level in levels) or penalty < 0.0 or not accuracy > 0.0:
        raise ValueError(
            f"quantile regression needs levels in (0, 1), a penalty >= 0 and an accuracy > 0, got {list(levels)}, "
            f"{penalty} and {accuracy}"
        )
    if features.ndim != 2 or target.shape != features.shape[:1] or not len(target):
        raise ValueError(
            f"quantile regression needs features (N, F) and a target (N,), got {tuple(features.shape)} and "
            f"{tuple(target.shape)}"
        )
    x, y = features.double(), target.double()
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("quantile regression needs finite numbers")
    level = torch.tensor(levels, dtype=torch.float64)
    mean, middle, spread = x.mean(0), y.mean(), y.std(correction=0)
    if not bool(spread > ROUNDING * y.abs().max()):  # a target that never changes
        zero = torch.zeros(1 + x.shape[1], len(level), dtype=torch.float64)
        return Regression(zero[1:], zero[0] + middle, zero[0], zero[0])
    size = (x - mean).square().mean(0).sqrt()
    changes = size > ROUNDING * x.abs().amax(0)
    each = torch.where(changes, 1.0 / torch.where(changes, size, 1.0), 0.0)
    moved = (x - mean) * each
    power, axes = torch.linalg.eigh(moved.T @ moved / len(x))
    kept = power > SMALLEST**2 * max(1, x.shape[1])
    back = axes[:, kept] / power[kept].sqrt()
    z = torch.cat([torch.ones(len(x), 1, dtype=torch.float64), moved @ back], 1)  # orthogonal columns of mean square 1
    stiff = torch.cat([torch.zeros(1, dtype=torch.float64), penalty / power[kept]])
    coefficient, loss, gap = _solved(z, (y - middle) / spread, level, stiff, accuracy)
    weight = spread * each[:, None] * (back @ coefficient[1:])
    return Regression(weight, middle + spread * coefficient[0] - mean @ weight, spread * loss, spread * gap)


def _solved(z: Tensor, y: Tensor, level: Tensor, stiff: Tensor, accuracy: float) -> tuple[Tensor, Tensor, Tensor]:
    """Solve all levels; z (N, R), y (N,) of deviation 1. Returns coefficients (R, Q), losses and gaps (Q,)."""
    square = z.T @ y / len(y) / (1.0 + stiff)
    left = y - z @ square
    spread = float(left.std(correction=0).clamp_min(ROUNDING))
    c = square[:, None].repeat(1, len(level))
    c[0] += _quantiles(left, level)
    a = torch.zeros(len(y), len(level), dtype=torch.float64)
    loss, gap = _bounds(z, y, level, stiff, c, a)
    best, width, slack = c.clone(), WIDEST * spread, 1e-3
    for _ in range(ROUNDS):
        todo = torch.nonzero(gap > accuracy * loss + ROUNDING)[:, 0]
        if not len(todo):
            break
        c[:, todo], a[:, todo] = _smooth(z, y, level[todo], stiff, c[:, todo], a[:, todo], width, slack)
        new, apart = _bounds(z, y, level[todo], stiff, c[:, todo], a[:, todo])
        floor = torch.maximum(loss[todo] - gap[todo], new - apart)  # every bound from below stays one
        better = new < loss[todo]
        best[:, todo[better]] = c[:, todo[better]]
        loss[todo] = torch.minimum(loss[todo], new)
        gap[todo] = (loss[todo] - floor).clamp_min(0.0)
        width, slack = max(0.5 * width, NARROWEST * spread), max(0.3 * slack, ROUNDING)
    return best, loss, gap


def _smooth(
    z: Tensor, y: Tensor, level: Tensor, stiff: Tensor, start: Tensor, before: Tensor, width: float, slack: float
) -> tuple[Tensor, Tensor]:
    """Minimise the loss smoothed around `before` (N, Q), from a start (R, Q), to a slope of at most `slack`.

    Returns: Coefficients (R, Q), and the a that belong to them, (N, Q).
    """
    c, raw = start.clone(), before + (y[:, None] - z @ start) / width
    live = torch.arange(len(level))
    for _ in range(STEPS):
        here, low, high = raw[:, live], level[live] - 1.0, level[live]
        slope = stiff[:, None] * c[:, live] - z.T @ here.clamp(low, high) / len(y)
        going = slope.norm(dim=0) > slack
        live, slope, here, low, high = live[going], slope[:, going], here[:, going], low[going], high[going]
        if not len(live):
            break
        step = torch.stack(
            [
                _newton(z[(here[:, k] > low[k]) & (here[:, k] < high[k])], slope[:, k], stiff, width, len(y))
                for k in range(len(live))
            ],
            1,
        )
        along = z @ step / width
        line, bend = (stiff[:, None] * c[:, live] * step).sum(0), (stiff[:, None] * step**2).sum(0)
        size = _far(here, along, low, high, width, line, bend)
        c[:, live] += size * step
        raw[:, live] = here - size * along
    return c, raw.clamp(level - 1.0, level)


def _newton(inside: Tensor, slope: Tensor, stiff: Tensor, width: float, count: int) -> Tensor:
    """Compute a Newton step from the rows whose residuals are inside of the smoothing, (M, R), and the slope (R,)."""
    curve = inside.T @ inside / (count * width)
    # Too few rows inside leave directions without curvature: a damping that vanishes with the slope gives them one.
    curve.diagonal().add_(stiff + (1e-3 * min(1e-2, float(slope.norm())) + 1e-10) / width)
    return -torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(curve))[:, 0]


def _far(raw: Tensor, along: Tensor, low: Tensor, high: Tensor, width: float, line: Tensor, bend: Tensor) -> Tensor:
    """Find how far to go along a step: until its slope is a third of what it was or less, (Q,)."""

    def slope(size: Tensor) -> Tensor:
        return line + size * bend - width * ((raw - size * along).clamp(low, high) * along).mean(0)

    size = torch.ones_like(line)
    least, most = torch.zeros_like(size), torch.full_like(size, torch.inf)
    first = slope(least).abs()
    for _ in range(40):
        now = slope(size)
        if bool((now.abs() <= first / 3).all()):
            break
        move = now.abs() > first / 3
        least, most = torch.where(move & (now < 0), size, least), torch.where(move & (now > 0), size, most)
        size = torch.where(move, torch.where(most.isinf(), 2.0 * size, 0.5 * (least + most)), size)
    return size


def _bounds(z: Tensor, y: Tensor, level: Tensor, stiff: Tensor, c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of coefficients (R, Q), and how far above the least they are at most, by a point a (N, Q)."""
    loss = pinball(y[:, None], z @ c, level).mean(0) + 0.5 * (stiff[:, None] * c**2).sum(0)
    free = stiff == 0.0
    a = a - z[:, free] @ (z[:, free].T @ a / len(y))  # what is not held back balances exactly
    room = torch.where(a > 0, level / a.clamp_min(1e-300), (1.0 - level) / (-a).clamp_min(1e-300))
    a = a * room.amin(0).clamp_max(1.0)  # and stays within its bounds
    pull = z.T @ a / len(y)
    held = (0.5 * pull**2 / torch.where(free, torch.inf, stiff)[:, None]).sum(0)
    return loss, loss - (a * y[:, None]).mean(0) + held


def _quantiles(values: Tensor, level: Tensor) -> Tensor:
    order = values.sort().values
    return order[(level * (len(order) - 1)).round().long()]
