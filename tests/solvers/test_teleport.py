"""Starting late: exact where the data are Gaussian, free of network calls, with a fresh history below."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, gaussian, rng

from condiff.core import RowRng, SharedRng, State, trajectory
from condiff.process import VP, Flow, FlowClock, Gaussian, Karras, LogLinear, Ratio
from condiff.solvers import SDE, Adams, Heun, Jump, Multistep, Prior, Proportional, Teleport, at_noise


def solve(process, denoiser, solver, grid, x, source=None):
    for state in trajectory(process, denoiser, solver, x, grid, rng=source or rng(*range(len(x)))):
        last = state.x
    return last


class Counting:
    def __init__(self, inner):
        self.inner, self.times = inner, []

    def __call__(self, x, t, cond):
        self.times.append(float(t))
        return self.inner(x, t, cond)


@pytest.mark.parametrize("inner", [Heun(Ratio()), Multistep(2), Adams(3, FlowClock(0.5))], ids=["Heun", "2M", "AB3"])
def test_teleport_then_solve_is_solve_when_the_data_are_gaussian(inner):
    """For every skip the end is the exact one to the solver's own error, and later starts are nearer to it."""
    process = Gaussian(LogLinear.edm())
    oracle = gaussian(process)
    x = process.start((3, 4), rng=rng(0, 1, 2))
    grid = Karras()(process.schedule, 40)
    exact = oracle.flow(x, grid[0], grid[-1])
    whole = solve(process, oracle, inner, grid, x)
    own = float((whole - exact).abs().max())
    errors = []
    for skip in (0, *range(1, 39, 3), 30, 38):
        late = solve(process, oracle, Teleport(oracle, float(grid[skip]), inner), grid, x)
        errors.append(float((late - exact).abs().max()))
    assert errors[0] == own
    assert max(errors) <= 1.1 * own  # a fresh history costs a first-order step: some of it, not more
    assert errors[-2] < 0.5 * own
    jumped = solve(process, oracle, Teleport(oracle, 0.0, inner), grid, x)
    torch.testing.assert_close(jumped, exact, atol=1e-12, rtol=1e-12)


def test_the_order_of_the_inner_solver_is_kept():
    process = Gaussian(VP())
    oracle, x = gaussian(process), rng(0, 1).normal((2, 4))
    exact = oracle.flow(x, torch.tensor(0.9, dtype=DTYPE), torch.tensor(0.1, dtype=DTYPE))
    for inner, order in ((Heun(), 2), (Adams(3), 3)):
        errors = [
            float((solve(process, oracle, Teleport(oracle, 0.6, inner), grid, x) - exact).square().mean().sqrt())
            for grid in (torch.linspace(0.9, 0.1, n + 1, dtype=DTYPE) for n in (48, 96))
        ]
        assert errors[0] / errors[1] == pytest.approx(2.0**order, rel=0.25)


def test_karras_sub_grid_is_the_grid():
    """A fresh grid from sigma_k in n - k steps is the rest of the old one: the ramp is linear in sigma^(1 / rho)."""
    schedule = LogLinear.edm()
    whole = Karras()(schedule, 18)
    for k in range(1, 16):
        sigma = float(schedule(whole[k])[1])
        part = Karras(kappa_max=sigma)(LogLinear(0.002, 80.0), 18 - k)
        torch.testing.assert_close(schedule(part[1:])[1], schedule(whole[k + 1 :])[1], atol=1e-12, rtol=1e-12)


def test_the_network_is_asked_below_until_only():
    process = Gaussian(LogLinear.edm())
    oracle, x = gaussian(process), process.start((1, 4), rng=rng(0))
    grid = Karras()(process.schedule, 18)
    until = float(grid[6])
    net = Counting(oracle)
    solve(process, net, Teleport(oracle, until, Heun(Ratio())), grid, x)
    assert len(net.times) == 2 * (17 - 6)
    assert max(net.times) == until
    between = Counting(oracle)  # a step across `until` is cut there
    solve(process, between, Teleport(oracle, until + 0.01, Heun(Ratio())), grid, x)
    assert max(between.times) == pytest.approx(until + 0.01)
    assert len(between.times) == 2 * (17 - 5)


def test_the_history_starts_anew():
    process = Gaussian(Flow())
    oracle, x = gaussian(process), rng(0).normal((1, 4))
    solver = Teleport(oracle, 0.5, Adams(3))
    state = solver.init(x, torch.tensor(0.4))
    stale = State(state.x, {name: torch.full_like(leaf, 0.3) for name, leaf in state.memory.items()})
    t, s = torch.tensor([0.8], dtype=DTYPE), torch.tensor([0.6], dtype=DTYPE)
    moved = solver.step(process, lambda x, t: oracle(x, t, None), stale, t, s, rng(0))
    assert all(bool(leaf.isnan().all()) for name, leaf in moved.memory.items() if name.startswith("time"))


def test_a_teleported_row_beside_a_row_below():
    process = Gaussian(Flow())
    oracle, x = gaussian(process), rng(0, 1, 2).normal((3, 4))
    solver = Teleport(oracle, 0.5, Jump(1.0))
    grid = torch.tensor([[0.95, 0.6, 0.48], [0.9, 0.5, 0.3], [0.7, 0.3, 0.1], [0.6, 0.2, 0.05]], dtype=DTYPE)
    whole = solve(process, oracle, solver, grid, x, RowRng(3, range(3), dtype=DTYPE))
    for b in range(3):
        alone = solve(process, oracle, solver, grid[:, b], x[b : b + 1], RowRng(3, [b], dtype=DTYPE))
        torch.testing.assert_close(alone[0], whole[b], atol=1e-12, rtol=1e-12)


def test_stochastic_solvers_start_from_the_marginal():
    """Prior forgets the state: its ends have the data's covariance from any start; Teleport's keep to the start."""
    process = Gaussian(Flow())
    oracle = gaussian(process, dims=2)
    exact = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    grid = torch.linspace(1.0, 0.0, 41, dtype=DTYPE)
    x = torch.full((3000, 2), 50.0, dtype=DTYPE)
    for inner in (SDE(Proportional(1.0)), Jump(1.0), Adams(2)):
        made = solve(process, oracle, Prior(oracle, 0.6, inner), grid, x, SharedRng(0, dtype=DTYPE))
        torch.testing.assert_close(torch.cov(made.T), exact, atol=6 * float(exact.max()) / 3000**0.5 + 0.02, rtol=0.0)
        kept = solve(process, oracle, Teleport(oracle, 0.6, inner), grid, x[:2], SharedRng(0, dtype=DTYPE))
        assert float(kept.abs().max()) > 10.0


@pytest.mark.parametrize("schedule", [VP(), Flow(), LogLinear.edm()], ids=["VP", "Flow", "EDM"])
def test_a_noise_level_names_a_time(schedule):
    alpha, sigma = schedule(at_noise(Gaussian(schedule), 2.5))
    assert sigma / alpha == pytest.approx(2.5)


def test_arguments_are_checked():
    oracle = gaussian(Gaussian(Flow()))
    for make in (Teleport, Prior):
        with pytest.raises(ValueError, match=r"time in \[0, 1\], got 8"):
            make(oracle, 8.0, Heun())
    with pytest.raises(ValueError, match="must be > 0"):
        at_noise(Gaussian(Flow()), 0.0)
