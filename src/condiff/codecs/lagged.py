"""Windows of series with what lay some steps earlier as further channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.nn.lookback import look_back


@final
@dataclass(frozen=True)
class Lagged:
    """The process works on windows and their lags, (B, 1 + len(lags), L); a user sees the window alone.

    Channel j at step l is the series at l - lags[j - 1], before the window as the condition "older" (B, 2, R) has it.

    Args:
        lags: Steps back.

    Source: Kollovieh et al. 2023 (TSDiff): lags are part of what is diffused, so a window's past can guide it.
    """

    lags: tuple[int, ...]

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Join windows (B, 1, L) with their lags.

        Raises:
            ValueError: If there are lags, and no condition "older" to read them off.
        """
        if not self.lags:
            return x
        if cond is None or "older" not in cond.values:
            raise ValueError("lags are read off the condition 'older', the steps before each window")
        return torch.cat([x, look_back(x, cond.values["older"][:, :1], self.lags)], 1)

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return the window, channel 0."""
        return z[:, :1]
