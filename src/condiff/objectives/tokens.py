"""Objectives for absorbing token diffusion: four forms of one bound on the negative log-likelihood.

With S the set of masked positions and CE_S = sum over S of -log p(token | visible tokens), every form has the
expectation of an average over all orders in which the tokens could be written one by one (Ou et al. 2025).
They differ in what is drawn and so in variance. All return nats a token.

| objective       | draws                                  | loss of the draw                     |
| --------------- | -------------------------------------- | ------------------------------------ |
| `ScoreEntropy`  | t                                      | sigma (sum of scores - w log score + ...) = sigma w CE_S |
| `TimeCrossEntropy` | t                                   | sigma w (CE_S - |S| log w)           |
| `MaskedTokens`  | lambda, the share of masks             | CE_S / lambda                        |
| `AnyOrder`      | k of L positions, uniformly            | (L / k) CE_S                         |

sigma is the rate of masking, w = alpha / (1 - alpha).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical
from condiff.core.objective import Loss
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.core.shapes import expand
from condiff.process.absorbing import Absorbing
from condiff.process.schedule import Flow
from condiff.process.timelaw import Stratified, TimeLaw, UniformTime, draw_times


def _spread() -> TimeLaw:
    """Times from each of B strata, off the end at which the weight is infinite."""
    return Stratified(UniformTime(low=1e-3))


def log_probabilities(est: Categorical, data: Tensor, where: Tensor) -> Tensor:
    """Return log p of the true token where a bool (B, *S) holds, and 0 elsewhere, (B, *S); only asked there."""
    logits = est.at(where)
    known = torch.log_softmax(logits, -1).gather(-1, data[where].unsqueeze(-1)).squeeze(-1)
    return torch.zeros(data.shape, dtype=known.dtype, device=data.device).masked_scatter(where, known)


def _time(process: Absorbing, times: TimeLaw, data: Tensor, rng: Rng) -> Draw:
    t = draw_times(times, data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
    return process.draw(data, t, rng=rng)


def _weighted(rows: Tensor, times: TimeLaw, t: Tensor) -> Loss:
    weight = times.weight(t)
    return Loss(rows if weight is None else rows * weight.to(rows.dtype))


@final
@dataclass(frozen=True)
class MaskedTokens:
    """Cross-entropy of the masked tokens, weighted by 1 / lambda: the lambda-denoising cross-entropy.

    loss_b = CE_S / (lambda L)

    Args:
        process: The absorbing process.
        shares: Law of lambda, the share of masks; its low end keeps 1 / lambda finite.

    Source: Ou et al. 2025 (RADD), lambda-DCE; Sahoo et al. 2024, eq. 10, and Shi et al. 2024 for alpha = 1 - t.
    """

    process: Absorbing
    shares: TimeLaw = field(default_factory=_spread)

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, *S), nats a token."""
        if draw is None:
            share = draw_times(self.shares, data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
            masked = rng.uniform(data.shape).to(data.device) < expand(share, data)
            draw = self.process.draw(data, self.process.masking.time(share), rng=rng, masked=masked)
        else:
            share = self.process.masked(draw.t)
        est = denoiser(draw.x, draw.t, cond)
        nats = -log_probabilities(est, data, draw.latents["masked"])
        rows = (nats / expand(share, nats).to(nats.dtype)).flatten(1).mean(1)
        return _weighted(rows, self.shares, share)


@final
@dataclass(frozen=True)
class ScoreEntropy:
    """Denoising score entropy, with scores s_iv = w p(token i = v | visible tokens).

    loss_b = (sigma / L) sum over i in S of [sum_v s_iv - w log s_i,x_i + w (log w - 1)]

    Because p is normalised this is sigma w CE_S / L for every single draw; it is computed as written, so that a
    denoiser whose rows do not sum to 1 is seen.

    Args:
        process: The absorbing process.
        times: Law of the training times.

    Source: Lou et al. 2024 (SEDD); Ou et al. 2025 (RADD), DSE.
    """

    process: Absorbing
    times: TimeLaw = field(default_factory=_spread)

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, *S), nats a token."""
        draw = _time(self.process, self.times, data, rng) if draw is None else draw
        where = draw.latents["masked"]
        est = denoiser(draw.x, draw.t, cond)
        logits = est.at(where)
        rate, w = (expand(value, data).expand(data.shape)[where] for value in rate_and_weight(self.process, draw.t))
        mass = logits.exp().sum(-1)
        own = logits.gather(-1, data[where].unsqueeze(-1)).squeeze(-1)
        terms = rate * (w * mass - w * (torch.log(w) + own) + w * (torch.log(w) - 1.0))
        nats = torch.zeros(data.shape, dtype=terms.dtype, device=data.device).masked_scatter(where, terms)
        return _weighted(nats.flatten(1).mean(1), self.times, draw.t)


@final
@dataclass(frozen=True)
class TimeCrossEntropy:
    """The t-denoising cross-entropy: that of the scores themselves, so it keeps a term without gradient.

    loss_b = (sigma w / L) sum over i in S of -log(w p(x_i | visible tokens))

    The extra term -sigma w |S| log w / L has mean zero over lambda in (0, 1): a bound only on average over times.

    Args:
        process: The absorbing process.
        times: Law of the training times.

    Source: Ou et al. 2025 (RADD), t-DCE.
    """

    process: Absorbing
    times: TimeLaw = field(default_factory=_spread)

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, *S), nats a token."""
        draw = _time(self.process, self.times, data, rng) if draw is None else draw
        where = draw.latents["masked"]
        est = denoiser(draw.x, draw.t, cond)
        rate, w = (expand(value, data) for value in rate_and_weight(self.process, draw.t))
        nats = -log_probabilities(est, data, where) - torch.where(where, torch.log(w), 0.0)
        return _weighted((rate * w * nats).flatten(1).mean(1), self.times, draw.t)


@final
@dataclass(frozen=True)
class AnyOrder:
    """The autoregressive loss of a random order at a random place: (L / k) CE_S, S uniform among k-subsets.

    loss_b = CE_S / k

    The least noisy of the four: a draw always has its exact number of masks.

    Args:
        process: The absorbing process.

    Source: Uria et al. 2014; Hoogeboom et al. 2022; Ou et al. 2025 (RADD), AO, with k stratified over the batch.
    """

    process: Absorbing

    def __call__(
        self,
        denoiser: Denoiser[Categorical],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, L), nats a token."""
        if draw is None:
            length = data[0].numel()
            place = draw_times(Stratified(UniformTime()), data.shape[:1], schedule=Flow(), rng=rng).to(data.device)
            count = (place * length).floor() + 1.0  # 1 to L, each as often
            rank = rng.uniform(data.shape).to(data.device).flatten(1).argsort(1).argsort(1).reshape(data.shape)
            masked = rank < expand(count, data)
            draw = self.process.draw(data, self.process.masking.time(count / length), rng=rng, masked=masked)
        where = draw.latents["masked"]
        est = denoiser(draw.x, draw.t, cond)
        nats = -log_probabilities(est, data, where).flatten(1).sum(1)
        return Loss(nats / where.flatten(1).sum(1).clamp_min(1))


def rate_and_weight(process: Absorbing, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return sigma(t) and w(t) = alpha / (1 - alpha), float64; w is infinite at t = 0."""
    t = t.to(torch.float64)
    keep = process.masking.keep(t)
    return process.masking.rate(t), keep / (1.0 - keep)
