"""A transparent memo around a token denoiser without time: rows that did not change are not asked again.

Law 4 allows it because nobody can tell it is there but by the clock and the count of calls: the estimate of a row is a
pure function of its tokens and condition, and the memo keeps the last one of each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical


@final
class Memo:
    """Asks a denoiser only for the rows whose tokens changed since the last call.

    Args:
        denoiser: A token denoiser that gives equal estimates at all times, such as `Unmasked(TimeFree(net), process)`
            or `TokenTable`; one that reads the time would be asked too seldom.

    Attributes:
        calls: Calls of the denoiser.
        rows: Rows that were asked, over all calls.

    Source: Ou et al. 2025 (RADD); per row, where theirs keeps or recomputes a whole batch.
    """

    def __init__(self, denoiser: Denoiser[Categorical]) -> None:
        self.denoiser = denoiser
        self.calls = self.rows = 0
        # One record, replaced whole: another thread sees the old memo or the new one, never half of each.
        self._last: _Kept | None = None

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the estimate of ids x (B, L)."""
        last = self._last
        if last is None or last.x.shape != x.shape or last.cond is not cond:
            index = torch.arange(len(x), device=x.device)
            last = _Kept(x, cond, [], torch.full_like(index, -1), index)
        else:
            index = (last.x != x).flatten(1).any(1).nonzero().squeeze(1)
        count = len(index)
        if count:
            whole = count == len(x)
            some = cond if cond is None or whole else cond.rows(index)
            est = self.denoiser(x if whole else x[index], t[index] if t.ndim and not whole else t, some)
            self.calls += 1
            self.rows += count
            last = last.replacing(index, est, x)
            self._last = last
        return Categorical.deferred(last.logits)


@final
@dataclass(frozen=True)
class _Kept:
    """Which estimate holds the current answer for each row, and in which of its rows."""

    x: Tensor
    cond: Condition | None
    estimates: list[tuple[Categorical, int]]  # each with its number of rows
    source: Tensor
    place: Tensor

    def replacing(self, index: Tensor, est: Categorical, x: Tensor) -> _Kept:
        """Take the answers of some rows from a new estimate; estimates that no row needs any more are dropped."""
        source = self.source.index_fill(0, index, len(self.estimates))
        place = self.place.index_copy(0, index, torch.arange(len(index), device=x.device))
        used, source = source.unique(return_inverse=True)
        estimates = [(*self.estimates, (est, len(index)))[k] for k in used.tolist()]
        return _Kept(x.clone(), self.cond, estimates, source, place)

    def logits(self, where: Tensor | None) -> Tensor:
        """Gather logits from the estimates: rows stand in each in their own order, so parts are put in place whole."""
        if where is None:
            rows = list(zip(self.source.tolist(), self.place.tolist(), strict=True))
            return torch.stack([self.estimates[k][0].logits[row] for k, row in rows])
        row_of = where.nonzero()[:, 0]
        needed = self.source[row_of].unique().tolist() or self.source[:1].tolist()
        out: Tensor | None = None
        for k in needed:
            est, size = self.estimates[k]
            mine = self.source == k
            there = torch.zeros((size, *where.shape[1:]), dtype=torch.bool, device=where.device)
            there[self.place[mine]] = where[mine]
            found = est.at(there)
            out = found.new_empty(len(row_of), found.shape[-1]) if out is None else out
            out[mine[row_of]] = found
        assert out is not None
        return out


def expected_changes(num_steps: int, length: int) -> float:
    """Expect in how many of n equal steps of log-linear noise at least one of l masked positions is revealed.

    n (1 - (1 - 1/n)^l): n for a long text, l for many steps.

    Source: Ou et al. 2025 (RADD), E-NFE, eqs. D.27 and D.29 for log-linear noise and a uniform grid.
    """
    return float(num_steps * -torch.expm1(length * torch.log1p(torch.tensor(-1.0 / num_steps, dtype=torch.float64))))


def expected_calls(num_steps: int, length: int) -> float:
    """Expect the network calls a row of a run with a memo.

    The first call is always paid and what the last step changes needs none: 1 + (n - 1) (1 - (1 - 1/n)^l).
    """
    return 1.0 + (num_steps - 1) / num_steps * expected_changes(num_steps, length)
