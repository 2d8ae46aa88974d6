"""Solvers of absorbing token processes beside `Jump`, which is Tweedie's tau-leaping.

All write a token once and never change it. Jump and `TokenEuler` reveal a random number of positions a step, each
drawn without knowing the others: wrong where they depend on each other, and first-order in the step. `Ordered` with a
step a token, and `FirstHitting` on any grid, reveal one at a time and are exact for an exact denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.estimate import Categorical
from condiff.core.rng import Rng
from condiff.core.shapes import expand
from condiff.core.solver import Solver, State
from condiff.guidance.tokens import TopP
from condiff.process.absorbing import Absorbing, unmask, write
from condiff.process.scalar import ratio


def _down(t: Tensor, s: Tensor) -> None:
    if bool((s > t).any()):
        raise ValueError("this solver only reveals tokens, so it needs s <= t; Jump can mask them again")


@final
@dataclass(frozen=True)
class TokenEuler:
    """Euler's step of the reverse jump process: a masked position is revealed with probability sigma w (t - s).

    On log-linear noise with eps = 0 that is (t - s) / t, the same as Jump. The last step, to t = 0, reveals the rest.

    Source: Lou et al. 2024 (SEDD); Ou et al. 2025 (RADD).
    """

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Absorbing,
        denoise: Callable[[Tensor, Tensor], Categorical],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s with one call.

        Raises:
            ValueError: If s > t.
        """
        _down(t, s)
        x = state.x
        t, s = t.to(torch.float64), s.to(torch.float64)
        keep = process.masking.keep(t)
        chance = ratio(process.masking.rate(t) * keep * (t - s), 1.0 - keep)
        chance = torch.where(s == 0.0, 1.0, chance)
        u = rng.uniform(x.shape).to(x.device)
        return State(unmask(x, (x == process.mask) & (u < expand(chance, x)), denoise(x, t), rng))


@final
@dataclass(frozen=True)
class Gained:
    """Jump with the rate that guidance by a classifier gives: positions are revealed sooner where the class gains.

    A mask is revealed with chance c g / (1 - c + c g), c = (alpha_s - alpha_t) / (1 - alpha_t) and g the estimate's
    `exp(aux["gain"])`, 1 if it has none. Exact for the tilted step; at scales above 1 unmasking then runs ahead of its
    schedule, and `Jump` does not.

    Source: Schiff et al. 2025 (discrete guidance): the mask is one of the tokens that are tilted.
    """

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Absorbing,
        denoise: Callable[[Tensor, Tensor], Categorical],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s with one call.

        Raises:
            ValueError: If s > t.
        """
        _down(t, s)
        x, est = state.x, denoise(state.x, t)
        hidden_t, hidden_s = process.masked(t), process.masked(s)
        chance = expand(ratio(hidden_t - hidden_s, hidden_t), x)
        gain = est.aux.get("gain")
        if gain is not None:
            weight = chance * gain.to(torch.float64).exp()
            chance = torch.where(chance == 1.0, 1.0, weight / (1.0 - chance + weight))
        u = rng.uniform(x.shape).to(x.device)
        return State(unmask(x, (x == process.mask) & (u < chance), est, rng))


@final
@dataclass(frozen=True)
class Ordered:
    """Reveals positions in a random order drawn at the start, an exact number of them a step.

    On a grid of as many equal steps as there are masks, one is revealed by each call. `State.memory["place"]` holds the
    share of masks at which each position is revealed.

    Source: Ou et al. 2025 (RADD), sampling in a random order; on coarser grids a stratified Jump.
    """

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x, its order not drawn yet."""
        return State(x, {"place": torch.full(x.shape, torch.nan, dtype=torch.float64, device=x.device)})

    def step(
        self,
        process: Absorbing,
        denoise: Callable[[Tensor, Tensor], Categorical],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s with one call.

        Raises:
            ValueError: If s > t.
        """
        _down(t, s)
        x, place = state.x, state.memory["place"]
        hidden = x == process.mask
        # Drawn at every step and used by rows that have no order yet: a row's stream must not depend on its neighbours.
        u = rng.uniform(x.shape).to(x.device)
        rank = torch.where(hidden, u, 2.0).flatten(1).argsort(1).argsort(1).reshape(x.shape)
        count = expand(hidden.flatten(1).sum(1), x)
        # The first node of a partly visible text has no more masks than lambda(t) says, whatever their number is.
        drawn = expand(process.masked(t), x) * (rank + 0.5) / count.clamp_min(1)
        place = torch.where(torch.isnan(place), drawn, place)
        low = torch.where(s == 0.0, -1.0, process.masked(s))
        return State(unmask(x, hidden & (place > expand(low, x)), denoise(x, t), rng), {"place": place})


@final
@dataclass(frozen=True)
class FirstHitting:
    """Simulates the reverse jump process exactly: each masked position has its own instant, one call an instant.

    Given a mask at t, the share lambda at which the position is revealed is uniform on (0, lambda(t)). Within an
    interval the instants of a row are taken in turn, so a whole run makes as many calls as the longest row has masks,
    on any grid.

    Source: Zheng et al. 2025 (first-hitting sampler), by drawing all instants at once.
    """

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Absorbing,
        denoise: Callable[[Tensor, Tensor], Categorical],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t down to s with one call for each instant of the busiest row.

        Raises:
            ValueError: If s > t.
        """
        _down(t, s)
        x = state.x
        hidden = x == process.mask
        share = rng.uniform(x.shape).to(x.device) * expand(process.masked(t), x)
        low = torch.where(s == 0.0, -1.0, process.masked(s))
        share = torch.where(hidden & (share > expand(low, x)), share, -1.0)
        u = rng.uniform(x.shape).to(x.device)
        turn = share.flatten(1).argsort(1, descending=True)
        for k in range(int((share >= 0.0).flatten(1).sum(1).max())):
            chosen = turn[:, k : k + 1]
            at = share.flatten(1).gather(1, chosen)
            where = torch.zeros_like(hidden).flatten(1).scatter(1, chosen, at >= 0.0).reshape(x.shape)
            now = process.masking.time(at.squeeze(1).clamp_min(0.0))
            x = write(x, where, denoise(x, now), u)
        return State(x)


@final
@dataclass(frozen=True)
class Nucleus:
    """Another solver, whose tokens are drawn from the smallest set of likeliest ones that has mass p.

    What a system is trained and measured with stays as it is; only what it writes loses its unlikely tails.

    Args:
        inner: The solver.
        p: In (0, 1]; 1 changes nothing.

    Source: Holtzman et al. 2020.
    """

    inner: Solver[Absorbing, Categorical]
    p: float

    def __post_init__(self) -> None:
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"Nucleus needs p in (0, 1], got {self.p}")

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start as the inner solver does."""
        return self.inner.init(x, t)

    def step(
        self,
        process: Absorbing,
        denoise: Callable[[Tensor, Tensor], Categorical],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from t to s as the inner solver does, with every estimate cut."""
        cut = TopP(lambda x, t, cond: denoise(x, t), self.p)
        return self.inner.step(process, lambda x, t: cut(x, t, None), state, t, s, rng)
