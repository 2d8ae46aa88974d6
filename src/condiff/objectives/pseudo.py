"""Labels for rows that have none, from a model of the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw
from condiff.core.rng import Rng


@final
@dataclass(frozen=True)
class PseudoLabels:
    """Another objective on rows whose missing number is predicted: y = reward(x) + noise * z.

    So a conditional model learns from all rows although few are labelled. The noise makes p(x | y) well defined where
    y would be a function of x; of the size of the labels' own noise it costs nothing.

    Put it around `Dropping`: a label dropped for guidance must stay dropped.

    Args:
        inner: The objective.
        reward: Predicts the condition of rows (B, *S), shape (B,), such as `nn.Ridge`.
        name: The condition, one number a row.
        noise: Standard deviation in units of the condition, > 0.

    Source: Yuan et al. 2023 (reward-directed conditional diffusion), algorithm 1.
    """

    inner: Objective[Moments]
    reward: Callable[[Tensor], Tensor]
    name: str
    noise: float

    def __post_init__(self) -> None:
        if not self.noise > 0.0:
            raise ValueError(f"pseudo-labels need noise > 0, got {self.noise}: without it p(x | y) is singular")

    def labelled(self, data: Tensor, cond: Condition, *, rng: Rng) -> Condition:
        """Return the condition with the missing numbers filled in; labels that are there stay."""
        with torch.no_grad():
            guess = self.reward(data) + self.noise * rng.normal((len(data),)).to(data)
        given, present = cond.values[self.name], cond.present[self.name]
        filled = torch.where(present[:, None], given, guess[:, None].to(given.dtype))
        everywhere = {**cond.present, self.name: torch.ones_like(present)}
        return replace(cond, values={**cond.values, self.name: filled}, present=everywhere)

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the inner loss with every row labelled.

        Raises:
            ValueError: If the condition lacks the name.
        """
        if cond is None or self.name not in cond.values:
            raise ValueError(f"pseudo-labels for {self.name!r} need it in the condition; flags say which rows have it")
        return self.inner(denoiser, data, self.labelled(data, cond, rng=rng), rng=rng, draw=draw)
