"""Guidance of token diffusion by a classifier: each masked token is tilted by what it would do to the class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical
from condiff.process.absorbing import Absorbing

GAIN = "gain"
"""What an estimate's aux calls the log of sum_v p(v) ratio(v)^scale at each position, for `Gained`."""


class Judge(Protocol):
    """A classifier of texts that may be partly masked, for one class."""

    def __call__(self, hot: Tensor, /) -> Tensor:
        """Return log p(class | tokens) (N,) of one-hot tokens (N, L, V + 1), the mask last."""
        ...


class Ratios(Protocol):
    """How log p(class | token v at position i) - log p(class | text as it is) is found."""

    def __call__(self, judge: Judge, x: Tensor, where: Tensor, logits: Tensor, before: Tensor) -> Tensor:
        """Return log-ratios (M, V) at the M positions where a bool (B, L) holds.

        Args:
            judge: The classifier.
            x: Ids (B, L).
            where: Positions to be moved.
            logits: What the network says there, (M, V).
            before: Ids (B, P) that the classifier reads before x.
        """
        ...


def _hot(x: Tensor, vocabulary: int) -> Tensor:
    return nn.functional.one_hot(x, vocabulary + 1).float()


@final
@dataclass(frozen=True)
class EveryToken:
    """Asks for every token at every position: exact, M V rows of the classifier.

    Args:
        rows: Rows asked at a time.
    """

    rows: int = 4096

    def __call__(self, judge: Judge, x: Tensor, where: Tensor, logits: Tensor, before: Tensor) -> Tensor:
        """Return log-ratios (M, V)."""
        every = torch.arange(logits.shape[-1], device=x.device).expand_as(logits)
        return _asked(judge, x, where, every, before, logits.shape[-1], self.rows)


@final
@dataclass(frozen=True)
class BestTokens:
    """Asks for the likeliest tokens only, M count rows; the others are not moved.

    Args:
        count: Tokens asked for at each position.
        rows: Rows asked at a time.
    """

    count: int
    rows: int = 4096

    def __call__(self, judge: Judge, x: Tensor, where: Tensor, logits: Tensor, before: Tensor) -> Tensor:
        """Return log-ratios (M, V), 0 for tokens that were not asked for."""
        best = logits.topk(min(self.count, logits.shape[-1]), -1).indices
        found = _asked(judge, x, where, best, before, logits.shape[-1], self.rows)
        return torch.zeros_like(logits).scatter(-1, best, found.to(logits.dtype))


@final
@dataclass(frozen=True)
class Taylor:
    """To first order in the one-hot tokens, at the text as it is: one forward and one backward pass.

    log p(y | i := v) - log p(y | x) ~ g_iv - g_i,x_i. Exact where the classifier is linear in one-hot tokens; early in
    a text, where almost all is masked, weak and biased.
    """

    def __call__(self, judge: Judge, x: Tensor, where: Tensor, logits: Tensor, before: Tensor) -> Tensor:
        """Return log-ratios (M, V)."""
        with torch.enable_grad():
            hot = _hot(torch.cat([before, x], 1), logits.shape[-1]).requires_grad_(True)
            grad = torch.autograd.grad(judge(hot).sum(), hot)[0][:, before.shape[1] :]
        here = grad.gather(-1, x.unsqueeze(-1))
        return (grad[..., :-1] - here)[where]


def _asked(
    judge: Judge, x: Tensor, where: Tensor, tokens: Tensor, before: Tensor, vocabulary: int, rows: int
) -> Tensor:
    """Ask the classifier for given tokens (M, K) at the M positions, and for the text as it is."""
    row, place = where.nonzero(as_tuple=True)
    x, place = torch.cat([before, x], 1), place + before.shape[1]
    plain = judge(_hot(x, vocabulary))
    out = []
    step = max(1, rows // max(1, tokens.shape[1]))
    for at in range(0, len(row), step):
        here = slice(at, at + step)
        texts = x[row[here]].repeat_interleave(tokens.shape[1], 0)
        places = place[here].repeat_interleave(tokens.shape[1])
        texts[torch.arange(len(texts), device=x.device), places] = tokens[here].flatten()
        out.append(judge(_hot(texts, vocabulary)).unflatten(0, (-1, tokens.shape[1])) - plain[row[here], None])
    return torch.cat(out) if out else tokens.new_empty(tokens.shape, dtype=torch.float32)


@final
@dataclass(frozen=True)
class Classified:
    """A token denoiser tilted by a classifier, each masked position by itself.

    p_g(v) proportional to p(v) (p(y | x with i := v) / p(y | x))^scale

    With the exact classifier, scale 1 and one token a step, the text has the law p(x | y). The aux "gain" is the log of
    the normaliser: with it, `Gained` also unmasks more where the class gains; `Jump` and the others keep the rate.

    Args:
        denoiser: The denoiser.
        process: Its process.
        judge: log p(y | tokens) of the class wanted, on texts that may be partly masked.
        scale: 0 is no guidance, 1 is Bayes' rule.
        ratios: How the classifier is asked.
        before: Finished ids (B, P) of the same texts, which the classifier reads before x; None is none.

    Source: Schiff et al. 2025 (discrete guidance), D-CBG, with their exact and first-order forms.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    judge: Judge
    scale: float = 1.0
    ratios: Ratios = field(default_factory=EveryToken)
    before: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Return the tilted estimate."""
        est = self.denoiser(x, t, cond)
        where = x == self.process.mask
        log_p = torch.log_softmax(est.logits, -1)
        if self.scale == 0.0 or not bool(where.any()):
            return Categorical(log_p, est.aux)
        before = x[:, :0] if self.before is None else self.before
        ratios = self.ratios(self.judge, x, where, log_p[where], before)
        moved = log_p[where] + self.scale * ratios.to(log_p.dtype)
        whole = torch.logsumexp(moved, -1, keepdim=True)
        tilted = log_p.clone()
        tilted[where] = moved - whole
        gain = torch.zeros(x.shape, dtype=log_p.dtype, device=x.device)
        gain[where] = whole.squeeze(-1)
        return Categorical(tilted, {**est.aux, GAIN: gain})
