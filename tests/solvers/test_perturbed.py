"""Injected error: exactly as much as asked, before every step, and none at strength 0."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, gaussian, rng

from condiff.core import Moments, RowRng, State, instant, trajectory
from condiff.process import Gaussian, LogLinear, Ratio, Student
from condiff.solvers import Heun, Multistep, Perturbed

PROCESS = Gaussian(LogLinear.edm())


def test_no_strength_is_the_inner_solver():
    oracle, x = gaussian(PROCESS), rng(0, 1).normal((2, 4))
    grid = torch.linspace(0.8, 0.2, 6, dtype=DTYPE)
    ends = []
    for solver in (Heun(Ratio()), Perturbed(Heun(Ratio()), 0.0)):
        *_, last = trajectory(PROCESS, oracle, solver, x, grid, rng=rng(3, 4))
        ends.append(last.x)
    assert torch.equal(*ends)


@pytest.mark.parametrize("process", [PROCESS, Gaussian(LogLinear.edm(), Student(4.0))], ids=["Normal", "Student"])
def test_the_state_is_moved_by_normal_noise_of_the_level(process):
    """An estimate without noise keeps the state, so that what a step adds is the disturbance alone: alpha sigma z."""
    t, s, x = instant(0.7), instant(0.4), torch.zeros(2, 3, dtype=DTYPE)

    def still(x, t):
        return Moments({"data": x, "noise": torch.zeros_like(x)})

    for strength in (0.1, 0.3):
        moved = Perturbed(Heun(Ratio()), strength).step(process, still, State(x), t, s, rng(5, 6)).x
        sigma = float(process.schedule(0.7)[1])
        torch.testing.assert_close(moved, strength * sigma * rng(5, 6).normal((2, 3)))


def test_history_is_dropped_with_the_state_it_belongs_to():
    oracle, x = gaussian(PROCESS), rng(0).normal((1, 4))
    grid = torch.linspace(0.8, 0.2, 6, dtype=DTYPE)
    ends = []
    for solver in (Perturbed(Multistep(2), 0.0), Multistep(1)):
        *_, last = trajectory(PROCESS, oracle, solver, x, grid, rng=RowRng(0, [0], dtype=DTYPE))
        ends.append(last.x)
    torch.testing.assert_close(*ends)


def test_strength_is_checked():
    with pytest.raises(ValueError, match="strength >= 0"):
        Perturbed(Heun(), -0.1)
