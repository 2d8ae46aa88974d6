"""Where a state keeps its channels, and which times it therefore accepts.

Times are prefixes of the state's shape. A time per frame or per token can only be a prefix if frames or tokens come
right after the batch, so the layout of the state decides what times are possible:

| layout   | state shape       | time shapes          | for                                         |
| -------- | ----------------- | -------------------- | ------------------------------------------- |
| `Grid`   | (B, C, *grid)     | (), (B,)             | images, volumes, series (channels first)    |
| `Frames` | (B, T, C, H, W)   | (), (B,), (B, T)     | video with a noise level for every frame    |
| `Tokens` | (B, L, C)         | (), (B,), (B, L)     | sequences with a noise level for every token |

Networks work on (B, C, *grid) inside; a layout is the only place that knows how a state is turned into that.
`Picture` conditions have the layout of the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """States (B, C, *grid) with one time per sample.

    Args:
        channels: C, channels of the state.
        ndim: Number of grid axes, 1 (series), 2 (images) or 3 (volumes).

    Raises:
        ValueError: If channels is not positive or ndim not 1, 2 or 3.
    """

    channels: int
    ndim: int = 2

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        if self.ndim not in (1, 2, 3):
            raise ValueError(f"a Grid has 1, 2 or 3 axes, got ndim={self.ndim}")

    @property
    def timed(self) -> int:
        """Number of grid axes that may have their own times: none."""
        return 0

    def split(self, x: Tensor, channels: int) -> Tensor:
        """Return a state of this layout as (B, C, *grid)."""
        _check_state(x, self.ndim + 2, 1, channels, "(B, C, *grid)")
        return x

    def merge(self, x: Tensor) -> Tensor:
        """Return (B, C, *grid) as a state of this layout."""
        return x


@final
@dataclass(frozen=True, slots=True)
class Frames:
    """States (B, T, C, H, W): T frames of a video, with one time per sample or per frame.

    Args:
        channels: C, channels of a frame.

    Raises:
        ValueError: If channels is not positive.
    """

    channels: int

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    @property
    def ndim(self) -> int:
        """Number of grid axes: T, H, W."""
        return 3

    @property
    def timed(self) -> int:
        """Number of grid axes that may have their own times: T."""
        return 1

    def split(self, x: Tensor, channels: int) -> Tensor:
        """Return a state of this layout as (B, C, T, H, W)."""
        _check_state(x, 5, 2, channels, "(B, T, C, H, W)")
        return x.transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) as a state of this layout."""
        return x.transpose(1, 2)


@final
@dataclass(frozen=True, slots=True)
class Tokens:
    """States (B, L, C): L tokens with C features each, with one time per sample or per token.

    Args:
        channels: C, features of a token.

    Raises:
        ValueError: If channels is not positive.
    """

    channels: int

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    @property
    def ndim(self) -> int:
        """Number of grid axes: L."""
        return 1

    @property
    def timed(self) -> int:
        """Number of grid axes that may have their own times: L."""
        return 1

    def split(self, x: Tensor, channels: int) -> Tensor:
        """Return a state of this layout as (B, C, L)."""
        _check_state(x, 3, 2, channels, "(B, L, C)")
        return x.transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """Return (B, C, L) as a state of this layout."""
        return x.transpose(1, 2)


Layout = Grid | Frames | Tokens
"""How a state is laid out; see the table at the top of this module."""


def check_time(t: Tensor, batch: int, timed: Sequence[int]) -> None:
    """Refuse a time whose shape is not one of (), (B,) or (B, *timed).

    Args:
        t: Process times in [0, 1].
        batch: B, number of rows of the state.
        timed: Sizes of the axes that may have their own times.

    Raises:
        ValueError: If the shape is none of these.
    """
    allowed = [(), (batch,)] + ([(batch, *timed)] if timed else [])
    if tuple(t.shape) not in allowed:
        raise ValueError(
            f"t has shape {tuple(t.shape)}; this network takes times of shape {' or '.join(map(str, allowed))}. "
            "Times per frame need the layout Frames, times per token the layout Tokens"
        )


def _check_channels(channels: int) -> None:
    if channels < 1:
        raise ValueError(f"a layout needs at least one channel, got {channels}")


def _check_state(x: Tensor, ndim: int, axis: int, channels: int, form: str) -> None:
    if x.ndim != ndim or x.shape[axis] != channels:
        raise ValueError(f"expected {channels} channels in a tensor {form} of {ndim} axes, got shape {tuple(x.shape)}")
