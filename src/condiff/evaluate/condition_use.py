"""Is the condition used? Held-out loss with the true, another row's, and no condition, on the same random draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.rng import key
from condiff.evaluate.metric import Metric, mean, stream

LossRows = Callable[[Tensor, Condition | None, int], Tensor]
"""Losses (B,) of data (B, *S) under a condition; all randomness is a pure function of the integer."""


@final
@dataclass(frozen=True, slots=True)
class ConditionUse:
    """What a condition is worth to a model, in held-out loss.

    Args:
        name: The condition's name; several joined by " + " when they were exchanged together.
        loss: Mean loss with the true condition.
        shuffled: Rise of the loss when each row gets another row's value; None if all rows hold the same value.
        dropped: Rise of the loss without the condition.
        parts: The same for each name alone, when there are several.
    """

    name: str
    loss: Metric
    shuffled: Metric | None
    dropped: Metric
    parts: tuple[ConditionUse, ...] = ()

    @property
    def used(self) -> bool:
        """Is the loss surely higher with another row's value?"""
        return self.shuffled is not None and self.shuffled.interval[0] > 0

    @property
    def verdict(self) -> str:
        """Say it in plain sentences."""
        dropped = f"Dropping it changes the loss by {_change(self.dropped, self.loss)}."
        if self.shuffled is None:
            return f"Whether {self.name!r} is used cannot be told: every row holds the same value. {dropped}"
        low, high = self.shuffled.interval
        change = _change(self.shuffled, self.loss)
        if low > 0:
            return (
                f"The condition {self.name!r} is used: another row's value raises the held-out loss by {change}. "
                f"{dropped}"
            )
        if high < 0:
            return (
                f"The condition {self.name!r} misleads the model: another row's value lowers the held-out loss, by "
                f"{change}. {dropped}"
            )
        return (
            f"No use of the condition {self.name!r} can be shown: another row's value changes the held-out loss by "
            f"{change}. {dropped}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "name": self.name,
            "used": self.used,
            "verdict": self.verdict,
            "loss": self.loss.to_json(),
            "shuffled": None if self.shuffled is None else self.shuffled.to_json(),
            "dropped": self.dropped.to_json(),
            "parts": [part.to_json() for part in self.parts],
        }


def condition_use(
    loss_rows: LossRows,
    data: Tensor,
    cond: Condition,
    *,
    seed: int,
    name: str | None = None,
    num_draws: int = 4,
) -> ConditionUse:
    """Compare held-out losses with the true, another row's and no condition, paired row by row and draw by draw.

    The three losses of a row share times and noise, so their difference has far less variance than either. Rows whose
    condition is absent are left out, and so, for the exchange, are rows that had to receive an equal value.

    A null that was never trained (no dropout in training) makes the dropped loss meaningless, but not the shuffled one.

    Args:
        loss_rows: Losses by row; called with equal integers, it must draw equal numbers.
        data: Held-out rows (B, *S).
        cond: Their conditions.
        seed: Names the draws, the exchange of rows and the intervals.
        name: The one condition to test; None tests all together, and each alone as well if there are several.
        num_draws: Times and noises a row; its losses are averaged.

    Returns: Mean loss, both differences with intervals, a verdict, and parts by name.

    Raises:
        ValueError: If rows disagree, fewer than 2 rows have the condition, the losses are not finite (B,), or
            loss_rows gives other losses when called again with the same integer.
        KeyError: If cond has no such name.
    """
    if not cond.values or len(cond) != len(data):
        raise ValueError(
            f"there are {len(data)} rows of data and a condition of {len(cond)} rows named {sorted(cond.values)}; "
            "give one condition a row"
        )
    if name is not None and name not in cond.values:
        raise KeyError(f"no condition named {name!r}; there are {sorted(cond.values)}")
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    _repeatable(loss_rows, data, cond, seed)
    true = _losses(loss_rows, data, cond, seed, num_draws)
    names = (name,) if name is not None else tuple(sorted(cond.values))
    parts = [_use(loss_rows, data, cond, true, (one,), seed, num_draws) for one in names]
    if len(names) == 1:
        return parts[0]
    whole = _use(loss_rows, data, cond, true, names, seed, num_draws)
    return ConditionUse(whole.name, whole.loss, whole.shuffled, whole.dropped, tuple(parts))


def exchange(labels: list[bytes], *, seed: int) -> Tensor:
    """Draw a permutation without fixed points that gives as many rows as possible a different value.

    Rows are laid out by value, the commonest first, and shifted by the size of its group. If no value fills more than
    half of the rows, every row gets another value; otherwise twice the rest do, which is the most there can be.

    Args:
        labels: What each row holds, N >= 2; equal bytes are equal values.
        seed: Names the order of groups and of rows within them.

    Returns: Permutation (N,), int64: row i receives the value of row permutation[i].

    Raises:
        ValueError: If there are fewer than 2 rows.
    """
    n = len(labels)
    if n < 2:
        raise ValueError(f"values can be exchanged among 2 rows or more, got {n}")
    groups: dict[bytes, list[int]] = {}
    for row in torch.randperm(n, generator=stream(seed, "exchange")).tolist():
        groups.setdefault(labels[row], []).append(row)  # random order of groups and of rows within
    ordered = sorted(groups.values(), key=len, reverse=True)
    rows = torch.tensor([row for group in ordered for row in group])
    shift = len(ordered[0]) if len(ordered) > 1 else 1
    out = torch.empty(n, dtype=torch.int64)
    out[rows] = rows.roll(-shift)
    return out


def _use(
    loss_rows: LossRows, data: Tensor, cond: Condition, true: Tensor, names: tuple[str, ...], seed: int, num_draws: int
) -> ConditionUse:
    label = " + ".join(names)
    has = torch.stack([cond.present[one].cpu() for one in names]).any(0)
    rows = has.nonzero().flatten()
    if len(rows) < 2:
        raise ValueError(f"only {len(rows)} held-out rows have the condition {label!r}; at least 2 are needed")
    labels = _labels(cond, names, rows)
    source = torch.arange(len(data))
    source[rows] = rows[exchange(labels, seed=key(seed, label))]
    place = {int(row): i for i, row in enumerate(rows)}
    changed = torch.tensor([labels[place[int(r)]] != labels[place[int(source[r])]] for r in rows])
    note = f"paired: same times and noise, {num_draws} a row"
    dropped = _losses(loss_rows, data, cond.null(*names), seed, num_draws) - true
    shuffled = None
    if int(changed.sum()) >= 2:
        rise = _losses(loss_rows, data, _taking(cond, names, source), seed, num_draws) - true
        shuffled = mean(
            rise[rows[changed]],
            name=f"shuffled {label}",
            definition=f"held-out loss with another row's different {label} minus that with the true one; {note}",
            seed=seed,
        )
    return ConditionUse(
        name=label,
        loss=mean(
            true[rows],
            name="loss",
            definition=f"held-out loss with the true condition, over rows that have {label}",
            seed=seed,
        ),
        shuffled=shuffled,
        dropped=mean(
            dropped[rows],
            name=f"dropped {label}",
            definition=f"held-out loss without {label} minus that with the true one; {note}",
            seed=seed,
        ),
    )


def _labels(cond: Condition, names: tuple[str, ...], rows: Tensor) -> list[bytes]:
    """Bytes by row that are equal where the named conditions are, presence included."""
    out = [b""] * len(rows)
    for one in names:
        values, flags = cond.values[one].detach().cpu().contiguous(), cond.present[one].cpu()
        for i, row in enumerate(rows.tolist()):
            # An absent row's stored value is no part of what it holds.
            out[i] += b"\1" + values[row].reshape(-1).view(torch.uint8).numpy().tobytes() if flags[row] else b"\0"
    return out


def _taking(cond: Condition, names: tuple[str, ...], source: Tensor) -> Condition:
    """Give every row the named conditions of row source[b]."""
    other = cond.rows(source)
    return Condition(
        {k: other.values[k] if k in names else v for k, v in cond.values.items()},
        {k: other.present[k] if k in names else v for k, v in cond.present.items()},
    )


def _losses(loss_rows: LossRows, data: Tensor, cond: Condition, seed: int, num_draws: int) -> Tensor:
    """Losses (B,) averaged over draws, float64 on the host."""
    total = torch.zeros(len(data), dtype=torch.float64)
    with torch.no_grad():
        for draw in range(num_draws):
            rows = loss_rows(data, cond, key(seed, "condition use", draw))
            if rows.shape != (len(data),):
                raise ValueError(f"loss_rows must return one loss a row, ({len(data)},), got {tuple(rows.shape)}")
            total += rows.detach().to("cpu", torch.float64)
    if not bool(total.isfinite().all()):
        raise ValueError(f"{int((~total.isfinite()).sum())} of {len(data)} losses are not finite")
    return total / num_draws


def _repeatable(loss_rows: LossRows, data: Tensor, cond: Condition, seed: int) -> None:
    """Refuse losses that are not a function of their seed: unpaired differences would look like noise or like use."""
    few = torch.arange(min(4, len(data)))
    with torch.no_grad():
        one, again = (loss_rows(data[few], cond.rows(few), key(seed, "repeat")) for _ in range(2))
    if not torch.allclose(one.double(), again.double(), rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ValueError(
            "loss_rows gave different losses for equal arguments; draw its times and noise from a generator seeded "
            "with its third argument, and put the network in evaluation (no dropout)"
        )


def _change(difference: Metric, loss: Metric) -> str:
    low, high = difference.interval
    percent = f", {difference.value / abs(loss.value):+.1%}" if loss.value else ""
    return f"{difference.value:+.4g} (95 % interval {low:+.4g} to {high:+.4g}{percent}, n = {difference.n})"
