"""Stochastic solvers: the reverse SDE, Langevin steps, and predictor-corrector pairs of both.

Generation, t decreasing, for any diffusion eps(t) >= 0: dx = (u - eps * score) dt + sqrt(2 eps) dw, with
score = -noise / level (sigma of a Gaussian process, gamma of a bridge). The marginals are those of the probability
flow whatever eps is, so it is chosen after training. eps = 0 is the flow itself, eps = g^2 / 2 Anderson's reverse SDE.
Papers that write w = 2 eps put half of it beside the score and all of it under the noise's root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.process import Noisy
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, known, mix
from condiff.core.solver import Solver, State
from condiff.process.gaussian import Gaussian
from condiff.process.scalar import holds, sqrt
from condiff.solvers.rungekutta import noiseless


class Diffusion(Protocol):
    """How much noise a reverse SDE carries: eps(t) of the module's equation."""

    def __call__(self, process: Noisy, t: Tensor) -> Scalar:
        """Return eps(t) >= 0."""
        ...


@final
@dataclass(frozen=True)
class Anderson:
    """eps = strength * g^2 / 2, g^2 = 2 sigma (sigma' - alpha' sigma / alpha); infinite where alpha = 0.

    Args:
        strength: 1 reverses the noising SDE, 0 is the probability flow.

    Source: Anderson 1982; Song et al. 2021 (score SDE).
    """

    strength: float = 1.0

    def __call__(self, process: Noisy, t: Tensor) -> Scalar:
        """Return strength * g^2 / 2.

        Raises:
            TypeError: For a bridge: what reverses no noising has no noising SDE.
            ValueError: Where alpha = 0.
        """
        if not isinstance(process, Gaussian):
            raise TypeError(f"{type(process).__name__} reverses no noising SDE; use Proportional() or Constant()")
        alpha, sigma = process.coefficients(t)
        if holds(alpha == 0.0):
            raise ValueError(
                "Anderson's diffusion is infinite where alpha = 0 (t = 1 of this schedule); use Proportional(), or "
                "start below"
            )
        rates = process.rates(t)
        return self.strength * sigma * (rates["noise"] - rates["data"] * sigma / alpha)


@final
@dataclass(frozen=True)
class Proportional:
    """eps = strength * level: finite at both ends of every schedule, so it suits Flow, Trig and bridges from t = 1.

    Args:
        strength: >= 0.

    Source: Ma et al. 2024 (SiT), table of diffusion coefficients.
    """

    strength: float = 1.0

    def __call__(self, process: Noisy, t: Tensor) -> Scalar:
        """Return strength * level."""
        return self.strength * process.level(t)


@final
@dataclass(frozen=True)
class Constant:
    """eps = strength at all times: the paper's choice for bridges, and that of a Schroedinger bridge.

    Args:
        strength: >= 0.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, section 2.4.
    """

    strength: float = 1.0

    def __call__(self, process: Noisy, t: Tensor) -> Scalar:
        """Return strength."""
        return self.strength


@final
@dataclass(frozen=True)
class Bump:
    """eps = strength * sin^2(pi t): noise in the middle of the way, none at either end.

    Args:
        strength: >= 0.

    Source: Ma et al. 2024 (SiT), "increasing-decreasing".
    """

    strength: float = 1.0

    def __call__(self, process: Noisy, t: Tensor) -> Scalar:
        """Return strength * sin^2(pi t)."""
        u = known(t)
        s: Scalar = torch.sin(math.pi * u) if isinstance(u, Tensor) else math.sin(math.pi * u)
        return self.strength * s * s


@final
@dataclass(frozen=True)
class SDE:
    """Euler-Maruyama on the reverse SDE: x_s = x + (s - t) (u + eps noise / level) + sqrt(2 eps (t - s)) z.

    A step that ends at the data itself is the deterministic step there (`settle`), without fresh noise.

    Args:
        diffusion: eps(t).

    Source: Song et al. 2021 (score SDE), section 4.1.
    """

    diffusion: Diffusion = field(default_factory=Anderson)

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Noisy,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s with one call.

        Raises:
            TypeError: If the noise law is not additive, or the estimate has no noise part, hence no score: a bridge
                with a velocity head alone.
            ValueError: If s > t, or the diffusion is infinite at t.
        """
        _needs_score(process)
        if holds(known(s) > known(t)):
            raise ValueError("SDE runs time downwards (s <= t); invert with a deterministic solver")
        x = state.x
        est = denoise(x, t)
        if all(name != "noise" for name in est.parts):
            raise TypeError(
                "a stochastic step needs a score, and this estimate has no noise part: a velocity alone gives none for "
                "a bridge; train a Noise head as well, or use a deterministic solver"
            )
        last = noiseless(process, s)
        jump = process.settle(x, t, s, est)
        fresh = process.noise.draw(x.shape, rng).to(x)
        if last is True:
            return State(jump)
        step = known(s) - known(t)
        eps = self.diffusion(process, t)
        drift = {name: step * rate for name, rate in process.rates(t).items()}
        drift["noise"] = drift.get("noise", 0.0) + step * eps / process.level(t)
        new = mix(1.0, est.add_to(1.0, x, drift), sqrt(-2.0 * eps * step), fresh)
        return State(torch.where(expand(last, x), jump, new) if isinstance(last, Tensor) else new)


@final
@dataclass(frozen=True)
class Langevin:
    """Annealed Langevin dynamics: rescale to the next level, then `num_corrections` Langevin steps at it.

    x <- x + eps * score + sqrt(2 eps) z, eps = (snr * sigma)^2

    Args:
        num_corrections: Steps a level, >= 1, one call each.
        snr: Size of a step against its noise, > 0; 0.16 is usual for images.

    Source: Song and Ermon 2019; the step size of Song et al. 2021, algorithm 4, with the score's expected norm
    1 / sigma in place of the measured one, so that rows do not depend on each other.
    """

    num_corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.num_corrections < 1 or not self.snr > 0.0:
            raise ValueError(f"Langevin needs num_corrections >= 1 and snr > 0, got {self}")

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
        """Move from t to s: one rescaling and `num_corrections` calls at s (one jump if s is the data)."""
        _needs_score(process)
        last = noiseless(process, s)
        jump = last is True or isinstance(last, Tensor)
        x = process.reverse(state.x, t, s, denoise(state.x, t), eta=0.0, rng=rng) if jump else None
        if last is True and x is not None:
            return State(x)
        alpha_t, sigma_t = process.coefficients(t)
        alpha_s, sigma_s = process.coefficients(s)
        ratio = sqrt((alpha_s * alpha_s + sigma_s * sigma_s) / (alpha_t * alpha_t + sigma_t * sigma_t))
        level = torch.where(last, t, s) if isinstance(last, Tensor) else s
        new = _correct(process, denoise, mix(ratio, state.x, 0.0, state.x), level, self.num_corrections, self.snr, rng)
        return State(torch.where(expand(last, new), x, new) if isinstance(last, Tensor) and x is not None else new)


@final
@dataclass(frozen=True)
class Corrected:
    """Predictor-corrector: a step of another solver, then Langevin steps at the level it reached.

    The other solver's history is dropped after each correction: it belongs to a state that was moved.

    Args:
        predictor: Solver of the predictor step.
        num_corrections: Langevin steps after each prediction, >= 1, one call each.
        snr: Size of a Langevin step against its noise, > 0.

    Source: Song et al. 2021 (score SDE), algorithm 1.
    """

    predictor: Solver[Gaussian, Moments]
    num_corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.num_corrections < 1 or not self.snr > 0.0:
            raise ValueError(f"Corrected needs num_corrections >= 1 and snr > 0, got {self}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start the predictor at x."""
        return self.predictor.init(x, t)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Predict from t to s, then correct at s unless s is the data."""
        _needs_score(process)
        state = self.predictor.step(process, denoise, state, t, s, rng)
        last = noiseless(process, s)
        if last is True:
            return state
        level = torch.where(last, t, s) if isinstance(last, Tensor) else s
        x = _correct(process, denoise, state.x, level, self.num_corrections, self.snr, rng)
        if isinstance(last, Tensor):
            x = torch.where(expand(last, x), state.x, x)
        return self.predictor.init(x, s)


def _correct(
    process: Gaussian,
    denoise: Callable[[Tensor, Tensor], Moments],
    x: Tensor,
    t: Tensor,
    num: int,
    snr: float,
    rng: Rng,
) -> Tensor:
    _, sigma = process.coefficients(t)
    for _ in range(num):
        fresh = process.noise.draw(x.shape, rng).to(x)
        # eps * score = -(snr sigma)^2 noise / sigma
        x = denoise(x, t).add_to(1.0, x, {"noise": -(snr**2) * sigma})
        x = mix(1.0, x, snr * 2.0**0.5 * sigma, fresh)
    return x


def _needs_score(process: Noisy) -> None:
    if not process.noise.additive:
        raise TypeError(f"a stochastic step needs a score, and {process.noise} has none of the form -noise / sigma")
