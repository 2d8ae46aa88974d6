"""Compose guidance: each kind wraps a denoiser and is a denoiser again.

The denoiser is exact (a mixture of two Gaussians with a class), so the effect of each wrapper is all there is to see.
Run it with: python examples/guidance.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from condiff.core import Condition, Denoiser, Moments, RowRng, sample
from condiff.guidance import CFG, CleanLoss, Guided, Interval
from condiff.oracles import MixtureData
from condiff.process import Flow, FlowClock, Gaussian, Times, Uniform
from condiff.solvers import Adams


def above(data: Tensor, cond: Condition | None) -> Tensor:
    """Return a loss (B,) of clean points that is 0 above the line y = 1 and grows below it."""
    return (1.0 - data[:, 1]).clamp_min(0.0).square()


def main() -> dict[str, Tensor]:
    """Sample under five guidances; returns the mean of each set of samples."""
    process = Gaussian(Flow())
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    plain = MixtureData.isotropic(process, torch.ones(2), means, 0.5, name="side")
    strong = CFG(plain, 3.0)
    kinds: dict[str, Denoiser[Moments]] = {
        "the condition alone": plain,
        "classifier-free, scale 3": strong,
        "... at high noise only": CFG(plain, 3.0, when=Interval(0.75, 1.0)),
        "pulled above y = 1": Guided(plain, process, CleanLoss(above), scale=4.0),
        "both: guidance, then pulled": Guided(strong, process, CleanLoss(above), scale=4.0),
    }
    cond = Condition.of(side=torch.zeros(500, dtype=torch.int64))
    results: dict[str, Tensor] = {}
    for name, denoiser in kinds.items():
        x = sample(
            process,
            denoiser,
            Adams(2, FlowClock(1.0)),
            (500, 2),
            Times(Uniform(), process.schedule)(20),
            cond=cond,
            rng=RowRng(0, range(500)),
        )
        results[name] = x.mean(0)
        print(f"{name:28} mean ({x[:, 0].mean():+.2f}, {x[:, 1].mean():+.2f})  spread {x.std(0).mean():.2f}")
    return results


if __name__ == "__main__":
    main()
