"""The exact flow map of Gaussian data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments
from condiff.core.shapes import expand
from condiff.oracles.gaussian import GaussianData
from condiff.process.flowmap import Jumps


@final
@dataclass(frozen=True)
class GaussianMap:
    """The exact flow map of Gaussian data, as a denoiser: its jumps land where `GaussianData.flow` does.

    data = (sigma_s x - sigma_t x_s) / det, noise = (alpha_t x_s - alpha_s x) / det,
    det = alpha_t sigma_s - alpha_s sigma_t

    Args:
        data: The Gaussian.

    Source: the closed-form flow of Wang and Vastola 2023; the two equations x_t = alpha_t data + sigma_t noise and the
    same at s, solved for the pair.
    """

    data: GaussianData

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Jumps:
        """Return the jumps from x (B, *S) at t of shape () or (B,)."""

        def to(s: Tensor) -> Moments:
            here = self.data(x, t, cond)
            there = self.data.flow(x, t, s)
            (alpha_t, sigma_t), (alpha_s, sigma_s) = (
                [
                    expand(torch.as_tensor(c, dtype=x.dtype, device=x.device), x)
                    for c in self.data.process.coefficients(time)
                ]
                for time in (t, s)
            )
            det = alpha_t * sigma_s - alpha_s * sigma_t
            still = det == 0.0
            safe = torch.where(still, 1.0, det)
            return Moments(
                {
                    "data": torch.where(still, here.parts["data"], (sigma_s * x - sigma_t * there) / safe),
                    "noise": torch.where(still, here.parts["noise"], (alpha_t * there - alpha_s * x) / safe),
                }
            )

        return Jumps(to)
