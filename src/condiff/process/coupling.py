"""Couplings: with which noise a training example is paired, and how much the pair counts.

A coupling moves the noise and never the data, so that labels and whatever else belongs to an example stay with it, and
every example is seen exactly once. The pair it makes decides which velocity is learned; sampling does not change.
Couplings look at a whole batch, or weigh it: they are for training only (law 5 binds inference).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, Self, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.rng import Rng, key


class Coupling(Protocol):
    """Pairs the rows of a batch with noise, or with rows of a source."""

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return the noise of each row of data (B, *S), and weights (B,) of the pairs or None where all count alike."""
        ...


def pair_cost(data: Tensor, noise: Tensor) -> Tensor:
    """Return the transport cost of pairs, |noise - data|^2 summed over features, shape (B,)."""
    return (noise - data).flatten(1).square().sum(1)


@final
@dataclass(frozen=True)
class Independent:
    """Every example with its own noise: plain flow matching. Source: Lipman et al. 2023; Tong et al. 2024 (I-CFM)."""

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return the noise as it came."""
        return noise, None


@final
@dataclass(frozen=True)
class Gibbs:
    """Independent pairs weighted by w = exp(-(c - reference) / eps), c = |noise - data|^power: W-CFM.

    The minimiser is the velocity of the coupling proportional to w times the independent one: entropic transport
    without its potentials. Its marginals are therefore tilted, towards data near the noise; `log_tilt` and
    `effective_size` say how much.

    Args:
        eps: Temperature > 0 in units of the cost; infinity would be independent pairs, small values keep the nearest.
        power: 1 is the paper's Euclidean distance; 2 its square, for which closed forms exist.
        reference: Cost at which a pair weighs 1. None divides the weights by their mean over the batch instead, which
            never underflows and has a bias of order 1 / B.

    Source: Calvo-Ordonez et al. 2025 (weighted conditional flow matching). The normalisation is ours: raw weights
    of 1e-6 meet Adam's eps and weight decay.
    """

    eps: float
    power: float = 1.0
    reference: float | None = None

    def __post_init__(self) -> None:
        if not (self.eps > 0.0 and self.power > 0.0):
            raise ValueError(f"Gibbs needs eps > 0 and power > 0, got eps {self.eps} and power {self.power}")

    @classmethod
    def scaled(cls, kappa: float, num_features: int) -> Self:
        """Build with eps = kappa * sqrt(num_features): the distance of a pair grows with that root."""
        return cls(kappa * math.sqrt(num_features))

    def cost(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return |noise - data|^power, shape (B,)."""
        return pair_cost(data, noise).pow(0.5 * self.power)

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return the noise as it came, and the weights."""
        cost = self.cost(data, noise).detach()
        if self.reference is not None:
            return noise, torch.exp((self.reference - cost) / self.eps)
        return noise, torch.softmax(-cost / self.eps, 0) * len(cost)

    def log_tilt(self, data: Tensor) -> Tensor:
        """Return log of the mean weight of each example over N(0, I) noise at reference 0, shape (B,).

        N / 2 * log(eps / (eps + 2)) - |data|^2 / (eps + 2): by this factor the learned data law is off.

        Raises:
            ValueError: If power is not 2, for which alone there is this closed form.
        """
        if self.power != 2.0:
            raise ValueError(f"the tilt has a closed form for power 2 only, got {self.power}; measure it with `tilt`")
        flat = data.flatten(1)
        constant = 0.5 * flat.shape[1] * math.log(self.eps / (self.eps + 2.0))
        return constant - flat.square().sum(1) / (self.eps + 2.0)


@final
@dataclass(frozen=True)
class MinibatchOT:
    """Noise permuted so that the squared distances of the pairs are least: exact optimal transport in a batch.

    The permutation is exact within chunks of the batch, whose price grows with the cube of their size. Each further
    round cuts the batch into other chunks and improves on the last: two rounds of 256 keep 97 % of the exact gain of
    512 rows of digits, and 88 to 92 % of 2,048, at a small part of the price.

    Args:
        chunk: Rows a chunk, >= 2; None takes the batch whole.
        rounds: Rounds of chunks, >= 1; a batch that fits one chunk needs and gets one.

    Source: Tong et al. 2024 (OT-CFM); Pooladian et al. 2023. They draw pairs from the plan with replacement, which
    repeats some rows and drops others; the plan is a permutation and is used as one here. Rounds are ours. Needs the
    extra `[ot]`.
    """

    chunk: int | None = 256
    rounds: int = 2

    def __post_init__(self) -> None:
        if (self.chunk is not None and self.chunk < 2) or self.rounds < 1:
            raise ValueError(f"MinibatchOT needs chunk >= 2 and rounds >= 1, got {self.chunk} and {self.rounds}")

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return the noise in the order of the data it goes to.

        Raises:
            ImportError: If scipy is not installed.
        """
        return noise[self.order(data, noise)], None

    def order(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return for every row of data the row of noise it is paired with: a permutation, int64 (B,)."""
        one, other = data.detach().flatten(1).float(), noise.detach().flatten(1).float()
        order = torch.arange(len(data), device=data.device)
        size = self.chunk or max(len(data), 1)
        for number in range(self.rounds if len(data) > size else 1):
            for rows in _mixed(len(data), number).to(order.device).split(size):
                taken = order[rows]
                # |x - y|^2 = |x|^2 + |y|^2 - 2 x y, and the squares alone add the same to every permutation.
                order[rows] = taken[_assign(-(one[rows] @ other[taken].T)).to(order.device)]
        return order


@final
@dataclass(frozen=True)
class Sinkhorn:
    """Noise drawn from the rows of the entropic plan of a batch: the middle between independent and exact pairs.

    plan = diag(u) exp(-|noise - data|^2 / reg) diag(v), u and v scaled until every row and column holds 1 / B

    Each example keeps its place and draws one noise from its row of the plan, so noise may repeat within a batch.

    Args:
        reg: Temperature > 0 in units of the squared distance. reg -> 0 is MinibatchOT, infinity is Independent.
            2 sigma^2 goes with a Schroedinger bridge of diffusion sigma.
        num_iterations: Most rounds of scaling; they stop when the plan's rows are right to 1e-3.
        chunk: Rows a chunk, >= 2; None takes the batch whole.

    Source: Cuturi 2013; Tong et al. 2024 (SB-CFM).
    """

    reg: float
    num_iterations: int = 200
    chunk: int | None = 128

    def __post_init__(self) -> None:
        if not self.reg > 0.0 or self.num_iterations < 1 or (self.chunk is not None and self.chunk < 2):
            raise ValueError(f"Sinkhorn needs reg > 0, num_iterations >= 1 and chunk >= 2, got {self}")

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return one noise a row of data."""
        size = self.chunk or len(data)
        picked = []
        for first in range(0, len(data), size):
            here = slice(first, first + size)
            plan = self.plan(data[here], noise[here])
            picked.append(noise[here][rng.categorical(torch.log(plan)).to(noise.device)])
        return torch.cat(picked), None

    def plan(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return the entropic plan, float64 (B, B): rows are data, columns noise, and all sum to 1 / B."""
        cost = torch.cdist(data.detach().flatten(1).double(), noise.detach().flatten(1).double()).square()
        rows, columns = _potentials(cost, self.reg, self.num_iterations)
        return torch.exp((rows[:, None] + columns - cost) / self.reg)


@final
@dataclass(frozen=True)
class PerClass:
    """Another coupling within each class of the batch; rows without the class make one group of their own.

    A coupling across classes makes noise and class depend on each other, which a conditional sampler does not: it
    starts every class from all noise. Within classes, noise stays independent of the class.

    Args:
        inner: The coupling.
        name: Name of the class condition.

    Source: Cheng and Schwing 2025 for the effect; torchcfm's users report it too.
    """

    inner: Coupling
    name: str

    def couple(self, data: Tensor, noise: Tensor, cond: Condition | None, *, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Return the inner coupling's pairs, class by class.

        Raises:
            ValueError: If there is no such condition.
        """
        if cond is None or self.name not in cond.values:
            raise ValueError(f"PerClass needs a class condition named {self.name!r}, and the batch has none")
        group = torch.where(cond.present[self.name], cond.values[self.name].long(), -1)
        noise, weights = noise.clone(), torch.ones(len(data), device=data.device)
        for value in group.unique().tolist():
            rows = (group == value).nonzero().flatten()
            paired, weight = self.inner.couple(
                data[rows], noise[rows], cond.rows(rows), rng=_Some(rng, rows, len(data))
            )
            noise[rows] = paired
            if weight is not None:
                weights[rows] = weight.to(weights.dtype)
        return noise, weights


@final
@dataclass(frozen=True)
class _Some:
    """Some rows of a source of randomness: draws for the whole batch and keeps those rows."""

    inner: Rng
    index: Tensor
    count: int

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._kept(self.inner.normal(self._all(shape)))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._kept(self.inner.uniform(self._all(shape)))

    def strata(self, shape: Sequence[int]) -> Tensor:
        return self._kept(self.inner.strata(self._all(shape)))

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        return self._kept(self.inner.gamma(concentration, self._all(shape)))

    def categorical(self, logits: Tensor) -> Tensor:
        whole = logits.new_zeros((self.count, *logits.shape[1:]))
        whole[self.index.to(logits.device)] = logits
        return self._kept(self.inner.categorical(whole))

    def _all(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (self.count, *shape[1:])

    def _kept(self, drawn: Tensor) -> Tensor:
        return drawn[self.index.to(drawn.device)]


def _mixed(count: int, number: int) -> Tensor:
    """Return the rows of a batch in the order in which a round cuts them: as they are, then shuffled by its number."""
    if number == 0:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(key("chunks", number)))


def _potentials(cost: Tensor, reg: float, num_rounds: int) -> tuple[Tensor, Tensor]:
    """Return f and g of the plan exp((f_i + g_j - cost_ij) / reg), whose rows and columns sum to 1 / n in the limit.

    The rounds stop when every row is right to 1e-3; columns are right after any.
    """
    # The best pair of every row and column weighs 1, so that a small reg empties none.
    f = cost.min(1).values
    g = (cost - f[:, None]).min(0).values
    kernel = torch.exp((f[:, None] + g - cost) / reg)
    share, tiny = 1.0 / len(cost), torch.finfo(cost.dtype).tiny
    left = right = torch.ones_like(f)
    for round_ in range(num_rounds):
        right = share / (kernel.T @ left).clamp_min(tiny)
        reached = (kernel @ right).clamp_min(tiny)
        if round_ % 10 == 9 and bool(((left * reached - share).abs() < 1e-3 * share).all()):
            break
        left = share / reached
    return f + reg * left.log(), g + reg * right.log()


def _assign(cost: Tensor) -> Tensor:
    """Return the column of each row in the assignment of least total cost (n, n), int64 (n,).

    Potentials of the rows and columns do not change the assignment, but good ones shorten the search for it: those of
    ten rounds of Sinkhorn made 2,048 rows of 2 features ten times faster, and 64 features twice.
    """
    f, g = _potentials(cost, 0.05 * float(cost.mean() - cost.min()) + torch.finfo(cost.dtype).tiny, 10)
    reduced = cost.double() - f.double()[:, None] - g.double()
    return torch.from_numpy(_extra("scipy.optimize").linear_sum_assignment(reduced.cpu().numpy())[1]).long()


def _extra(module: str) -> Any:  # noqa: ANN401 - an optional module
    try:
        return import_module(module)
    except ImportError:
        raise ImportError("optimal transport needs scipy: pip install 'condiff[ot]'") from None
