"""Absorbing (masked) diffusion over tokens: every position is independently replaced by a mask.

With alpha(t) the chance that a position is still visible and lambda = 1 - alpha the share of masks, the state's law is
p_t(x) = lambda^masked alpha^visible p_0(visible part): all that depends on time is the number of masks. So a network
that reads the visible tokens needs no time at all, and the posterior of a masked token is the same at every t.

Source: Austin et al. 2021 (D3PM, absorbing); Shi et al. 2024 and Sahoo et al. 2024 for continuous time; Ou et al. 2025
(RADD) for networks without time; Wang et al. 2025 (ReMDM) for re-masking steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, cast, final, runtime_checkable

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Categorical
from condiff.core.process import Draw
from condiff.core.rng import Rng, pick
from condiff.core.shapes import expand


class Masking(Protocol):
    """How the share of masks grows with time."""

    def keep(self, t: Tensor) -> Tensor:
        """Return alpha(t), the chance that a position is visible; decreasing, 1 at t = 0 but for a small remainder."""
        ...

    def rate(self, t: Tensor) -> Tensor:
        """Return sigma(t) = -alpha'(t) / alpha(t), the rate at which a visible position is masked."""
        ...

    def time(self, masked: Tensor) -> Tensor:
        """Return the t at which the share of masks is `masked`; the inverse of 1 - alpha."""
        ...


@final
@dataclass(frozen=True)
class LinearMasking:
    """alpha = 1 - (1 - eps) t: the share of masks is proportional to time.

    Args:
        eps: Share still visible at t = 1, in [0, 1); 0 masks everything, the papers' 1e-3 keeps the rate finite there.

    Source: Lou et al. 2024 (SEDD), log-linear noise.
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps < 1.0:
            raise ValueError(f"LinearMasking needs 0 <= eps < 1, got {self.eps}")

    def keep(self, t: Tensor) -> Tensor:
        """Return alpha(t)."""
        return 1.0 - (1.0 - self.eps) * t

    def rate(self, t: Tensor) -> Tensor:
        """Return sigma(t)."""
        return (1.0 - self.eps) / self.keep(t)

    def time(self, masked: Tensor) -> Tensor:
        """Return t, clipped to [0, 1]."""
        return (masked / (1.0 - self.eps)).clamp(0.0, 1.0)


@final
@dataclass(frozen=True)
class GeometricMasking:
    """alpha = exp(-s), s = low^(1 - t) high^t.

    Args:
        low, high: Total noise s at t = 0 and t = 1, 0 < low < high.

    Source: Lou et al. 2024 (SEDD), geometric noise, with their 1e-4 and 20.
    """

    low: float = 1e-4
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high:
            raise ValueError(f"GeometricMasking needs 0 < low < high, got {self.low} and {self.high}")

    def _total(self, t: Tensor) -> Tensor:
        return self.low * torch.exp(t * math.log(self.high / self.low))

    def keep(self, t: Tensor) -> Tensor:
        """Return alpha(t)."""
        return torch.exp(-self._total(t))

    def rate(self, t: Tensor) -> Tensor:
        """Return sigma(t)."""
        return self._total(t) * math.log(self.high / self.low)

    def time(self, masked: Tensor) -> Tensor:
        """Return t, clipped to [0, 1]."""
        total = -torch.log1p(-masked)
        return (torch.log(total / self.low) / math.log(self.high / self.low)).clamp(0.0, 1.0)


@final
@dataclass(frozen=True)
class Absorbing:
    """Token positions are masked independently, more of them with time.

    Args:
        vocabulary: Number of ordinary tokens V; ids 0 to V - 1. The mask has id V.
        masking: The share of masks over time.
    """

    vocabulary: int
    masking: Masking = field(default_factory=LinearMasking)

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise ValueError(f"Absorbing needs a vocabulary of at least 1 token, got {self.vocabulary}")

    @property
    def mask(self) -> int:
        """Id of the mask token, V."""
        return self.vocabulary

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def masked(self, t: Tensor) -> Tensor:
        """Return lambda(t) = 1 - alpha(t), the share of masks, float64."""
        return 1.0 - self.masking.keep(t.to(torch.float64))

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Mask tokens with probability lambda(t).

        Args:
            data: Token ids, int64 (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: One uniform a position.
            **known: "masked", bool (B, *S), to fix which positions are masked.

        Returns: The draw, with latents "data" and "masked".
        """
        if known.keys() - {"masked"}:
            raise TypeError(f"Absorbing has latents data and masked; got {sorted(known)}")
        masked = known.get("masked")
        if masked is None:
            masked = rng.uniform(data.shape).to(data.device) < expand(self.masked(t), data)
        return Draw(data.masked_fill(masked, self.mask), t, {"data": data, "masked": masked})

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Return all masks, int64 (B, *S), or a text whose masks are to be filled.

        Args:
            shape: (B, *S).
            rng: Tells the device.
            source: Token ids (B, *S) with the mask's id where something is to be written. Visible tokens never change,
                so a prompt, an infilling and free generation are all the same call.

        Raises:
            ValueError: If the source has another shape, or an id that is no token.
        """
        if source is None:
            device = rng.uniform((shape[0],)).device
            return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)
        if tuple(source.shape) != tuple(shape):
            raise ValueError(f"source has shape {tuple(source.shape)}, expected {tuple(shape)}")
        if source.numel() and not 0 <= int(source.min()) <= int(source.max()) <= self.mask:
            raise ValueError(f"a source holds token ids 0 to {self.mask - 1}, or {self.mask} where to write")
        return source.to(torch.int64)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Categorical, *, eta: float, rng: Rng) -> Tensor:
        """Sample the tokens at time s: masked positions are revealed, and with eta > 0 some are masked again.

        A revealed position is masked again with probability r = eta * min(1, lambda_s / alpha_t); a masked one is
        revealed with probability (alpha_s - (1 - r) alpha_t) / lambda_t, its value drawn from the estimate, which is
        asked at those positions only. For s > t more are masked.

        Args:
            x: Token ids at time t, int64 (B, *S).
            t, s: Times in [0, 1], any prefix shape of x.
            est: Distribution of the clean token at each position.
            eta: 0 never masks again (the usual ancestral step), 1 as often as the marginals allow.
            rng: Two uniforms a position, whatever happens to it.

        Raises:
            ValueError: If eta is not in [0, 1].

        Source: Sahoo et al. 2024, eq. 7 (Tweedie's tau-leaping of Ou et al. 2025); Wang et al. 2025 (ReMDM), eq. 8,
            maximal schedule scaled by eta.
        """
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        hidden_t, hidden_s = expand(self.masked(t), x), expand(self.masked(s), x)
        keep_t, keep_s = 1.0 - hidden_t, 1.0 - hidden_s
        up = hidden_s > hidden_t
        again = eta * torch.where(keep_t > 0.0, hidden_s / keep_t.clamp_min(1e-12), 1.0).clamp(0.0, 1.0)
        again = torch.where(up, 1.0 - keep_s / keep_t.clamp_min(1e-12), again)
        chance = torch.where(hidden_t > 0.0, (keep_s - (1.0 - again) * keep_t) / hidden_t.clamp_min(1e-12), 0.0)
        chance = torch.where(up, 0.0, chance.clamp(0.0, 1.0))
        u = rng.uniform(x.shape).to(x.device)
        hidden = x == self.mask
        x = torch.where(~hidden & (u < again), self.mask, x)
        return unmask(x, hidden & (u < chance), est, rng)

    def tilt(self, x: Tensor, t: Tensor, est: Categorical, grad: Tensor) -> Categorical:
        """Return the estimate with log-probabilities moved by grad (B, *S, V)."""
        return Categorical(est.logits + grad, est.aux)

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Categorical]) -> Tensor:
        """Return x, with what is still masked drawn as its most likely token: at most lambda(0) of the positions."""
        hidden = x == self.mask
        if torch.equal(hidden, torch.zeros_like(hidden)):
            return x
        est = denoise(x, torch.zeros((), dtype=torch.float64, device=x.device))
        return x.masked_scatter(hidden, est.at(hidden).argmax(-1))


def unmask(x: Tensor, where: Tensor, est: Categorical, rng: Rng) -> Tensor:
    """Write a token drawn from the estimate at some positions of x.

    Args:
        x: Token ids, int64 (B, *S).
        where: Bool (B, *S).
        est: Distribution of the token at each position, asked only there.
        rng: One uniform a position, read everywhere so that a row's stream does not depend on what happens to it.
    """
    return write(x, where, est, rng.uniform(x.shape).to(x.device))


def write(x: Tensor, where: Tensor, est: Categorical, u: Tensor) -> Tensor:
    """Write tokens as `unmask` does, with uniform numbers u (B, *S) drawn before."""
    return x.masked_scatter(where, pick(est.at(where), u[where]))


@runtime_checkable
class Headed(Protocol):
    """A token network whose last layer can be asked at some positions only."""

    def hidden(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """Return features (B, *S, W) of ids x (B, *S)."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V) of features (..., W)."""
        ...


@final
class Unmasked(nn.Module):
    """A network read as a token denoiser: visible positions are certain, and the mask itself is never predicted.

    Args:
        net: Module called as net(x, t, cond) with ids (B, *S); returns logits (B, *S, V), or a pair of those and a
            mapping of extra outputs. One that is `Headed` has its last layer computed only where it is asked.
        process: The absorbing process that made x.

    Source: Sahoo et al. 2024, the substitution parameterisation.
    """

    def __init__(self, net: nn.Module, process: Absorbing) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Estimate the clean tokens behind ids x (B, *S) at time t."""
        if isinstance(self.net, Headed):
            net = cast(Headed, self.net)
            features = net.hidden(x, t, cond)

            def make(where: Tensor | None) -> Tensor:
                if where is None:
                    return reveal(net.head(features), x, self.process.mask)
                return reveal(net.head(features[where]), x[where], self.process.mask)

            return Categorical.deferred(make)
        result = self.net(x, t, cond)
        logits, aux = result if isinstance(result, tuple) else (result, {})
        return Categorical(reveal(logits, x, self.process.mask), aux)


@final
class TimeFree(nn.Module):
    """A token network that is never told the time: p(token | visible tokens) does not depend on it.

    Args:
        net: A `Headed` network; it always sees t = 0.

    Source: Ou et al. 2025 (RADD).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def hidden(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """Return features of ids x (B, *S), whatever t is."""
        return cast(Headed, self.net).hidden(x, torch.zeros((), device=x.device), cond)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V) of features (..., W)."""
        return cast(Headed, self.net).head(hidden)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return logits (B, *S, V)."""
        return self.head(self.hidden(x, t, cond))


def reveal(logits: Tensor, x: Tensor, mask: int) -> Tensor:
    """Return log-probabilities (B, *S, V): normalised logits where x is masked, one-hot where a token is visible."""
    log_p = torch.log_softmax(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, -1)
    seen = x != mask
    if not torch.is_grad_enabled() and not bool(seen.any()):
        return log_p
    certain = torch.full_like(log_p, -torch.inf).scatter(-1, x.clamp_max(log_p.shape[-1] - 1).unsqueeze(-1), 0.0)
    return torch.where(seen.unsqueeze(-1), certain, log_p)
