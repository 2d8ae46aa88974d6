"""Learning a window from a part of it: the network sees what is revealed and is scored on what is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E, Moments
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.nn.lookback import look_back

SCENARIOS = ("random", "begin", "end")
"""Which part of a context is missing: single steps, a block at its begin, or a block right before the future."""


@final
@dataclass(frozen=True)
class Revealing:
    """Another objective on windows of which a part is hidden: the end, single steps, or a stretch.

    A row hides its last `horizon` steps with chance `future`. Of the others one half hides every step with a chance of
    its own, uniform in [0, 1], the other half one stretch of any length at any place. The condition "given" becomes
    what is left, values and flags (B, 2, L); "counted" is 1 where a step is hidden and was measured, for
    `Denoising.cells`. With an injected draw the end is hidden in every row: a paired evaluation must ask one question.

    Args:
        inner: The objective.
        horizon: Steps at the end of a window that are the future.
        future: Share of rows that hide the future, in [0, 1].

    Source: Tashiro et al. 2021 (CSDI) for learning from masks; the mix here is a forecaster's.
    """

    inner: Objective[Moments]
    horizon: int
    future: float = 0.75

    def __post_init__(self) -> None:
        if self.horizon < 1 or not 0.0 <= self.future <= 1.0:
            raise ValueError(f"need horizon >= 1 and future in [0, 1], got {self.horizon} and {self.future}")

    def shown(self, data: Tensor, *, rng: Rng) -> Tensor:
        """Draw what is revealed of windows (B, 1, L), 1 where the network may look."""
        rows, length = data.shape[0], data.shape[2]
        step = torch.arange(length, device=data.device)
        u = rng.uniform((rows, 5)).to(data.device)[..., None]
        single = rng.uniform((rows, length)).to(data.device) >= u[:, 1]
        size = 1 + (u[:, 2] * length).floor()
        begin = (u[:, 3] * (length - size + 1)).floor()
        stretch = (step < begin) | (step >= begin + size)
        other = torch.where(u[:, 4] < 0.5, single, stretch)
        return torch.where(u[:, 0] < self.future, self._ahead(data), other)[:, None].to(data.dtype)

    def _ahead(self, data: Tensor) -> Tensor:
        length = data.shape[2]
        return torch.arange(length, device=data.device) < length - self.horizon

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss of windows (B, 1, L), scored on what is hidden.

        Raises:
            ValueError: If the condition does not say what was measured.
        """
        if cond is None or "measured" not in cond.values:
            raise ValueError("windows need a condition 'measured' (B, 1, L) that says where they hold values")
        measured = cond.values["measured"].to(data.dtype)
        shown = self.shown(data, rng=rng) if draw is None else self._ahead(data).expand_as(data).to(data.dtype)
        flags = shown * measured
        seen = cond.adding(given=torch.cat([data * flags, flags], 1), counted=(1.0 - shown) * measured)
        kept = {"given": cond.present["given"]} if "given" in cond.present else {}
        return self.inner(denoiser, data, Condition(seen.values, {**seen.present, **kept}), rng=rng, draw=draw)


def hiding(scenario: str, u: Tensor, count: int) -> Tensor:
    """Return which steps of a context stay, bool (B, L), when `count` of them go missing.

    Args:
        scenario: "random", "begin" or "end".
        u: Uniform numbers (B, L); of "random", the steps with the smallest go.
        count: Steps that go, 0 to L.

    Raises:
        ValueError: If there is no such scenario, or not so many steps.

    Source: Kollovieh et al. 2023 (TSDiff): RM, BM-B and BM-E.
    """
    length = u.shape[1]
    if scenario not in SCENARIOS or not 0 <= count <= length:
        raise ValueError(f"{', '.join(SCENARIOS)} can hide 0 to {length} steps, got {scenario!r} and {count}")
    step = torch.arange(length, device=u.device)
    if scenario == "random":
        return u.argsort(1).argsort(1) >= count
    return (step >= count if scenario == "begin" else step < length - count).expand_as(u)


@final
@dataclass(frozen=True)
class Hiding:
    """Another objective whose network sees a context with a part missing: a conditional model for one scenario.

    Args:
        inner: The objective.
        horizon: Steps at the end of a window that are the future; the condition "given" has none of them.
        scenario: "random", "begin" or "end"; "" hides nothing.
        share: Share of the context that is hidden, in [0, 1].
    """

    inner: Objective[Moments]
    horizon: int
    scenario: str = ""
    share: float = 0.5

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss of windows (B, C, L); an injected draw hides by the same law."""
        if self.scenario and cond is not None:
            context = data.shape[2] - self.horizon
            u = rng.uniform((len(data), context)).to(data.device)
            stays = hiding(self.scenario, u, round(self.share * context))
            given = cond.values["given"] * nn.functional.pad(stays, (0, self.horizon))[:, None]
            cond = Condition({**cond.values, "given": given}, cond.present)
        return self.inner(denoiser, data, cond, rng=rng, draw=draw)


@final
@dataclass(frozen=True)
class Measured(Generic[E]):
    """Another objective on windows and their lags, scored where something was measured.

    Args:
        inner: The objective; `Denoising` with cells="counted".
        lags: Steps back that channels 1, 2, ... of the state look.
    """

    inner: Objective[E]
    lags: tuple[int, ...] = ()

    def __call__(
        self,
        denoiser: Denoiser[E],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss of windows (B, 1 + len(lags), L).

        Raises:
            ValueError: If the condition does not say what was measured.
        """
        if cond is None or "measured" not in cond.values:
            raise ValueError("windows need a condition 'measured' (B, 1, L) that says where they hold values")
        counted = cond.values["measured"]
        if self.lags:
            counted = torch.cat([counted, look_back(counted, cond.values["older"][:, 1:], self.lags)], 1)
        return self.inner(denoiser, data, cond.adding(counted=counted.to(data.dtype)), rng=rng, draw=draw)
