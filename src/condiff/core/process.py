"""Protocols of corruption: how data become noise, and what an estimate says about the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, final, runtime_checkable

from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import E, E_contra, Estimate, Moments, Row
from condiff.core.rng import Rng
from condiff.core.shapes import Num, Scalar


@final
@dataclass(frozen=True, slots=True)
class Draw:
    """Everything random in one corruption, kept: x (B, *S) at time t, made from `latents` ("data", "noise", ...)."""

    x: Tensor
    t: Tensor
    latents: Mapping[str, Tensor]


@runtime_checkable
class Process(Protocol[E_contra]):
    """A corruption of data over t in [0, 1] (0 is data, 1 is noise or source) and its reversal."""

    def given(self, cond: Condition | None) -> Self:
        """Bind a condition; the identity except for processes whose corruption depends on it."""
        ...

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt data (B, *S) to times t (a prefix of its shape); `known` latents are used instead of drawn."""
        ...

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw the state at t = 1, shape (B, *S)."""
        ...

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: E_contra, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at time s given the state at time t and an estimate of what made it."""
        ...

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], E_contra]) -> Tensor:
        """Turn the state at t = 0 into data: the identity unless the clock never reaches zero noise."""
        ...


@runtime_checkable
class Flowing(Process[Moments], Protocol):
    """A process with a probability flow: Gaussian, Interpolant."""

    def velocity(self, x: Tensor, t: Tensor, est: Moments) -> Tensor:
        """Return dx/dt of the probability flow at (x, t), shape (B, *S)."""
        ...

    def rates(self, t: Tensor) -> Row:
        """Return the row whose value is the velocity, in the parts of an estimate."""
        ...


@runtime_checkable
class Noisy(Flowing, Protocol):
    """A flowing process with a noise part, hence a score -noise / level: Gaussian, Interpolant with latent noise."""

    @property
    def noise(self) -> NoiseLaw:
        """Law of the noise."""
        ...

    def level(self, t: Tensor) -> Scalar:
        """Return the coefficient of the noise in the state, > 0 wherever a score may be asked for."""
        ...

    def settle(self, x: Tensor, t: Tensor, s: Tensor, est: Moments) -> Tensor:
        """Take one deterministic step from t to s, of use where s is the data themselves."""
        ...


class Tiltable(Protocol[E]):
    """A process that knows how a log-density gradient moves an estimate: Gaussian, Absorbing."""

    def tilt(self, x: Tensor, t: Tensor, est: E, grad: Tensor) -> E:
        """Return the estimate under density p(x_t) * exp(energy), grad = d energy / d x_t (logits for tokens)."""
        ...


class Schedule(Protocol):
    """Scalar functions of time, in host or tensor arithmetic; rates are analytic and tested against autograd."""

    def __call__(self, t: Num) -> tuple[Num, Num]:
        """Return (alpha, sigma): x_t = alpha * data + sigma * noise."""
        ...

    def rates(self, t: Num) -> tuple[Num, Num]:
        """Return the time derivatives of (alpha, sigma)."""
        ...

    def time(self, logsnr: Num) -> Num:
        """Return the t in [0, 1] at which log(alpha^2 / sigma^2) has this value; inverse for grids and time laws."""
        ...


class NoiseLaw(Protocol):
    """Law of the noise latent, zero mean: Normal(), Student(df), Offset(strength)."""

    @property
    def additive(self) -> bool:
        """Is it closed under scaled sums? Stochastic steps and tilts require it."""
        ...

    @property
    def standard(self) -> bool:
        """Is it N(0, I)? Only then is the score -noise / sigma, and only then do normal densities apply."""
        ...

    def draw(self, shape: Sequence[int], rng: Rng) -> Tensor:
        """Draw noise of shape (B, *S)."""
        ...

    def covary(self, x: Tensor) -> Tensor:
        """Apply the noise covariance to x (B, *S)."""
        ...


class Target(Protocol):
    """What a network regresses or a loss compares: a row of (data, noise)."""

    def row(self, schedule: Schedule, t: Num) -> tuple[Num, Num]:
        """Return (r_data, r_noise): the target is r_data * data + r_noise * noise."""
        ...


class Rowed(Process[Moments], Protocol):
    """A process whose training targets are rows of what made the state: Gaussian, Interpolant."""

    @property
    def schedule(self) -> Schedule:
        """Data against the rest; time laws and weights are written in it."""
        ...

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t, in the parts of a draw's latents and of an estimate."""
        ...


class Ended(Rowed, Protocol):
    """A process whose state at t = 1 is one latent alone, which a coupling may pair with the data."""

    @property
    def end(self) -> str:
        """Name of that latent: "noise" of a Gaussian process, "source" of a bridge."""
        ...

    def draw_end(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Draw it, shape (B, *S)."""
        ...


P = TypeVar("P", bound=Process[Moments])
P_any = TypeVar("P_any")
P_contra = TypeVar("P_contra", contravariant=True)

__all__ = [
    "Draw",
    "Ended",
    "Estimate",
    "Flowing",
    "NoiseLaw",
    "Noisy",
    "Process",
    "Row",
    "Rowed",
    "Scalar",
    "Schedule",
    "Target",
    "Tiltable",
]
