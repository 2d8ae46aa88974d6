"""Are synthetic series fit to learn from? The score of a linear forecaster trained on them and tested on real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condiff.evaluate.series import LEVELS, Score, weighted_quantile_loss

PENALTY = 1.0


@final
@dataclass(frozen=True, eq=False)
class RidgeForecast:
    """A linear map from a context to what follows it: (X^T X + penalty I)^-1 X^T Y on centred rows.

    Args:
        weights: (context, horizon), float64.
        bias: (horizon,).
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def fit(cls, windows: Tensor, context: int, penalty: float = PENALTY) -> Self:
        """Fit to windows.

        Args:
            windows: Scaled windows (N, L) without gaps, context and horizon.
            context: Steps that are known, 1 to L - 1.
            penalty: > 0; the intercept is free.

        Raises:
            ValueError: If a number is out of range, or a window has a gap.
        """
        rows = windows.double().numpy()
        if rows.ndim != 2 or not 1 <= context < rows.shape[1] or not penalty > 0.0:
            raise ValueError(
                f"need windows (N, L), a context of 1 to L - 1 and a penalty > 0, got {tuple(rows.shape)}, {context}, "
                f"{penalty}"
            )
        if not np.isfinite(rows).all():
            raise ValueError("windows to learn from have gaps; leave those out")
        x, y = rows[:, :context], rows[:, context:]
        mean_x, mean_y = x.mean(0), y.mean(0)
        gram = (x - mean_x).T @ (x - mean_x) + penalty * np.eye(context)
        weights = np.linalg.solve(gram, (x - mean_x).T @ (y - mean_y))
        return cls(weights, mean_y - mean_x @ weights)

    def __call__(self, contexts: Tensor) -> Tensor:
        """Return what follows contexts (N, context), (N, horizon), float64."""
        return torch.from_numpy(contexts.double().numpy() @ self.weights + self.bias)


def linear_predictive_score(
    windows: Tensor, contexts: Tensor, truth: Tensor, scale: Tensor, centre: Tensor | float = 0.0
) -> Score:
    """Score a ridge forecaster that learned from windows on real ones: the less, the fitter the windows.

    Args:
        windows: Windows to learn from, scaled, (N, L); synthetic or real.
        contexts: Contexts of real test windows, scaled, (W, C), 0 where missing.
        truth: What followed, in units of the series, (W, L - C), NaN where missing.
        scale: Scale of every test window, (W,).
        centre: What was subtracted from it.

    Returns: The weighted quantile loss of the point forecasts. It is their absolute error over the sum of the truth.

    Source: Kollovieh et al. 2023 (TSDiff), linear predictive score, ridge penalty 1.
    """
    model = RidgeForecast.fit(windows, contexts.shape[1])
    ahead = model(contexts) * scale.double()[:, None] + torch.as_tensor(centre).double().reshape(-1, 1)
    found = weighted_quantile_loss(ahead[:, None], truth.double(), LEVELS)
    definition = f"{found.definition}; of a ridge forecaster (penalty {PENALTY:g}) fitted to {len(windows)} windows"
    return Score("linear_predictive_score", found.top, found.bottom, definition, found.unit)
