"""How straight a flow is and how far it carries, and how unevenly a coupling weighs its pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from condiff.evaluate.metric import Metric, mean


def path_metrics(states: Sequence[Tensor], times: Tensor, *, seed: int = 0) -> list[Metric]:
    """Measure energy, curvature and transport cost of paths given at the nodes of a grid.

    energy = integral of |v|^2 dt, curvature = integral of |v - (x_end - x_start)|^2 dt, cost = |x_end - x_start|^2,
    with v constant between nodes; over unit time, energy = curvature + cost. Straight paths have curvature 0, and one
    Euler step follows them exactly. For steps of Euler in process time, v is what the network said.

    Args:
        states: States at the nodes, N + 1 tensors (B, *S), B >= 2; `trajectory` yields them.
        times: Times of the nodes (N + 1,), monotone, one unit apart from first to last.
        seed: Names the intervals.

    Returns: Metrics "path_energy", "path_curvature" and "transport_cost", summed over features, averaged over rows.
        Compare models of equal quality only: one that collapses has little energy.

    Raises:
        ValueError: If there are not as many states as times, times are not monotone, or do not span one unit.

    Source: Tong et al. 2024, section 5 (path energy); Liu et al. 2023 (rectified flow), eq. 5 (straightness).
    """
    gaps = times.double().diff().to(states[0].device)
    if len(states) != len(times) or len(times) < 2:
        raise ValueError(f"paths need as many states as times and at least 2, got {len(states)} and {len(times)}")
    if not (bool((gaps < 0).all()) or bool((gaps > 0).all())) or abs(abs(float(gaps.sum())) - 1.0) > 1e-6:
        raise ValueError(f"paths need monotone times that span one unit, got {times.tolist()}")
    rows = torch.stack([state.flatten(1).double() for state in states], 1)
    steps = rows.diff(dim=1)
    whole = rows[:, -1] - rows[:, 0]
    energy = (steps.square().sum(2) / gaps.abs()).sum(1)
    cost = whole.square().sum(1)
    # energy - cost is the same number, but a sum of squares cannot round below 0
    speeds = steps / gaps.abs()[:, None]
    curvature = ((speeds - whole[:, None]).square().sum(2) * gaps.abs()).sum(1)
    said = f"summed over features, velocity constant between {len(times)} nodes"
    return [
        mean(energy, name="path_energy", definition=f"integral of |v|^2 dt, {said}", seed=seed),
        mean(curvature, name="path_curvature", definition=f"integral of |v - (end - start)|^2 dt, {said}", seed=seed),
        mean(cost, name="transport_cost", definition="|end - start|^2, summed over features", seed=seed),
    ]


def effective_size(weights: Tensor) -> float:
    """Return the effective share of a weighted sample, (sum w)^2 / (n sum w^2), in (0, 1]; 1 for equal weights.

    Raises:
        ValueError: If weights (n,) are negative or all zero.

    Source: Kish 1965.
    """
    w = weights.double()
    if w.ndim != 1 or not bool((w >= 0).all()) or not bool((w > 0).any()):
        raise ValueError("an effective size needs weights (n,), none negative and not all zero")
    return float(w.sum() ** 2 / (len(w) * w.square().sum()))


def tilt(weights: Tensor, data: Tensor) -> float:
    """Return the correlation of weights (n,) with the length |data|, data (n, *S): below 0, short examples count more.

    0 where all weights or all lengths are equal: then nothing is tilted by length.
    """
    w, length = weights.double(), data.flatten(1).double().norm(dim=1)
    w, length = w - w.mean(), length - length.mean()
    scale = float(w.norm() * length.norm())
    return float(w @ length) / scale if scale > 1e-12 * len(w) else 0.0
