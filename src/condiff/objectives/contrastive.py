"""Contrastive terms beside any denoising loss: what is wrong for a condition is made unlikely under it.

The same state, time and estimate score the true data and some negatives, so a contrast costs no call of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E, E_contra, Moments
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw
from condiff.core.rng import Rng


class Score(Protocol[E_contra]):
    """How badly an estimate explains some data: nats, or a squared error."""

    def __call__(self, x: Tensor, t: Tensor, est: E_contra, target: Tensor) -> Tensor:
        """Return one number a row, (..., B), of data (..., B, *S) that need not have made the state x (B, *S)."""
        ...


@final
@dataclass(frozen=True)
class CleanError:
    """The squared distance of some data to the data estimate of a continuous system, summed over features.

    Args:
        scale: Divides it, as twice a variance would: what a nat is.
    """

    scale: float = 1.0

    def __call__(self, x: Tensor, t: Tensor, est: Moments, target: Tensor) -> Tensor:
        """Return distances (..., B) of targets (..., B, *S)."""
        axis = target.ndim - x.ndim + 1
        return (target - est.parts["data"]).square().flatten(axis).sum(axis) / self.scale


class Negatives(Protocol):
    """Where wrong data come from."""

    def __call__(self, data: Tensor, cond: Condition | None, *, rng: Rng) -> Tensor:
        """Return J negatives for every row of data (B, *S), as (J, B, *S)."""
        ...


@final
@dataclass(frozen=True)
class Shuffled:
    """The same data cut into pieces along axis 1 and put together in a wrong order, one order a batch and negative.

    Args:
        pieces: Pieces of equal length; what is left over at the end stays where it is.
        count: J, how many.

    Raises:
        ValueError: If there are fewer than 2 pieces or no negatives.

    Source: Zhu et al. 2023 (CDCD), intra-sample negatives. Theirs may draw the right order; here it is drawn again.
    """

    pieces: int = 8
    count: int = 10

    def __post_init__(self) -> None:
        if self.pieces < 2 or self.count < 1:
            raise ValueError(f"Shuffled needs pieces >= 2 and count >= 1, got {self.pieces} and {self.count}")

    def __call__(self, data: Tensor, cond: Condition | None, *, rng: Rng) -> Tensor:
        """Return (J, B, *S).

        Raises:
            ValueError: If the data are shorter than the pieces are many.
        """
        size = data.shape[1] // self.pieces
        if size < 1:
            raise ValueError(f"{self.pieces} pieces need at least as many tokens, got {data.shape[1]}")
        whole = torch.arange(data.shape[1], device=data.device)
        made = []
        for _ in range(self.count):
            order = rng.uniform((len(data), self.pieces))[0].argsort()
            while torch.equal(order, torch.arange(self.pieces)):
                order = rng.uniform((len(data), self.pieces))[0].argsort()
            index = whole.clone()
            index[: size * self.pieces] = whole[: size * self.pieces].reshape(self.pieces, size)[order].flatten()
            made.append(data[:, index])
        return torch.stack(made)


@final
@dataclass(frozen=True)
class OtherRows:
    """Rows of the batch whose condition is another; a row without any, or without condition, gets itself.

    Args:
        name: A class condition, or numbers; rows of equal values are no negatives of each other.
        count: J, how many, with repetition.

    Source: Zhu et al. 2023 (CDCD), inter-sample negatives, which are listed beforehand there.
    """

    name: str
    count: int = 10

    def __call__(self, data: Tensor, cond: Condition | None, *, rng: Rng) -> Tensor:
        """Return (J, B, *S).

        Raises:
            ValueError: If there is no such condition.
        """
        if cond is None or self.name not in cond.values:
            raise ValueError(
                f"negatives by {self.name!r} need that condition; there are {sorted(cond.values) if cond else []}"
            )
        value = (
            cond.values[self.name].flatten(1) if cond.values[self.name].ndim > 1 else cond.values[self.name][:, None]
        )
        other = (value[:, None] != value[None]).any(-1) & cond.present[self.name][:, None]
        other |= torch.eye(len(data), dtype=torch.bool, device=data.device) & ~other.any(1, keepdim=True)
        weight = torch.where(other, 0.0, -torch.inf)
        return torch.stack([data[rng.categorical(weight)] for _ in range(self.count)])


@final
@dataclass(frozen=True)
class Listed:
    """Negatives that come with the data, as a condition (B, J, *S) which the network does not see.

    Args:
        name: Name of the condition.
    """

    name: str = "negatives"

    def __call__(self, data: Tensor, cond: Condition | None, *, rng: Rng) -> Tensor:
        """Return (J, B, *S).

        Raises:
            ValueError: If there is no such condition.
        """
        if cond is None or self.name not in cond.values:
            raise ValueError(f"listed negatives need a condition named {self.name!r}")
        return cond.values[self.name].to(data.dtype).transpose(0, 1)


class Form(Protocol):
    """What is made of the score of the truth and of the negatives."""

    def __call__(self, truth: Tensor, wrong: Tensor) -> Tensor:
        """Return the term (B,) of scores (B,) and (J, B); less is better."""
        ...


@final
@dataclass(frozen=True)
class Difference:
    """Minus the mean score of the negatives, as the official code has it: unbounded below.

    It goes on pushing a negative that is long impossible, at no cost to the truth; `floor` stops it.

    Args:
        floor: Scores above it push no more; None never stops.

    Source: Zhu et al. 2023 (CDCD), official code.
    """

    floor: float | None = None

    def __call__(self, truth: Tensor, wrong: Tensor) -> Tensor:
        """Return the term (B,)."""
        return -(wrong if self.floor is None else wrong.clamp_max(self.floor)).mean(0)


@final
@dataclass(frozen=True)
class InfoNCE:
    """-log of the share of the truth among truth and negatives, each weighed by exp(-score).

    log(J + 1) minus it bounds the mutual information of data and condition from below. A negative that is long
    impossible pushes no more.

    Source: van den Oord et al. 2018; Zhu et al. 2023 (CDCD), as the paper derives it.
    """

    def __call__(self, truth: Tensor, wrong: Tensor) -> Tensor:
        """Return the term (B,)."""
        return torch.logsumexp(torch.cat([-truth[None], -wrong]), 0) + truth


def rising(t: Tensor) -> Tensor:
    """Return 1 + t: contrast counts for more at high noise. Source: Zhu et al. 2023 (CDCD)."""
    return 1.0 + t


@final
@dataclass(frozen=True)
class Contrastive(Generic[E]):
    """Another objective, and a contrast of the true data with negatives at the same state.

    loss_b = inner_b + weight when(t) form(score(truth), score(negatives)) / L

    Args:
        inner: The objective; it calls the denoiser once.
        score: How an estimate is compared with data.
        negatives: Wrong data.
        form: What is made of the scores.
        weight: lambda; 0 is the inner objective, bit for bit. With `Difference`, keep it below 1e-3 or set a floor.
        when: Weight over time.

    Source: Zhu et al. 2023 (CDCD).
    """

    inner: Objective[E]
    score: Score[E]
    negatives: Negatives
    form: Form = field(default_factory=InfoNCE)
    weight: float = 0.5
    when: Callable[[Tensor], Tensor] = rising

    def __call__(
        self,
        denoiser: Denoiser[E],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the loss rows of data (B, *S)."""
        asked = cond.without(self.negatives.name) if isinstance(self.negatives, Listed) and cond is not None else cond
        seen: list[tuple[Tensor, Tensor, E]] = []

        def listening(x: Tensor, t: Tensor, cond: Condition | None) -> E:
            est = denoiser(x, t, cond)
            seen.append((x, t, est))
            return est

        loss = self.inner(listening, data, asked, rng=rng, draw=draw)
        if self.weight == 0.0:
            return loss
        if len(seen) != 1:
            raise ValueError(
                f"a contrast needs an objective that calls the denoiser once, this one made {len(seen)} calls"
            )
        x, t, est = seen[0]
        wrong = self.score(x, t, est, self.negatives(data, cond, rng=rng))
        term = self.when(t) * self.form(self.score(x, t, est, data), wrong) / data[0].numel()
        return Loss(loss.rows + self.weight * term.to(loss.rows.dtype), loss.terms)
