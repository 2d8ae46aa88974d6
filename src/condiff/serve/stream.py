"""The stream batch: several frames under way at different noise levels, all advanced by one call of the network.

It is law 5 put to use. A step of a solver treats every row of a batch as if it were alone, so a frame may join while
others are half done; each comes out as if it had been sampled by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, final

import torch
from torch import Tensor

from condiff.codecs import Identity
from condiff.core.codec import Codec
from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import E
from condiff.core.process import Process
from condiff.core.rng import RowRng, key
from condiff.core.shapes import keeping
from condiff.core.solver import Solver, State


def unchanged(cond: Condition | None, data: Tensor) -> Condition | None:
    """Return the condition as it is."""
    return cond


@final
@dataclass(frozen=True, slots=True)
class Flight:
    """Frames under way: plain data, so that it can be kept for each user, copied, cut and joined.

    Args:
        state: The solver's state, one row a frame.
        cond: Their conditions.
        frames: Their numbers, oldest first.
        times: The times each goes through.
        at: How many steps each has made.
        streams: Which random stream each reads.
        draws: How many numbers each has read.
    """

    state: State
    cond: Condition | None
    frames: tuple[int, ...]
    times: tuple[tuple[float, ...], ...]
    at: tuple[int, ...]
    streams: tuple[int, ...]
    draws: tuple[int, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def cat(self, other: Flight) -> Flight:
        """Append the frames of another flight of the same system."""
        if (self.cond is None) != (other.cond is None):
            raise ValueError("frames with a condition and frames without cannot fly together")
        cond = None if self.cond is None or other.cond is None else self.cond.cat(other.cond)
        return Flight(
            self.state.cat(other.state),
            cond,
            self.frames + other.frames,
            self.times + other.times,
            self.at + other.at,
            self.streams + other.streams,
            self.draws + other.draws,
        )

    def rows(self, index: Sequence[int]) -> Flight:
        """Keep some frames, by place."""
        # The oldest frames leave first: what goes and what stays are runs, and a run is a view.
        run = len(index) > 0 and list(index) == list(range(index[0], index[0] + len(index)))
        chosen = slice(index[0], index[-1] + 1) if run else torch.tensor(index, dtype=torch.int64)
        return Flight(
            self.state.rows(chosen if isinstance(chosen, slice) else chosen.to(self.state.x.device)),
            None if self.cond is None else self.cond.rows(chosen),
            *(tuple(leaf[i] for i in index) for leaf in (self.frames, self.times, self.at, self.streams, self.draws)),  # type: ignore[arg-type]
        )

    def asking(self, cond: Condition, names: Sequence[str] | None = None) -> Flight:
        """Change conditions of all frames under way, which see them at their next step.

        Args:
            cond: The new values and whether they are there, of one row for all or of as many as there are frames.
            names: Which of them; all if None.
        """
        chosen = list(cond.values) if names is None else list(names)
        old = self.cond or Condition.of()
        size = len(self)
        values = {name: cond.values[name].expand(size, *cond.values[name].shape[1:]) for name in chosen}
        present = {name: cond.present[name].expand(size) for name in chosen}
        return replace(self, cond=Condition({**old.values, **values}, {**old.present, **present}))


class _Still:
    """A RowRng whose normal numbers are looked up first."""

    def __init__(self, inner: RowRng, store: dict[object, Tensor]) -> None:
        self.inner, self.store, self.counters = inner, store, inner.counters

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers."""
        name = (self.inner.row_ids, tuple(self.counters), tuple(shape), self.inner.device, self.inner.dtype)
        if name in self.store:
            self.counters[:] = [count + 1 for count in self.counters]
            return self.store[name].clone()
        if len(self.store) >= _ROOM:
            self.store.clear()
        self.store[name] = self.inner.normal(shape)
        return self.store[name].clone()  # a solver may write to it

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1)."""
        return self.inner.uniform(shape)

    def strata(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), spread evenly over the rows."""
        return self.inner.strata(shape)

    def gamma(self, concentration: float, shape: Sequence[int]) -> Tensor:
        """Draw Gamma(concentration, rate 1) numbers."""
        return self.inner.gamma(concentration, shape)

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices from unnormalised log-probabilities."""
        return self.inner.categorical(logits)


_ROOM = 64
"""How many time tensors and batches of noise a stream keeps; a steady stream meets the same few again and again."""


@final
class _Memo:
    """What a steady stream computes once: the times of its rows with all that follows from them, and still noise."""

    def __init__(self) -> None:
        self._times: dict[object, tuple[Tensor, Tensor]] = {}
        self._begins: dict[object, Tensor] = {}
        self._noise: dict[object, Tensor] = {}

    def begin(self, value: float, device: torch.device) -> Tensor:
        """Return the time at which one frame joins, (1,) in float64."""
        if (value, device) not in self._begins:
            self._begins[value, device] = keeping(torch.full((1,), value, dtype=torch.float64, device=device))
        return self._begins[value, device]

    def times(self, flight: Flight, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return where every frame is and where it goes, each (B,) in float64."""
        name = (flight.times, flight.at, device)
        found = self._times.get(name)
        if found is None:
            pairs = [(times[k], times[k + 1]) for times, k in zip(flight.times, flight.at, strict=True)]
            t, s = torch.tensor(pairs, dtype=torch.float64).T.contiguous().to(device)
            if len(self._times) >= _ROOM:
                self._times.clear()
            found = self._times[name] = keeping(t), keeping(s)
        return found

    def rng(self, streams: Sequence[int], draws: Sequence[int], like: Tensor, still: bool) -> RowRng | _Still:
        """Return the rows' streams where they stand."""
        rng = RowRng(0, streams, device=like.device, dtype=like.dtype, counters=draws)
        return _Still(rng, self._noise) if still else rng


@final
@dataclass(frozen=True)
class StreamBatch(Generic[E]):
    """Samples a stream of frames, one network call a frame however many steps each takes.

    With n steps, what is pushed at call k comes out of call k + n - 1. Frames are never mixed: each equals what
    `trajectory` makes of it alone, with the same numbers, to rounding of the batch. There is no warm-up batch of
    zeros: the first calls are on fewer rows and nothing comes out of them.

    Args:
        process, denoiser, solver, codec: As in a System, guidance already around the denoiser.
        times: Decreasing times a new frame goes through, ending at 0. An input frame starts at the first of them, so
            that smaller ones keep more of it; without input the first must be 1.
        seed: Of all noise.
        still: Give every frame the same noise, so that what stands still in the input stands still in the output.
        remember: Makes a new frame's condition from the one pushed with it and its encoded input, as
            `guidance.residual.by_input` does. Later, where an estimate's aux has the name of a condition that a row
            lacks, the row keeps it: this is how a one-time negative is carried on.

    Raises:
        ValueError: If the times do not decrease to 0 within [0, 1].

    Source: Kodaira et al. 2023 (StreamDiffusion), stream batch; for any solver, and frames of unequal
        times.
    """

    process: Process[E]
    denoiser: Denoiser[E]
    solver: Solver[Any, E]
    times: tuple[float, ...]
    codec: Codec = field(default_factory=Identity)
    seed: int = 0
    still: bool = True
    remember: Callable[[Condition | None, Tensor], Condition | None] = unchanged
    _memo: _Memo = field(default_factory=lambda: _Memo(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in itertools.pairwise(self.times))
        if len(self.times) < 2 or not falling or self.times[0] > 1.0 or self.times[-1] != 0.0:
            raise ValueError(f"a stream needs times that decrease within [0, 1] and end at 0, got {self.times}")

    @torch.no_grad()
    def admit(self, flight: Flight | None, frame: int, data: Tensor, cond: Condition | None = None) -> Flight:
        """Let a frame join.

        Args:
            flight: What is under way; None if nothing is.
            frame: Its number.
            data: The input (1, *S) before encoding; at times that start at 1 only its shape counts.
            cond: Its condition, of one row.

        Raises:
            ValueError: If the input is not one row.
        """
        if data.shape[0] != 1:
            raise ValueError(f"frames join one at a time, as (1, ...), got {tuple(data.shape)}")
        stream = key(self.seed, "stream", 0 if self.still else frame)
        rng = self._memo.rng((stream,), (0,), data, self.still)
        coded = self.codec.encode(data, cond)
        cond = self.remember(cond, coded)
        process = self.process.given(cond)
        begin = self._memo.begin(self.times[0], data.device)
        if self.times[0] == 1.0:
            x = process.start(tuple(coded.shape), rng=rng)
        else:
            x = process.draw(coded, begin, rng=rng).x
        new = Flight(self.solver.init(x, begin), cond, (frame,), (self.times,), (0,), (stream,), tuple(rng.counters))
        return new if flight is None else flight.cat(new)

    @torch.no_grad()
    def step(self, flight: Flight) -> tuple[Flight | None, list[tuple[int, Tensor]]]:
        """Move every frame by one step, with one call of the solver.

        Returns: What is still under way, None if nothing is; and the frames that are done, oldest first, each as its
            number and the decoded sample (1, *S).
        """
        x, cond = flight.state.x, flight.cond
        t, s = self._memo.times(flight, x.device)
        rng = self._memo.rng(flight.streams, flight.draws, x, self.still)
        said: dict[str, Tensor] = {}

        def denoise(x: Tensor, t: Tensor) -> E:
            est = self.denoiser(x, t, cond)
            said.update(est.aux)
            return est

        process = self.process.given(cond)
        state = self.solver.step(process, denoise, flight.state, t, s, rng)
        at = tuple(k + 1 for k in flight.at)
        moved = replace(flight, state=state, cond=_filled(cond, said), at=at, draws=tuple(rng.counters))
        done = [i for i, k in enumerate(at) if k == len(flight.times[i]) - 1]
        left = [i for i, k in enumerate(at) if k < len(flight.times[i]) - 1]
        if not done:
            return moved, []
        ready = moved.rows(done)
        made = process.finish(ready.state.x, lambda x, t: self.denoiser(x, t, ready.cond))
        out = self.codec.decode(made, ready.cond)
        return moved.rows(left) if left else None, list(zip(ready.frames, out.split(1), strict=True))

    def push(
        self, flight: Flight | None, frame: int, data: Tensor, cond: Condition | None = None
    ) -> tuple[Flight | None, list[tuple[int, Tensor]]]:
        """Let a frame join, then move all of them; arguments as for `admit`, returns what `step` does."""
        return self.step(self.admit(flight, frame, data, cond))


def _filled(cond: Condition | None, said: dict[str, Any]) -> Condition | None:
    """Give rows that lack a condition what their estimate says under its name."""
    if cond is None or not said.keys() & cond.values.keys():
        return cond
    values, present = dict(cond.values), dict(cond.present)
    for name in said.keys() & values.keys():
        has = present[name].reshape(-1, *[1] * (values[name].ndim - 1))
        values[name] = torch.where(has, values[name], said[name])
        present[name] = torch.ones_like(present[name])
    return Condition(values, present)


def descent(strength: float, num_steps: int) -> tuple[float, ...]:
    """Return the times of a frame: equal steps from the strength down to 0, num_steps + 1 numbers.

    Args:
        strength: Where it starts, in (0, 1]: 1 forgets the input, small ones keep nearly all of it.
        num_steps: Steps, >= 1.

    Raises:
        ValueError: If either is out of range.

    Source: close to the official lists, such as t = 639, 479, 299, 99 of 1000 for four steps.
    """
    if not 0.0 < strength <= 1.0 or num_steps < 1:
        raise ValueError(f"a stream needs 0 < strength <= 1 and num_steps >= 1, got {strength} and {num_steps}")
    return tuple(strength * (num_steps - k) / num_steps for k in range(num_steps + 1))
