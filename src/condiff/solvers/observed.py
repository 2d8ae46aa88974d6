"""Stepping towards what was observed: an unconditional system, guided by its own clean estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, mix
from condiff.core.solver import State
from condiff.guidance.energy import Energy, pulled
from condiff.process.gaussian import Gaussian

ORDERS = ("before", "after")


@final
@dataclass(frozen=True)
class SelfGuided:
    """The ancestral step, then a step up the energy's gradient as long as its fresh noise has variance.

    x_s = reverse(x_t) + w grad energy, w = min(scale v, cap alpha_t^2), v = variance of the fresh noise

    "before" takes the gradient at x_t, with one pass of the network, as the paper writes it; "after" takes it at the
    state already moved to s, but at time t, with two passes, as the official code does. At the end v = 0, so the last
    step is not guided. Rows whose energy does not depend on their state move as by `Jump(eta).step`, bit for bit.

    For squared errors the update is a gradient step with curvature 2: it diverges once scale v J^2 > 1, J = the slope
    of the clean estimate along some direction of the data, at most 1 / alpha_t for Gaussian data. A cap below 1 keeps
    every direction stable, at the price of less guidance where alpha is small.

    The energy is a sum over what is observed: a scale that suits one size of window does not suit another.

    Args:
        energy: Log-density to climb; it reads what is observed off the estimate's aux.
        scale: Factor of the gradient, >= 0; 0 is no guidance.
        order: "before" or "after".
        eta: Share of the noise that is redrawn, as in `Jump`; with 0 there is no guidance.
        cap: Most of the weight in units of alpha_t^2; None is no cap.

    Source: Kollovieh et al. 2023 (TSDiff), observation self-guidance; the cap is ours. Their DDIM variant moves the
        estimate instead of the state, and is `guidance.Guided` around the denoiser with `Jump`.
    """

    energy: Energy
    scale: float = 1.0
    order: str = "before"
    eta: float = 1.0
    cap: float | None = None

    guides = True

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if not self.scale >= 0.0 or not 0.0 <= self.eta <= 1.0 or (self.cap is not None and not self.cap > 0.0):
            raise ValueError(f"need scale >= 0, eta in [0, 1] and cap > 0, got {self.scale}, {self.eta}, {self.cap}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s with one forward and backward pass, and one forward pass more if guided "after"."""
        x = state.x
        guided = self.scale > 0.0 and self.eta > 0.0
        if not guided or self.order == "after":
            est, grad = denoise(x, t), None
        else:
            est, grad = pulled(denoise, self.energy, x, t)
        moved = process.reverse(x, t, s, est, eta=self.eta, rng=rng).detach()  # the last is the estimate itself
        if guided and self.order == "after":
            _, grad = pulled(denoise, self.energy, moved, t)
        if grad is None:
            return State(moved)
        fresh = process.jump(t, s, eta=self.eta)["fresh"]
        weight: Scalar = self.scale * fresh * fresh
        if self.cap is not None:
            alpha, _ = process.coefficients(t)
            weight = _least(weight, self.cap * alpha * alpha)
        return State(mix(1.0, moved, weight, grad))


def _least(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return min(a, b)
