"""Teleport: the high-noise part of sampling by a closed form, without the network; another solver does the rest.

At high noise every data set looks like the Gaussian of its mean and covariance, whose probability flow is known
exactly. So the first steps can be one jump, and the network is first asked where the data differ from that Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.estimate import Moments
from condiff.core.rng import Rng, SomeRows
from condiff.core.shapes import expand, host, instant
from condiff.core.solver import Solver, State
from condiff.process.gaussian import Gaussian


class Known(Protocol):
    """A law of the data whose corruption is known in closed form, such as `oracles.GaussianData`."""

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the probability flow's state at s from x (B, *S) at t."""
        ...

    def marginal(self, shape: Sequence[int], t: Tensor, *, rng: Rng) -> Tensor:
        """Draw states (B, *S) of time t."""
        ...


@final
@dataclass(frozen=True)
class Teleport:
    """Moves by the exact flow of `known` while t > until, then by another solver, whose history starts at `until`.

    x_s = known.flow(x_t) for s >= until; a step across `until` is cut there. No network call above `until`.

    Deterministic: with the Gaussian that the data really have it ends where the other solver ends on an endless grid.
    For stochastic solvers take `Prior`, which redraws the noise as they do.

    Args:
        known: The closed form, fitted in the process's own space (after codec and scaling).
        until: Time in [0, 1] where the other solver takes over; `at_noise` finds it from a noise level.
        solver: The solver below `until`.

    Source: Wang and Vastola 2024 (Gaussian teleportation); there the jump ends at a node of the grid.
    """

    known: Known
    until: float
    solver: Solver[Gaussian, Moments]

    def __post_init__(self) -> None:
        _check(self.until)

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start the other solver's history at x."""
        return self.solver.init(x, t)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s; the network is called only where s < until."""

        def jump(x: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
            return self.known.flow(x, t, s)

        return _step(jump, self.until, self.solver, process, denoise, state, t, s, rng)


@final
@dataclass(frozen=True)
class Prior:
    """Draws the state at `until` from the corrupted `known` law, then moves by another solver: a start nearer the data.

    x_s ~ N(alpha_s mean, alpha_s^2 S + sigma_s^2 I) for s >= until with a Gaussian law; the state before is forgotten.

    Args:
        known: The closed form, fitted in the process's own space.
        until: Time in [0, 1] where the other solver takes over.
        solver: The solver below `until`, stochastic or not.
    """

    known: Known
    until: float
    solver: Solver[Gaussian, Moments]

    def __post_init__(self) -> None:
        _check(self.until)

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start the other solver's history at x."""
        return self.solver.init(x, t)

    def step(
        self,
        process: Gaussian,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s; the network is called only where s < until."""

        def jump(x: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
            return self.known.marginal(x.shape, s, rng=rng).to(x)

        return _step(jump, self.until, self.solver, process, denoise, state, t, s, rng)


def at_noise(process: Gaussian, kappa: float) -> float:
    """Return the time at which sigma / alpha is kappa > 0, or the nearer end of the clock."""
    if not kappa > 0.0:
        raise ValueError(f"a noise level must be > 0, got {kappa}")
    return float(process.schedule.time(-2.0 * torch.log(torch.tensor(kappa, dtype=torch.float64))))


def _check(until: float) -> None:
    if not 0.0 <= until <= 1.0:
        raise ValueError(f"until is a time in [0, 1], got {until}")


def _step(
    jump: Callable[[Tensor, Tensor, Tensor, Rng], Tensor],
    until: float,
    solver: Solver[Gaussian, Moments],
    process: Gaussian,
    denoise: Callable[[Tensor, Tensor], Moments],
    state: State,
    t: Tensor,
    s: Tensor,
    rng: Rng,
) -> State:
    start, stop = host(t), host(s)
    if start is not None and stop is not None:
        if start <= until:
            return solver.step(process, denoise, state, t, s, rng)
        middle = s if stop >= until else instant(until, t.device)
        state = solver.init(jump(state.x, t, middle, rng), middle)
        return state if stop >= until else solver.step(process, denoise, state, middle, s, rng)
    # Rows stand at different levels: each is moved, and draws noise, as it would alone.
    t, s = (value.to(torch.float64).expand(len(state.x)) if value.ndim == 0 else value for value in (t, s))
    early = t > until
    through = early & (s >= until)  # needs no step of the other solver
    middle = torch.where(early, s.clamp_min(until), t)
    if bool(early.any()):
        jumped = jump(state.x, t, middle, _for(rng, early))
        fresh = solver.init(torch.where(expand(early, state.x), jumped, state.x), middle)
        state = State(fresh.x, {name: _where(early, leaf, state.memory[name]) for name, leaf in fresh.memory.items()})
    if bool(through.all()):
        return state
    # What a row that is through would do next is computed with the others and thrown away.
    begin, end = torch.where(through, until, middle), torch.where(through, 0.5 * until, s)
    stepped = solver.step(process, denoise, state, begin, end, _for(rng, ~through))
    return State(
        _where(through, state.x, stepped.x),
        {name: _where(through, state.memory[name], leaf) for name, leaf in stepped.memory.items()},
    )


def _for(rng: Rng, rows: Tensor) -> Rng:
    whole = rows if rows.ndim == 1 else rows.flatten(1).any(1)
    return rng if bool(whole.all()) else SomeRows(rng, whole)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(expand(rows, yes), yes, no)
