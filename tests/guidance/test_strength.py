"""What guidance strength does to a mixture with exact scores: confidence up, spread down, and 1 is no guidance."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE

from condiff.core import Condition, trajectory
from condiff.guidance import CFG, from_omega
from condiff.oracles import MixtureData
from condiff.process import Flow, FlowClock, Gaussian
from condiff.solvers import Adams

# Chen et al. 2024 (an overview of diffusion models), section 3.3: two Gaussians at -1 and 1 of variance 0.3, sampled at
# the right one. strength eta: (mean, deviation, share on the wrong side).
TABLE = {0.0: (0.99, 0.54, 0.030), 0.5: (1.20, 0.45, 0.0003), 1.0: (1.34, 0.40, 0.0), 3.0: (1.73, 0.31, 0.0)}


def sampled(eta):
    """Quantiles of the guided law: the flow is monotone in one dimension, so quantiles of the noise map to them."""
    process = Gaussian(Flow())
    means = torch.tensor([[-1.0], [1.0]], dtype=DTYPE)
    law = MixtureData.isotropic(process, torch.ones(2, dtype=DTYPE), means, 0.3**0.5, name="side")
    u = (torch.arange(2000, dtype=DTYPE) + 0.5) / 2000
    x = torch.distributions.Normal(0.0, 1.0).icdf(u)[:, None]
    cond = Condition.of(side=torch.ones(2000, dtype=torch.int64))
    grid = torch.linspace(1.0, 0.0, 81, dtype=DTYPE)
    states = trajectory(process, CFG(law, from_omega(eta)), Adams(3, FlowClock()), x, grid, cond=cond, rng=None)
    return list(states)[-1].x[:, 0]


@pytest.mark.parametrize(("eta", "row"), TABLE.items(), ids=[f"eta {eta:g}" for eta in TABLE])
def test_the_table_of_strengths(eta, row):
    ends = sampled(eta)
    mean, std, wrong = row
    # two digits of a Monte Carlo table, whose eta = 0 mean of .99 is 1 exactly: 1 % low
    assert float(ends.mean()) == pytest.approx(mean, abs=0.02)
    assert float(ends.std()) == pytest.approx(std, abs=0.01)
    assert float((ends < 0).double().mean()) == pytest.approx(wrong, abs=0.006)


def test_no_strength_is_the_conditional_law():
    ends = sampled(0.0)
    assert float(ends.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(ends.std()) == pytest.approx(0.3**0.5, abs=2e-3)
    exact = float(torch.distributions.Normal(1.0, 0.3**0.5).cdf(torch.tensor(0.0)))
    assert float((ends < 0).double().mean()) == pytest.approx(exact, abs=1e-3)
