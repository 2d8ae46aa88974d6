"""A network on windows of series that looks further back than its window, at some lags."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.guidance.observed import FLAGS, LEVEL, OBSERVED


def look_back(given: Tensor, older: Tensor, lags: tuple[int, ...]) -> Tensor:
    """Return what lay some steps earlier, for every step of a window: before it, or in what is given of it.

    Args:
        given: Values and flags of what is given of the window, (B, C, L); zero where nothing is.
        older: The same of the R steps before it, (B, C, R).
        lags: Steps back, each 1 to R.

    Returns: (B, C * len(lags), L).

    Raises:
        ValueError: If a lag reaches further back than `older`, or not back at all.
    """
    reach, length = older.shape[2], given.shape[2]
    if not all(1 <= lag <= reach for lag in lags):
        raise ValueError(f"lags must be 1 to {reach} steps, the steps before the window, got {list(lags)}")
    whole = torch.cat([older.to(given.dtype), given], 2)
    return torch.cat([whole[:, :, reach - lag : reach - lag + length] for lag in lags], 1)


def _known(cond: Condition, names: tuple[str, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return conditions (B, C, L), zero in the rows where they are absent."""
    return [torch.where(cond.present[name][:, None, None], cond.values[name], 0).to(dtype) for name in names]


@final
class LookBack(nn.Module):
    """Another network, whose condition "lags" is read off "given" and "older".

    A lag inside the window is what is *given* of it, so nothing hidden reaches the network by this way. Where "given"
    or "older" is absent, zeros stand for it: neither values nor flags.

    Args:
        inner: The network; its schema has "lags" as a picture of 2 * len(lags) channels.
        lags: Steps back.
        unread: Conditions that are for training and no input.
    """

    def __init__(self, inner: nn.Module, lags: tuple[int, ...], unread: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inner, self.lags, self.unread = inner, lags, unread

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Apply the network to windows (B, 1, L); absent conditions are the inner network's nulls."""
        if cond is None or not cond.values:
            out: Tensor = self.inner(x, t, cond)
            return out
        seen = cond.without("older", *self.unread)
        if self.lags and {"given", "older"} <= cond.values.keys():
            given, older = _known(cond, ("given", "older"), x.dtype)
            seen = seen.adding(lags=look_back(given, older, self.lags))
        out = self.inner(x, t, seen if seen.values else None)
        return out


@final
class Observing(nn.Module):
    """Another network over windows and their lags: what is observed is no input, but handed on for guidance.

    The state is (B, 1 + len(lags), L), a window and, in channel j, what lay lags[j - 1] steps before it. Of channel 0
    is observed what is "given", of the others what lies before the window ("older") or is given of it. The estimate's
    aux carries values and flags of the state's shape, and each row's quantile level where the condition has one.

    Args:
        inner: The network; its schema has none of the names that are observed here.
        lags: Steps back.
        unread: Conditions that are for training and no input.

    Source: Kollovieh et al. 2023 (TSDiff): one network that never sees a condition.
    """

    def __init__(self, inner: nn.Module, lags: tuple[int, ...], unread: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inner, self.lags, self.unread = inner, lags, unread

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply the network to windows (B, C, L), and hand on what is observed of them."""
        seen = None if cond is None else cond.without(*OBSERVATIONS, *self.unread)
        out: Tensor = self.inner(x, t, seen if seen is not None and seen.values else None)
        return out, {} if cond is None else observations(cond, self.lags, x.dtype)


OBSERVATIONS = ("given", "older", LEVEL)
"""Conditions that say what is observed, and at which quantile level a row is wanted."""


def observations(cond: Condition, lags: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Read what is observed of windows with lags off a condition; empty if it does not say.

    Args:
        cond: With "given" (B, 2, L), for lags "older" (B, 2, R), and "level" (B, 1) if rows have one.
        lags: Steps back.
        dtype: Of the answer.

    Returns: "observed" and "flags", (B, 1 + len(lags), L), and "level".
    """
    if "given" not in cond.values or (lags and "older" not in cond.values):
        return {}
    names = ("given", "older") if lags else ("given",)
    parts = _known(cond, names, dtype)
    both = torch.cat([parts[0], look_back(parts[0], parts[1], lags)], 1) if lags else parts[0]
    found = {OBSERVED: both[:, ::2], FLAGS: both[:, 1::2]}
    return {**found, LEVEL: cond.values[LEVEL].to(dtype)} if LEVEL in cond.values else found
