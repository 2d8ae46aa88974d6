"""Three views, one optimum: whatever row a linear model is fitted to, the data estimate it implies is the same."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, TARGETS, gaussian, rng

from condiff.process import VP, Flow, Gaussian, LogLinear, Trig

PATHS = {"VP": VP(), "Flow": Flow(), "Trig": Trig(), "EDM": LogLinear(0.02, 20.0)}


@pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_least_squares_in_every_view_give_one_estimate(schedule, t):
    """Variational (Data, Noise), score (Score) and flow (Velocity, V, EDM), each by its own closed-form least squares."""
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=3)
    count = 500
    data = oracle.sample(count, rng=rng(*range(count)))
    times = torch.full((count,), t, dtype=DTYPE)
    draw = process.draw(data, times, rng=rng(*range(count), seed=1))
    inputs = torch.cat([draw.x, torch.ones(count, 1, dtype=DTYPE)], 1)
    found = {}
    for name, target in TARGETS.items():
        row = process.row(target, times)
        truth = sum(row[k].unsqueeze(1) * draw.latents[k] for k in row)
        fitted = inputs @ torch.linalg.lstsq(inputs, truth).solution
        found[name] = process.infer(draw.x, times, fitted, target).parts["data"]
    for name, estimate in found.items():
        torch.testing.assert_close(
            estimate, found["Data"], rtol=1e-8, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
        )
    # It tends to the exact one as the draws grow: 5 standard errors of a fit of 4 numbers to 500 rows.
    exact = oracle(draw.x, times, None).parts["data"]
    spread = float((data - exact).std())
    assert float((found["Data"] - exact).square().mean().sqrt()) < 5 * spread * (4 / count) ** 0.5
