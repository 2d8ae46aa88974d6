"""Few-step sampling that trusts the data estimate and draws all of the noise again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import expand, host
from condiff.core.solver import State
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True)
class Renoise:
    """One call, then the data estimate with fresh noise: x_s = alpha_s data + sigma_s fresh.

    Nothing of the state is carried over but what the estimate says, so a step as long as one likes costs no more than
    the estimate is wrong. At sigma_s = 0 this is the estimate itself.

    Source: Song et al. 2023 (consistency models), algorithm 1; Luo et al. 2023 (LCM).
    """

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
        """Move from t to s with one call; noise is drawn whatever s is, so that a row's stream keeps its count."""
        data = denoise(state.x, t).parts["data"]
        drawn = process.draw(data, s, rng=rng).x
        if host(s) is not None:
            return State(data if host(s) == 0.0 else drawn)
        # A schedule may round alpha(0) away from 1.
        return State(torch.where(expand(s == 0.0, data), data, drawn))
