"""G14: what a step of token diffusion costs besides the trunk: head, softmax and draw where a token is revealed only."""

from __future__ import annotations

import torch
from benchmarks.paired import Effort, Row, ratio, sweep
from torch import Tensor, nn

from condiff.core import RowRng
from condiff.core.condition import Condition
from condiff.process import Absorbing, Unmasked
from condiff.solvers import Jump


class Head(nn.Module):
    """A network whose trunk costs nothing: features are there, and the head makes logits of them."""

    def __init__(self, features: Tensor, vocabulary: int) -> None:
        super().__init__()
        self.features, self.out = features, nn.Linear(features.shape[-1], vocabulary)

    def hidden(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """Return the features, whatever x is."""
        return self.features

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.out(hidden)
        return out


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G14."""
    rows = []
    for vocabulary, steps in ((257, 32), (8192, 32), (8192, 128))[: effort.pick(3, 2)]:
        rows.append(_row(effort, vocabulary, steps))
    return rows


@torch.no_grad()
def _row(effort: Effort, vocabulary: int, steps: int, batch: int = 4, length: int = 128, width: int = 256) -> Row:
    process = Absorbing(vocabulary)
    net = Head(torch.randn(batch, length, width), vocabulary)
    denoiser = Unmasked(net, process)
    t, s = (torch.tensor(0.5 + k / steps, dtype=torch.float64) for k in (1, 0))
    x = torch.where(torch.rand(batch, length) < float(t), vocabulary, torch.randint(0, vocabulary, (batch, length)))
    solver, rng = Jump(), RowRng(0, range(batch))

    @torch.no_grad()
    def ours() -> Tensor:
        state = solver.init(x, t)
        return solver.step(process, lambda x, t: denoiser(x, t, None), state, t, s, rng).x

    @torch.no_grad()
    def everywhere() -> Tensor:
        """Head, softmax and a Gumbel race over all tokens and kinds, the mask among them, as others do."""
        log_p = torch.log_softmax(net.head(net.hidden(x, t, None)), -1)
        chance = float((t - s) / t)
        stay = torch.full((batch, length, 1), 1.0 - chance).log()
        logits = torch.cat([log_p + torch.tensor(chance).log(), stay], -1)
        gumbel = -torch.log(-torch.log(torch.rand_like(logits).clamp_min(1e-20)))
        drawn = (logits + gumbel).argmax(-1)
        return torch.where(x == vocabulary, drawn, x)

    readings = sweep({"ours": ours, "everywhere": everywhere}, effort.rounds)
    case = f"vocabulary {vocabulary}, {length} tokens, {steps} steps: cost of all positions over those revealed"
    return Row("G14", case, ratio(readings, "everywhere", "ours"), 1.4, above=True, bound=1.0)
