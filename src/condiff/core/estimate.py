"""What a denoiser returns: a posterior over whatever made the state (law 3).

A continuous state is `x_t = sum_k c_k(t) z_k` with hidden variables z such as data, noise and source. `Moments` holds
the posterior mean of each z; a token state has `Categorical` logits instead. Both combine by `lerp` in their natural
parameters, which is what guidance does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar, final

import torch
from torch import Tensor

from condiff.core.shapes import Scalar, expand, mix, scale

Row = Mapping[str, Scalar]
"""Coefficients of the hidden variables: a linear combination `sum_k row[k] z_k`."""


class Estimate(Protocol):
    """Posterior over what made x_t. `lerp` works in natural parameters; `aux` carries losses and log-variances."""

    @property
    def aux(self) -> Mapping[str, Tensor]:
        """Extra outputs of the network by name: expert balance, log-variance, ..."""
        ...

    def lerp(self, other: Self, weight: Tensor | float) -> Self:
        """Return (1 - weight) * self + weight * other in natural parameters; weight beyond 1 extrapolates."""
        ...

    def halves(self, x: Tensor) -> tuple[Self, Self]:
        """Split an estimate of two stacked copies of x (B, *S) into one for each copy."""
        ...


class Reader(Protocol):
    """What reads means off a state and an estimate of a target: a process with two hidden variables."""

    def weights(self, target: Any, t: Tensor, row: Row) -> tuple[Scalar, Scalar]:  # noqa: ANN401
        """Return (a, b) with sum_k row[k] z_k = a x + b out, nan where a target does not determine it."""
        ...

    def read(self, target: Any, t: Tensor, row: Row) -> tuple[Scalar, Scalar]:  # noqa: ANN401
        """Return `weights`, or raise a ValueError that names target and time where they are not determined."""
        ...


class Affine(Mapping[str, Tensor]):
    """Posterior means read off a state and one network output: `z_k = a_k x + b_k out`, each made when asked for.

    A solver that needs only a combination of them gets it in one fused step, without making any mean.

    Args:
        x: State, shape (B, *S).
        t: Time of the state, any prefix shape of x.
        out: Network output, shape (B, *S).
        reader: The process; it knows (a_k, b_k), and raises where state and output do not determine the means.
        target: What `out` estimates; a reader that asks for the same gets `out` itself.
    """

    __slots__ = ("_made", "out", "reader", "t", "target", "x")

    def __init__(self, x: Tensor, t: Tensor, out: Tensor, reader: Reader, target: object) -> None:
        self.x, self.t, self.out, self.reader, self.target = x, t, out, reader, target
        self._made: dict[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self._made is None:
            self._made = {}
        if name not in self._made:
            self._made[name] = self.fold(0.0, {name: 1.0})
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("data", "noise"))

    def __len__(self) -> int:
        return 2

    def fold(self, c: Scalar, row: Row, gain: Scalar = 1.0) -> Tensor:
        """Return c * x + gain * sum_k row[k] z_k in at most two operations."""
        a, b = self.reader.read(self.target, self.t, row)
        return mix(c + gain * a, self.x, gain * b, self.out)


@final
@dataclass(frozen=True)
class Moments:
    """Posterior means of the hidden variables of a continuous state.

    Args:
        parts: "data", "noise", and for a bridge "source", each (B, *S).
        aux: Extra network outputs.
    """

    parts: Mapping[str, Tensor]
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    def lerp(self, other: Moments, weight: Tensor | float) -> Moments:
        """Return means (1 - weight) * self + weight * other; weight is a float or a prefix-shaped tensor.

        aux is other's: the second estimate is the conditional one in every guidance of this library.
        """
        mine, its = self.parts, other.parts
        if (
            isinstance(mine, Affine)
            and isinstance(its, Affine)
            and mine.x is its.x
            and mine.t is its.t
            and mine.target == its.target
            and mine.reader == its.reader
        ):  # same state and same target: the network outputs combine like the means (conversions are affine)
            return Moments(Affine(its.x, its.t, _lerp(mine.out, its.out, weight), its.reader, its.target), other.aux)
        return Moments({name: _lerp(mine[name], its[name], weight) for name in its}, other.aux)

    def halves(self, x: Tensor) -> tuple[Moments, Moments]:
        """Split an estimate of two stacked copies of x (B, *S) into one for each copy."""
        size = x.shape[0]
        ends = (slice(0, size), slice(size, 2 * size))
        whole = self.parts
        if isinstance(whole, Affine):
            t = _cut(whole.t, ends[0])  # copies stand at the same times
            if whole.x.shape[1:] != x.shape[1:]:  # an estimate of a part of the state
                x = whole.x[ends[0]]
            first, second = (
                Moments(
                    Affine(x, t, whole.out[at], whole.reader, whole.target),
                    {k: _cut(v, at) for k, v in self.aux.items()},
                )
                for at in ends
            )
            return first, second
        first, second = (
            Moments({k: v[at] for k, v in whole.items()}, {k: _cut(v, at) for k, v in self.aux.items()}) for at in ends
        )
        return first, second

    def read(self, row: Row, target: object) -> Tensor:
        """Return the value of a row; the network's own output if that is what estimates the target of this row."""
        if isinstance(self.parts, Affine) and self.parts.target == target:
            return self.parts.out
        return self.combine(row)

    def combine(self, row: Row) -> Tensor:
        """Return sum_k row[k] z_k, shape (B, *S).

        Raises:
            KeyError: If the row names a hidden variable that this estimate lacks.
        """
        return self.parts.fold(0.0, row) if isinstance(self.parts, Affine) else _sum(self.parts, row)

    def add_to(self, c: Scalar, x: Tensor, row: Row, gain: Scalar = 1.0) -> Tensor:
        """Return c * x + gain * sum_k row[k] z_k, shape (B, *S), in as few operations as the estimate allows."""
        row = {name: weight for name, weight in row.items() if isinstance(weight, Tensor) or weight != 0.0}
        if not row:
            return scale(c, x)
        if isinstance(self.parts, Affine) and x is self.parts.x:
            return self.parts.fold(c, row, gain)
        if len(row) == 1:
            (name, weight), *_ = row.items()
            return mix(c, x, gain * weight, self.parts[name])
        return mix(c, x, gain, self.combine(row))


def _cut(value: Tensor, at: slice) -> Tensor:
    return value[at] if value.ndim else value


def _sum(parts: Mapping[str, Tensor], row: Row) -> Tensor:
    terms = [
        (weight, parts[name])
        for name, weight in row.items()
        if isinstance(weight, Tensor) or weight != 0.0 or len(row) == 1 or name in parts
    ]
    if not terms:
        raise ValueError("a row needs at least one hidden variable")
    (weight, total), *rest = terms
    if not rest:
        return scale(weight, total)
    total = mix(weight, total, *rest[0])
    for weight, part in rest[1:]:
        total = mix(1.0, total, weight, part)
    return total


def _lerp(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    if isinstance(weight, Tensor):
        return torch.lerp(a, b, expand(weight, a).to(a.dtype))
    return torch.lerp(a, b, weight)


@final
class Categorical:
    """Posterior over tokens, one distribution a position.

    Logits may be made only where somebody asks: a large vocabulary makes the last layer and its softmax the dearest
    part of a step, and a step needs them only at the few positions that it reveals.

    Args:
        logits: Unnormalised log-probabilities, shape (B, *S, V).
        aux: Extra network outputs.
    """

    def __init__(self, logits: Tensor, aux: Mapping[str, Tensor] | None = None) -> None:
        self._logits: Tensor | None = logits
        self._make: Callable[[Tensor | None], Tensor] = lambda where: logits if where is None else logits[where]
        self.aux: Mapping[str, Tensor] = aux or {}

    @classmethod
    def deferred(cls, make: Callable[[Tensor | None], Tensor], aux: Mapping[str, Tensor] | None = None) -> Self:
        """Build an estimate from a function of positions.

        Args:
            make: Called as make(where) with a bool (B, *S), returns the logits there, (K, V) in the order of
                `where.nonzero()`; with None, all of them (B, *S, V).
            aux: Extra network outputs.
        """
        est = cls.__new__(cls)
        est._logits, est._make, est.aux = None, make, aux or {}
        return est

    @property
    def logits(self) -> Tensor:
        """Unnormalised log-probabilities of all positions, (B, *S, V)."""
        if self._logits is None:
            self._logits = self._make(None)
        return self._logits

    def at(self, where: Tensor) -> Tensor:
        """Return the logits where a bool (B, *S) holds, (K, V) in the order of `where.nonzero()`."""
        return self._make(where) if self._logits is None else self._logits[where]

    def map(self, change: Callable[[Tensor], Tensor]) -> Categorical:
        """Return the estimate whose logits are change(logits), a function of each position's own (..., V)."""
        return Categorical.deferred(lambda where: change(self.logits if where is None else self.at(where)), self.aux)

    def halves(self, x: Tensor) -> tuple[Categorical, Categorical]:
        """Split an estimate of two stacked copies of x (B, *S) into one for each copy."""
        size = x.shape[0]

        def piece(at: slice) -> Categorical:
            def make(where: Tensor | None) -> Tensor:
                if where is None:
                    return self.logits[at]
                other = torch.zeros_like(where)
                return self.at(torch.cat([where, other] if at.start == 0 else [other, where]))

            return Categorical.deferred(make, {k: _cut(v, at) for k, v in self.aux.items()})

        return piece(slice(0, size)), piece(slice(size, 2 * size))

    def lerp(self, other: Categorical, weight: Tensor | float) -> Categorical:
        """Return the normalised product of experts self^(1 - weight) * other^weight; weight is a float or prefix."""

        def make(where: Tensor | None) -> Tensor:
            if where is None:
                mine, its = self.logits, other.logits
                share = expand(weight, mine) if isinstance(weight, Tensor) else weight
            else:
                mine, its = self.at(where), other.at(where)
                share = weight
                if isinstance(weight, Tensor):
                    share = expand(weight, where).expand(where.shape)[where].unsqueeze(-1)
            return _product(mine, its, share)

        return Categorical.deferred(make, other.aux)


def _product(mine: Tensor, its: Tensor, weight: Tensor | float) -> Tensor:
    mine, its = torch.log_softmax(mine, -1), torch.log_softmax(its, -1)
    # A token that an expert of nonzero exponent forbids stays forbidden; 0 * -inf and inf - inf must not give nan.
    share = torch.as_tensor(weight, device=mine.device)
    forbidden = (torch.isneginf(mine) & (share != 1)) | (torch.isneginf(its) & (share != 0))
    mine, its = mine.nan_to_num(neginf=-1e30), its.nan_to_num(neginf=-1e30)
    mixed = torch.lerp(mine.masked_fill(forbidden, 0.0), its.masked_fill(forbidden, 0.0), share.to(mine.dtype))
    return torch.log_softmax(mixed.masked_fill(forbidden, -torch.inf), -1)


E = TypeVar("E", bound=Estimate)
E_co = TypeVar("E_co", bound=Estimate, covariant=True)
E_contra = TypeVar("E_contra", bound=Estimate, contravariant=True)
