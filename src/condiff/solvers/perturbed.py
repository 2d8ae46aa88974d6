"""A solver under injected error: how well does a system bear a network that is wrong by so much?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng
from condiff.core.shapes import mix
from condiff.core.solver import Solver, State
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True)
class Perturbed:
    """Another solver whose state is disturbed before every step: x <- x + strength * sigma(t) * z, z ~ N(0, I).

    The disturbance is normal for every noise law of the process, so that laws are compared under the same error. The
    other solver's history is dropped at each one: it belongs to a state that was moved.

    Args:
        inner: The solver that takes the steps.
        strength: Size of the error in units of the noise level, >= 0; the paper uses up to 0.3.

    Source: Xu et al. 2023 (PFGM++), section 5.3, alpha there; the first step is disturbed too, as in the paper's code.
    """

    inner: Solver[Gaussian, Moments]
    strength: float = 0.1

    def __post_init__(self) -> None:
        if not self.strength >= 0.0:
            raise ValueError(f"Perturbed needs strength >= 0, got {self.strength}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start the inner solver at x."""
        return self.inner.init(x, t)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Disturb the state at t, then move it to s."""
        _, sigma = process.coefficients(t)
        x = mix(1.0, state.x, self.strength * sigma, rng.normal(state.x.shape).to(state.x))
        return self.inner.step(process, denoise, self.inner.init(x, t), t, s, rng)
