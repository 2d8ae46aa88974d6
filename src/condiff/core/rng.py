"""Randomness by key. Row b of a batch draws the same numbers in any batch, on any device (law 5).

`torch.Generator` fills a batch as one stream, so the noise of a row depends on its position and even on the row size
(the first sample of a batch equals a batch of one only when a row has a multiple of 16 elements). Here every row owns
a stream named by (seed, row); draw k of a row is a pure function of (seed, row, k), and numbers are always made on the
host, so a device or a worker count cannot change them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Protocol, Self, final

import torch
from torch import Tensor


class Rng(Protocol):
    """All randomness. Rows get their own streams, so row b draws the same numbers in any batch.

    Every `shape` is (B, ...): its first dimension counts the rows of this source.
    """

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers."""
        ...

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), in float64: a cast to float32 could round up to 1."""
        ...

    def strata(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1) that are spread evenly over the rows, in float64."""
        ...

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        """Draw Gamma(concentration, rate 1) numbers."""
        ...

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices (B, ...) from unnormalised log-probabilities (B, ..., V)."""
        ...


def key(*parts: int | str) -> int:
    """Hash any integers and names to a 63-bit seed; a pure function of its arguments, equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _gamma(concentration: float, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Marsaglia-Tsang (2000) rejection in float64, from one generator; the generator is read until all are accepted."""
    if concentration <= 0:
        raise ValueError(f"a gamma distribution needs concentration > 0, got {concentration}")
    if concentration < 1:  # boost: Gamma(a) = Gamma(a + 1) * U^(1 / a)
        boosted = _gamma(concentration + 1.0, size, generator)
        return boosted * torch.rand(tuple(size), generator=generator, dtype=torch.float64) ** (1.0 / concentration)
    count = math.prod(size)
    d = concentration - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    out = torch.empty(count, dtype=torch.float64)
    todo = torch.arange(count)
    while todo.numel():
        z = torch.randn(todo.numel(), generator=generator, dtype=torch.float64)
        u = torch.rand(todo.numel(), generator=generator, dtype=torch.float64)
        v = (1.0 + c * z) ** 3
        accept = (v > 0) & (torch.log1p(-u) < 0.5 * z * z + d - d * v + d * torch.log(v.clamp_min(1e-300)))
        out[todo[accept]] = d * v[accept]
        todo = todo[~accept]
    return out.reshape(tuple(size))


def pick(logits: Tensor, u: Tensor) -> Tensor:
    """Draw indices from unnormalised log-probabilities by inverting their distribution in float64.

    One uniform a draw, and no Gumbel race whose tail is cut off.

    Args:
        logits: (..., V).
        u: Uniform numbers in [0, 1), (...).

    Returns: Indices (...), int64.
    """
    mass = torch.softmax(logits.to(torch.float64), dim=-1).cumsum(-1)
    # Scaling by the total keeps u < total although the sum rounds; right=True skips categories of no mass.
    index = torch.searchsorted(mass, (u.to(mass) * mass[..., -1]).unsqueeze(-1), right=True).squeeze(-1)
    return index.clamp_max(logits.shape[-1] - 1)


@final
class RowRng:
    """One stream a row: draw k of row r of seed s is the same number in any batch, order, worker or device.

    Args:
        seed: Any integer.
        rows: Row numbers (sample indices), one a batch row; `range(B)` for samples 0 to B - 1.
        device: Where results are put; the numbers are made on the host.
        dtype: Type of results; normals are drawn in float32 and cast, so the type does not change the noise.
        counters: Number of draws already made by each row; 0 at the start.

    Source: counter-based streams as in Salmon et al. 2011, with a hashed key and the host Mersenne twister.
    """

    def __init__(
        self,
        seed: int,
        rows: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        counters: Sequence[int] | None = None,
    ) -> None:
        self.seed = seed
        self.row_ids = tuple(int(row) for row in rows)
        self.counters = list(counters) if counters is not None else [0] * len(self.row_ids)
        self.device, self.dtype = torch.device(device), dtype
        self._generator = torch.Generator()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.row_ids)

    def rows(self, index: Sequence[int]) -> Self:
        """Keep the streams of some rows, where they stand."""
        return type(self)(
            self.seed,
            [self.row_ids[i] for i in index],
            device=self.device,
            dtype=self.dtype,
            counters=[self.counters[i] for i in index],
        )

    def cat(self, other: RowRng) -> Self:
        """Append the streams of another source of the same seed.

        Raises:
            ValueError: If the seeds differ.
        """
        if other.seed != self.seed:
            raise ValueError(f"cannot join streams of seeds {self.seed} and {other.seed}; use one seed")
        return type(self)(
            self.seed,
            self.row_ids + other.row_ids,
            device=self.device,
            dtype=self.dtype,
            counters=self.counters + other.counters,
        )

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, shape (B, ...)."""
        out = torch.empty(tuple(shape), dtype=torch.float32)
        for row, generator in self._streams(shape):
            torch.randn(tuple(shape[1:]), generator=generator, out=out[row])
        return out.to(self.device, self.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), shape (B, ...), in float64."""
        return self._uniform(shape).to(self.device)

    def strata(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1) that are spread evenly over consecutive rows, shape (B, ...), in float64.

        u_r = bits of r mirrored at the point + an offset common to all rows, wrapped to [0, 1)

        Each aligned block of 2^k rows has one row in each of 2^k equal strata, and a row still does not depend on its
        batch, as strata counted within a batch would make it.

        Source: van der Corput 1935.
        """
        out = torch.empty(tuple(shape), dtype=torch.float64)
        for at, counter in enumerate(self._counted(shape)):
            row = self.row_ids[at]
            mirrored = int(f"{row:b}"[::-1], 2) / 2.0 ** row.bit_length()
            generator = self._generator.manual_seed(key(self.seed, "strata", counter))
            torch.rand(tuple(shape[1:]), generator=generator, out=out[at], dtype=torch.float64)
            out[at] = torch.remainder(out[at] + mirrored, 1.0)
        return out.to(self.device)

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        """Draw Gamma(concentration, rate 1) numbers, shape (B, ...).

        Raises:
            ValueError: If concentration <= 0.
        """
        out = torch.empty(tuple(shape), dtype=torch.float64)
        for row, generator in self._streams(shape):
            out[row] = _gamma(concentration, shape[1:], generator)
        return out.to(self.device, self.dtype)

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices (B, ...) from unnormalised log-probabilities (B, ..., V), one uniform each, in float64."""
        return pick(logits, self._uniform(logits.shape[:-1]).to(logits.device))

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        out = torch.empty(tuple(shape), dtype=torch.float64)
        for row, generator in self._streams(shape):
            torch.rand(tuple(shape[1:]), generator=generator, out=out[row], dtype=torch.float64)
        return out

    def _streams(self, shape: Sequence[int]) -> _Rows:
        self._check(shape)
        return _Rows(self)

    def _counted(self, shape: Sequence[int]) -> list[int]:
        """Return how many draws each row has made, and count one more."""
        self._check(shape)
        before = list(self.counters)
        self.counters[:] = [count + 1 for count in before]
        return before

    def _check(self, shape: Sequence[int]) -> None:
        if not shape or shape[0] != len(self.row_ids):
            raise ValueError(f"this source has {len(self.row_ids)} rows, but a shape of {tuple(shape)} was asked for")


class _Rows:
    """Iterate over (row position, generator seeded for that row's next draw), advancing each row's counter."""

    def __init__(self, source: RowRng) -> None:
        self.source = source
        self.position = 0

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> tuple[int, torch.Generator]:
        source, at = self.source, self.position
        if at == len(source.row_ids):
            raise StopIteration
        generator = source._generator.manual_seed(key(source.seed, source.row_ids[at], source.counters[at]))
        source.counters[at] += 1
        self.position = at + 1
        return at, generator


@final
class SomeRows:
    """Another source read for some rows of a batch: the streams of the other rows stand still, their numbers are 0.

    A step that draws for a part of the rows needs it, so that the others go on as they would alone. A source without
    streams of its own a row (`SharedRng`) promises no such thing and is read for all.

    Args:
        source: The source of the whole batch.
        rows: Which rows draw, bool (B,).
    """

    def __init__(self, source: Rng, rows: Tensor) -> None:
        self.source, self.index = source, rows.nonzero().flatten().tolist()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, shape (B, ...)."""
        return self._drawn(lambda source, shape: source.normal(shape), shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), shape (B, ...)."""
        return self._drawn(lambda source, shape: source.uniform(shape), shape)

    def strata(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1) that are spread evenly over the rows, shape (B, ...)."""
        return self._drawn(lambda source, shape: source.strata(shape), shape)

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        """Draw Gamma(concentration, rate 1) numbers, shape (B, ...)."""
        return self._drawn(lambda source, shape: source.gamma(concentration, shape), shape)

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices (B, ...) from unnormalised log-probabilities (B, ..., V)."""
        whole = not isinstance(self.source, RowRng)
        chosen = logits if whole else logits[self.index]
        return self._drawn(lambda source, shape: source.categorical(chosen), logits.shape[:-1])

    def _drawn(self, draw: Callable[[Rng, Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
        if not isinstance(self.source, RowRng):
            return draw(self.source, shape)
        some = self.source.rows(self.index)
        numbers = draw(some, (len(self.index), *shape[1:]))
        for at, count in zip(self.index, some.counters, strict=True):
            self.source.counters[at] = count
        out = torch.zeros(tuple(shape), dtype=numbers.dtype, device=numbers.device)
        out[self.index] = numbers
        return out


@final
class SharedRng:
    """One fast stream for a whole batch: for training, where only resuming matters.

    The stream is named by its key, for example (seed, step): two sources of one key draw the same numbers. With `part`
    it belongs to one worker of several: it draws for the global batch and keeps its own rows, so that the numbers of a
    row do not depend on how many workers or accumulation steps share the batch.

    Args:
        parts: Integers or names that make the key.
        device: Where results are put.
        dtype: Type of results.
        part: (first row, number of rows of the global batch); None when the source serves the whole batch.
    """

    def __init__(
        self,
        *parts: int | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        part: tuple[int, int] | None = None,
    ) -> None:
        self.device, self.dtype, self.part = torch.device(device), dtype, part
        self._generator = torch.Generator().manual_seed(key(*parts))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers."""
        return self._own(torch.randn(self._all(shape), generator=self._generator), shape).to(self.device, self.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), in float64."""
        draw = torch.rand(self._all(shape), generator=self._generator, dtype=torch.float64)
        return self._own(draw, shape).to(self.device)

    def strata(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), one from each of B equal strata of the global batch, in float64.

        u_b = b / B + u_0 wrapped to [0, 1), b and B counted over the global batch.
        """
        size = self._all(shape)
        draw = torch.rand(size, generator=self._generator, dtype=torch.float64)
        rows = torch.arange(size[0], dtype=torch.float64).reshape(-1, *[1] * (len(size) - 1))
        return self._own(torch.remainder(rows / size[0] + draw[:1], 1.0), shape).to(self.device)

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        """Draw Gamma(concentration, rate 1) numbers.

        Raises:
            ValueError: If concentration <= 0.
        """
        draw = _gamma(concentration, self._all(shape), self._generator)
        return self._own(draw, shape).to(self.device, self.dtype)

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices (B, ...) from unnormalised log-probabilities (B, ..., V), one uniform each, in float64."""
        shape = logits.shape[:-1]
        draw = torch.rand(self._all(shape), generator=self._generator, dtype=torch.float64)
        return pick(logits, self._own(draw, shape).to(logits.device))

    def _all(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape) if self.part is None else (self.part[1], *shape[1:])

    def _own(self, draw: Tensor, shape: Sequence[int]) -> Tensor:
        return draw if self.part is None else draw[self.part[0] : self.part[0] + shape[0]]
