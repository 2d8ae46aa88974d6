"""What a denoiser returns: a posterior over whatever made the state (law 3).

A continuous state is `x_t = sum_k c_k(t) z_k` with hidden variables z such as data, noise and source. `Moments` holds
the posterior mean of each z; a token state has `Categorical` logits instead. Both combine by `lerp` in their natural
parameters, which is what guidance does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar, final

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


class Affine(Mapping[str, Tensor]):
    """Posterior means read off a state and one network output: `z_k = a_k x + b_k out`, each made when asked for.

    A solver that needs only a combination of them gets it in one fused step from `combine`, without making any mean.

    Args:
        x: State, shape (B, *S).
        out: Network output, shape (B, *S): the value of the row `native`.
        native: Row (data, noise) that `out` estimates.
        label: What the row is the value of (a target); a reader that asks for the same gets `out` itself.
        solve: Returns {name: (a_k, b_k)}; called once, when a mean is first needed. It raises where the state and the
            output do not determine the means.
    """

    def __init__(
        self,
        x: Tensor,
        out: Tensor,
        native: Row,
        label: object,
        solve: Callable[[], Mapping[str, tuple[Scalar, Scalar]]],
    ) -> None:
        self.x, self.out, self.native, self.label = x, out, native, label
        self._solve = solve
        self._solution: Mapping[str, tuple[Scalar, Scalar]] | None = None
        self._made: dict[str, Tensor] = {}

    @property
    def solution(self) -> Mapping[str, tuple[Scalar, Scalar]]:
        """Coefficients (a_k, b_k) of state and output, by hidden variable."""
        if self._solution is None:
            self._solution = self._solve()
        return self._solution

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            a, b = self.solution[name]
            self._made[name] = mix(a, self.x, b, self.out)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.native)

    def __len__(self) -> int:
        return len(self.native)

    def combine(self, row: Row) -> Tensor | None:
        """Return sum_k row[k] z_k when it is a plain combination of state and output, else None.

        None is returned where coefficients are tensors: reading them would not be cheaper than making the means.
        """
        if _equal_rows(row, self.native):
            return self.out
        total_a = total_b = 0.0
        for name, weight in row.items():
            if isinstance(weight, Tensor):
                return None
            a, b = self.solution[name]
            if isinstance(a, Tensor) or isinstance(b, Tensor):
                return None
            total_a += weight * a
            total_b += weight * b
        return mix(total_a, self.x, total_b, self.out)

    def fold(self, c: float, x: Tensor, row: Row) -> Tensor | None:
        """Return c * x + sum_k row[k] z_k fused, if x is the very state of this estimate and all is host-known."""
        if x is not self.x:
            return None
        total_a, total_b = c, 0.0
        for name, weight in row.items():
            if isinstance(weight, Tensor):
                return None
            if weight == 0.0:
                continue
            a, b = self.solution[name]
            if isinstance(a, Tensor) or isinstance(b, Tensor):
                return None
            total_a += weight * a
            total_b += weight * b
        return mix(total_a, x, total_b, self.out)


def _same(a: Scalar, b: Scalar) -> bool:
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


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
            and mine.label == its.label
            and mine.native.keys() == its.native.keys()
        ):  # same state and same target: the network outputs combine like the means (conversions are affine)
            out = _lerp(mine.out, its.out, weight)
            return Moments(Affine(its.x, out, its.native, its.label, lambda: its.solution), other.aux)
        return Moments({name: _lerp(mine[name], its[name], weight) for name in its}, other.aux)

    def halves(self, x: Tensor) -> tuple[Moments, Moments]:
        """Split an estimate of two stacked copies of x (B, *S) into one for each copy."""
        size = x.shape[0]
        ends = (slice(0, size), slice(size, 2 * size))
        if isinstance(self.parts, Affine):
            whole = self.parts

            def piece(at: slice) -> Affine:
                def solve() -> dict[str, tuple[Scalar, Scalar]]:
                    return {k: (_cut(a, at), _cut(b, at)) for k, (a, b) in whole.solution.items()}

                native = {k: _cut(v, at) for k, v in whole.native.items()}
                return Affine(x, whole.out[at], native, whole.label, solve)

            first, second = (
                Moments(piece(at), {k: v[at] if v.ndim else v for k, v in self.aux.items()}) for at in ends
            )
            return first, second
        first, second = (
            Moments({k: v[at] for k, v in self.parts.items()}, {k: v[at] if v.ndim else v for k, v in self.aux.items()})
            for at in ends
        )
        return first, second

    def read(self, row: Row, label: object) -> Tensor:
        """Return the value of a row; the network's own output if that is what `label` (a target) stands for."""
        if isinstance(self.parts, Affine) and self.parts.label == label:
            return self.parts.out
        return self.combine(row)

    def combine(self, row: Row) -> Tensor:
        """Return sum_k row[k] z_k, shape (B, *S).

        Raises:
            KeyError: If the row names a hidden variable that this estimate lacks.
        """
        if isinstance(self.parts, Affine):
            fused = self.parts.combine(row)
            if fused is not None:
                return fused
        return _sum(self.parts, row)

    def add_to(self, c: Scalar, x: Tensor, row: Row) -> Tensor:
        """Return c * x + sum_k row[k] z_k, shape (B, *S), in as few operations as the estimate allows."""
        if isinstance(self.parts, Affine) and not isinstance(c, Tensor):
            fused = self.parts.fold(c, x, row)
            if fused is not None:
                return fused
        rest = {name: weight for name, weight in row.items() if isinstance(weight, Tensor) or weight != 0.0}
        if len(rest) == 1:
            (name, weight), *_ = rest.items()
            return mix(c, x, weight, self.parts[name])
        return mix(c, x, 1.0, self.combine(rest)) if rest else scale(c, x)


def _cut(value: Scalar, at: slice) -> Scalar:
    return value[at] if isinstance(value, Tensor) and value.ndim else value


def _equal_rows(a: Row, b: Row) -> bool:
    return a.keys() == b.keys() and all(a[name] is b[name] or _same(a[name], b[name]) for name in a)


def _sum(parts: Mapping[str, Tensor], row: Row) -> Tensor:
    total: Tensor | None = None
    for name, weight in row.items():
        if not isinstance(weight, Tensor) and weight == 0.0 and len(row) > 1 and name not in parts:
            continue
        total = scale(weight, parts[name]) if total is None else mix(1.0, total, weight, parts[name])
    if total is None:
        raise ValueError("a row needs at least one hidden variable")
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

            return Categorical.deferred(make, {k: v[at] if v.ndim else v for k, v in self.aux.items()})

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
