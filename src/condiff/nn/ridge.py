"""Ridge regression as a module: its weights are solved on the data, saved with a system's, and know their error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition

RANK = 256
"""Most directions of the labelled rows that are kept for error bars."""


@final
class Ridge(nn.Module):
    """A linear reward y = theta . x + bias with the covariance of what it learned from few labels.

    theta = (X^T X + penalty I)^-1 X^T (y - mean y), X centred; the error of a prediction has variance
    noise^2 (1 + 1 / n + x^T (X^T X + penalty I)^-1 x), noise the leave-one-out error, x centred

    Far from the labelled rows that variance grows: it says where a prediction is extrapolation. X^T X is kept by its
    `RANK` largest directions; the weights are exact, and a variance is never smaller than with all of them.

    Args:
        features: Features D of a row, after flattening.
        name: The condition it is fitted to by `measure`, one number a row; rows without it are left out.
        penalty: > 0.

    Source: Yuan et al. 2023 (reward-directed conditional diffusion), section 3, with penalty 1; the intercept and the
        leave-one-out noise are ours.
    """

    theta: Tensor
    bias: Tensor
    centre: Tensor
    basis: Tensor
    power: Tensor
    noise: Tensor
    rows: Tensor

    def __init__(self, features: int, name: str = "reward", penalty: float = 1.0) -> None:
        super().__init__()
        if features < 1 or not penalty > 0.0:
            raise ValueError(f"Ridge needs features >= 1 and penalty > 0, got {features} and {penalty}")
        self.name, self.penalty = name, penalty
        self.register_buffer("theta", torch.zeros(features))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("basis", torch.zeros(features, min(features, RANK)))
        self.register_buffer("power", torch.zeros(min(features, RANK)))
        self.register_buffer("noise", torch.zeros(()))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def solve(self, x: Tensor, y: Tensor) -> None:
        """Fit to rows x (N, *S) and their labels y (N,), in float64.

        Raises:
            ValueError: If there are fewer than 3 rows, or a number is not finite.
        """
        x, y = x.flatten(1).to("cpu", torch.float64), y.flatten().to("cpu", torch.float64)
        if len(x) < 3 or len(x) != len(y):
            raise ValueError(f"a reward needs at least 3 labelled rows, got {len(x)} rows and {len(y)} labels")
        if not bool(x.isfinite().all() and y.isfinite().all()):
            raise ValueError("the labelled rows hold NaN or infinite values; mend or remove them")
        centre, mean = x.mean(0), y.mean()
        centred = x - centre
        power, basis = _directions(centred)
        inside = centred @ basis
        theta = basis @ ((inside.T @ (y - mean)) / (power + self.penalty))
        # The residual that row i has when it is left out, from the one fit with all: r_i / (1 - h_i).
        lever = (inside.square() / (power + self.penalty)).sum(1) + 1.0 / len(x)
        residual = (y - mean - centred @ theta) / (1.0 - lever).clamp_min(1e-6)
        kept = min(len(power), len(self.power))
        self.theta.copy_(theta)
        self.bias.copy_(mean - theta @ centre)
        self.centre.copy_(centre)
        self.basis.zero_()[:, :kept].copy_(basis[:, :kept])
        self.power.zero_()[:kept].copy_(power[:kept])
        self.noise.copy_(residual.square().mean().sqrt())
        self.rows.fill_(len(x))

    def measure(self, batches: Callable[[], Iterable[tuple[Tensor, Condition]]]) -> None:
        """Fit to the rows that have the condition `name`, which is one number a row.

        Raises:
            ValueError: If the data have no such condition, or too few rows have it.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for x, cond in batches():
            if self.name not in cond.values:
                raise ValueError(f"the data have no condition {self.name!r} to learn; there are {sorted(cond.values)}")
            there = cond.present[self.name]
            found.append((x[there].flatten(1), cond.values[self.name][there].flatten(1)))
        self.solve(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Predict the rewards (B,) of rows (B, *S), in the units it was fitted in."""
        return x.flatten(1) @ self.theta.to(x.dtype) + self.bias.to(x.dtype)

    def error(self, x: Tensor) -> Tensor:
        """Return the standard deviation of the prediction's error, (B,)."""
        centred = x.flatten(1) - self.centre.to(x.dtype)
        inside = (centred @ self.basis.to(x.dtype)).square()
        outside = (centred.square().sum(1) - inside.sum(1)).clamp_min(0.0)
        spread = (inside / (self.power.to(x.dtype) + self.penalty)).sum(1) + outside / self.penalty
        return self.noise.to(x.dtype) * (1.0 + 1.0 / self.rows.clamp_min(1).to(x.dtype) + spread).sqrt()


def _directions(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of X^T X above rounding, largest first, and eigenvectors (D, K), by the smaller side."""
    wide = centred.shape[1] > centred.shape[0]
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > values[0].clamp_min(0.0) * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    return values, (centred.T @ vectors) / values.sqrt() if wide else vectors
