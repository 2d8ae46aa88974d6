"""Train a conditional flow on points in the plane, in seconds, and sample it.

Class 0 is one arm of a spiral and class 1 the other. `fit` is a generator: the loop that reads it decides what to log
and when to stop. Run it with: python examples/train_flow.py
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import condiff
from condiff.core import key
from condiff.data import Dataset
from condiff.recipes import vectors
from condiff.train import Progress, Training


def arms(label: Tensor, *, seed: int) -> Tensor:
    """Draw points (N, 2) on the spiral's arms, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.rand(len(label), generator=generator).sqrt() * 1.5 * math.pi
    angle = turn + math.pi * label
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 3.0
    return points + 0.04 * torch.randn(points.shape, generator=generator)


def main(steps: int = 600) -> float:
    """Train and sample; returns the share of samples that lie nearer to the arm they were asked for."""
    label = torch.arange(4000) % 2
    data = Dataset(
        arms(label, seed=0), {"arm": label}, {"arm": torch.ones(4000, dtype=torch.bool)}, name="spiral", kind="vectors"
    )
    torch.manual_seed(key(0, "weights"))
    system = vectors(shape=(2,), conditions={"arm": {"kind": "ClassLabel", "num_classes": 2}}, width=64, depth=2)
    settings = Training(steps=steps, batch_size=256, learning_rate=4e-3, ema=0.99)
    progress = Progress.begin(system, settings)
    for report in condiff.fit(system, data, settings=settings, progress=progress):
        if report.step % 200 == 0:
            print(f"step {report.step}: loss {float(report.loss):.3f}")

    asked = [0, 1]  # repeated in turn
    points = condiff.sample(progress.averaged, num_samples=400, cond={"arm": asked}, seed=1)
    fresh = torch.arange(4000) % 2
    real = arms(fresh, seed=1)
    nearest = fresh[torch.cdist(points, real).argmin(1)]
    right = float((nearest == torch.arange(400) % 2).double().mean())
    print(f"{100 * right:.1f} % of 400 samples lie on the arm they were asked for")
    return right


if __name__ == "__main__":
    main()
