"""Continuous diffusion over text: tokens are vectors while they are noised, and tokens again at the end.

Source: Li et al. 2022 (Diffusion-LM); Gong et al. 2022 (DiffuSeq).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw, Schedule, Target
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, expand, host, instant
from condiff.process.adaptive import Positionwise
from condiff.process.gaussian import Gaussian
from condiff.process.recall import Recalling
from condiff.process.target import Data


class Space(Protocol):
    """Vectors of tokens and the way back; `EmbeddingSpace` is one."""

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the vectors (*S, D) of ids (*S)."""
        ...

    def round(self, z: Tensor) -> Tensor:
        """Return the likeliest ids (*S) of z (*S, D)."""
        ...

    def clamp(self, z: Tensor) -> Tensor:
        """Return the vectors nearest to z (*S, D)."""
        ...


@final
@dataclass(frozen=True)
class Embedded:
    """A process on the vectors of tokens whose samples are token ids (B, L).

    States are those of the inner process on (B, L, D). The vectors belong to the denoiser, which is learned with them:
    at t = 0 it names the tokens (`est.aux["tokens"]`), and `finish` asks it.

    Args:
        inner: The process of the vectors.
        width: D, features of a token.
        vocabulary: V, number of tokens.
    """

    inner: Gaussian | Positionwise | Recalling
    width: int
    vocabulary: int

    @property
    def mask(self) -> int:
        """Id that stands for a token not known, V: no sample has it."""
        return self.vocabulary

    @property
    def schedule(self) -> Schedule:
        """The inner process's schedule."""
        return self.inner.schedule

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t."""
        return self.inner.row(target, t)

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt vectors (B, L, D) to times t."""
        return self.inner.draw(data, t, rng=rng, **known)

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw the state at t = 1 of ids of a shape (B, L)."""
        return self.inner.start((*shape, self.width), rng=rng, source=source)

    def infer(
        self, x: Tensor, t: Tensor, out: Tensor, target: Target, aux: Mapping[str, Tensor] | None = None
    ) -> Moments:
        """Read the posterior means of vector and noise off a state and an estimate of a target."""
        return self.inner.infer(x, t, out, target, aux)

    def level(self, t: Tensor) -> Scalar:
        """Return the noise level at a time t of a position."""
        return self.inner.level(t)

    def vectors(self, x: Tensor) -> Tensor:
        """Return the noisy vectors (B, L, D) of a state."""
        return self.inner.parts(x)[0] if isinstance(self.inner, Recalling) else x

    def told(self, x: Tensor, vectors: Tensor, known: Tensor) -> Tensor:
        """Return a state in which some positions are vectors without noise, in the last estimate too if it has one.

        Args:
            x: State.
            vectors: (B, L, D).
            known: Which positions, bool (B, L).
        """
        at, vectors = known.unsqueeze(-1), vectors.to(x.dtype)
        if not isinstance(self.inner, Recalling):
            return torch.where(at, vectors, x)
        return self.inner.beside(*(torch.where(at, vectors, part) for part in self.inner.parts(x)))

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at time s."""
        return self.inner.reverse(x, t, s, est, eta=eta, rng=rng)

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Return the ids (B, L) that the denoiser reads off the state at t = 0."""
        return denoise(x, instant(0.0)).aux["tokens"]


@final
class Rounding(nn.Module):
    """A network on vectors of tokens read as a denoiser, which at t = 0 names the tokens.

    The network estimates the noiseless vectors, data = net(x, t, cond). Where the state at t = 0 has no noise it is not
    asked any more: the data are the state.

    Args:
        net: Called as net(x, t, cond) with a state of the process; returns (B, L, D). Its `space` holds the vectors. A
            network may offer `encode(cond)`, what depends on the condition alone; it is then called once a sample.
        process: The process.
        clamp: From this time up to 1, the data estimate of a sample is the nearest vector of a token; None never is.
        learned: Modules that learn along, such as `LossAware` or `AdaptiveTimes`: saved with the weights.

    Source: Li et al. 2022 (Diffusion-LM) for rounding and clamping. Clamping early in sampling freezes wrong words, and
        none is the default here. Training is not clamped.
    """

    def __init__(self, net: nn.Module, process: Embedded, *learned: nn.Module, clamp: float | None = None) -> None:
        super().__init__()
        if clamp is not None and not 0.0 <= clamp <= 1.0:
            raise ValueError(f"clamp is a time in [0, 1] or None, got {clamp}")
        self.net, self.process, self.from_time = net, process, clamp
        self.learned = nn.ModuleList(learned)

    @property
    def space(self) -> Space:
        """The vectors of the tokens."""
        return self.net.space  # type: ignore[return-value]

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate vectors and noise of a state x at t; at t = 0, known to the host, `aux` has the "tokens" too."""
        if self.free(t):
            z = self.process.vectors(x)
            return Moments({"data": z, "noise": torch.zeros_like(z)}, {"tokens": self.space.round(z)})
        est = self.predict(x, t, cond)
        if self.from_time is not None:
            data = est.parts["data"]
            late = expand(t >= self.from_time, data)
            est = self.process.infer(x, t, torch.where(late, self.space.clamp(data), data), Data(), est.aux)
        if host(t) != 0.0:
            return est
        return Moments(est.parts, {**est.aux, "tokens": self.space.round(est.parts["data"])})

    def free(self, t: Tensor) -> bool:
        """Is a state at t answered without the network? So it is at t = 0, known to the host, if it has no noise."""
        return host(t) == 0.0 and bool(self.process.level(t) == 0.0)

    def predict(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate vectors and noise as training does, whatever is clamped when sampling."""
        return self.process.infer(x, t, self.net(x, t, cond), Data())

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the denoiser of one condition; what the network makes of the condition alone is made once."""
        encode = getattr(self.net, "encode", None)
        if encode is not None and getattr(self.net, "cacheable", False):
            with torch.no_grad():
                cond = encode(cond)
        return lambda x, t: self(x, t, cond)
