"""Measured order of convergence, batch law with randomness, host against row times, reversibility, parity."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, ORDERS, STOCHASTIC, Linear, gaussian, guidance_stacks, labels, mixture, rng

from condiff.core import RowRng, State, instant, trajectory
from condiff.core.drivers import instants
from condiff.core.drivers import sample as run
from condiff.oracles import GaussianData
from condiff.process import (
    VP,
    Flow,
    FlowClock,
    Gaussian,
    Interpolant,
    LogLinear,
    Normal,
    Preconditioned,
    Ratio,
    Straight,
    Student,
    Trig,
    Uniform,
    V,
    Velocity,
)  # fmt: skip
from condiff.solvers import SDE, Adams, Euler, Heun, Implicit, Jump, Langevin, Multistep, Proportional

# Stretches of the clock on which every solver's own variable is finite.
STRETCHES = {
    "VP": (VP(), 0.9, 0.1),
    "VE": (LogLinear(0.02, 10.0), 0.9, 0.1),
    "Flow": (Flow(), 0.9, 0.1),
    "Trig": (Trig(), 0.9, 0.1),
}


def solve(process, denoiser, solver, grid, x, source=None, cond=None):
    source = source or RowRng(0, range(len(x)), dtype=DTYPE)
    for state in trajectory(process, denoiser, solver, x, grid, cond=cond, rng=source):
        last = state.x
    return last


@pytest.mark.parametrize("stretch", STRETCHES.values(), ids=STRETCHES)
@pytest.mark.parametrize(("solver", "order"), ORDERS.values(), ids=ORDERS)
def test_measured_order_of_convergence(stretch, solver, order):
    schedule, start, end = stretch
    process = Gaussian(schedule)
    oracle = gaussian(process)
    x = RowRng(0, range(4), dtype=DTYPE).normal((4, 4)) * float(schedule(start)[1])
    exact = oracle.flow(x, torch.tensor(start), torch.tensor(end))
    errors = []
    for steps in (48, 96):
        grid = torch.linspace(start, end, steps + 1, dtype=DTYPE)
        errors.append(float((solve(process, oracle, solver, grid, x) - exact).square().mean().sqrt()))
    slope = math.log2(errors[0] / errors[1])
    # Midpoint's leading error cancels on the straight flow of Gaussian data.
    most = 1.0 if type(solver).__name__ == "Midpoint" and isinstance(schedule, Flow) else 0.3
    assert order - 0.25 < slope < order + most, f"measured order {slope:.2f}, errors {errors}"


def test_order_is_that_of_the_formula_not_of_luck():
    """A wrong history (subscript) lowers the order: order 3 with a shifted history must be seen as less than 3."""
    process = Gaussian(Flow())
    oracle = gaussian(process)
    x = rng(0, 1).normal((2, 4))
    exact = oracle.flow(x, torch.tensor(0.9), torch.tensor(0.1))

    class Shifted:
        inner = Adams(3)

        def init(self, x, t):
            return self.inner.init(x, t)

        def step(self, process, denoise, state, t, s, rng):
            new = self.inner.step(process, denoise, state, t, s, rng)
            return State(new.x, {**new.memory, "past2": new.memory["past1"]})

    errors = []
    for steps in (48, 96):
        grid = torch.linspace(0.9, 0.1, steps + 1, dtype=DTYPE)
        errors.append(float((solve(process, oracle, Shifted(), grid, x) - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) < 2.5


@pytest.mark.parametrize("solver", {**{k: s for k, (s, _) in ORDERS.items()}, **STOCHASTIC}.values(),
                         ids=[*ORDERS, *STOCHASTIC])  # fmt: skip
@pytest.mark.parametrize("schedule", [VP(), LogLinear(0.02, 10.0), Flow()], ids=["VP", "VE", "Flow"])
def test_batch_law_with_randomness(solver, schedule):
    process = Gaussian(schedule)
    net = Preconditioned(Linear(), process, V())
    cond, x = labels(0, 1, 0), rng(4, 5, 6).normal((3, 2))
    grid = torch.linspace(0.9, 0.2, 6, dtype=DTYPE)
    whole = solve(process, net, solver, grid, x, rng(7, 8, 9), cond)
    for b in range(3):
        alone = solve(process, net, solver, grid, x[b : b + 1], rng(7 + b), cond.rows(torch.tensor([b])))
        torch.testing.assert_close(alone[0], whole[b], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("stack", guidance_stacks(FLOW))
@pytest.mark.parametrize("solver", [Jump(1.0), Adams(3), Multistep(2)], ids=["DDPM", "Adams3", "2M"])
def test_batch_law_under_every_guidance(stack, solver):
    denoiser = guidance_stacks(FLOW)[stack]
    cond, x = labels(0, 1, 1), rng(4, 5, 6).normal((3, 2))
    grid = torch.linspace(0.9, 0.2, 5, dtype=DTYPE)
    whole = solve(FLOW, denoiser, solver, grid, x, rng(7, 8, 9), cond)
    order = torch.tensor([2, 0])
    some = solve(FLOW, denoiser, solver, grid, x[order], rng(9, 7), cond.rows(order))
    torch.testing.assert_close(some, whole[order], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("solver", {**{k: s for k, (s, _) in ORDERS.items()}, **STOCHASTIC}.values(),
                         ids=[*ORDERS, *STOCHASTIC])  # fmt: skip
@pytest.mark.parametrize("schedule", [VP(), LogLinear(0.02, 10.0), Flow()], ids=["VP", "VE", "Flow"])
def test_shared_times_equal_row_times(solver, schedule):
    process = Gaussian(schedule)
    net = Preconditioned(Linear(), process, V(), sigma_data=0.7)
    x, grid = rng(4, 5).normal((2, 2)), torch.linspace(0.9, 0.2, 6, dtype=DTYPE)
    shared = solve(process, net, solver, grid, x, rng(7, 8))
    rows = solve(process, net, solver, grid[:, None].expand(6, 2), x, rng(7, 8))
    torch.testing.assert_close(shared, rows, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("solver", [Jump(1.0), Multistep(2), Multistep(3), Adams(2), Adams(3), ORDERS["UniPC"][0],
                                    ORDERS["EVODiff"][0]],
                         ids=["DDPM", "2M", "3M", "AB2", "AB3", "UniPC", "EVODiff"])  # fmt: skip
def test_rows_may_leave_and_join(solver):
    """A row admitted two steps late, in a batch with another, ends where it ends alone (stream batching)."""
    net = Preconditioned(Linear(), FLOW, V())
    grid = torch.linspace(0.95, 0.2, 6, dtype=DTYPE)
    early, late = rng(1).normal((1, 2)), rng(2).normal((1, 2))
    alone = [solve(FLOW, net, solver, grid, x, source) for x, source in ((early, rng(11)), (late, rng(12)))]

    def denoise(x, t):
        return net(x, t, None)

    state, source = solver.init(early, grid[:1]), rng(11)
    done = {}
    for clock in range(7):
        if clock == 2:
            state, source = state.cat(solver.init(late, grid[:1])), source.cat(rng(12))
        at = [k for k in (clock, clock - 2) if 0 <= k < 5] if clock >= 2 else [clock]
        state = solver.step(FLOW, denoise, state, grid[at], grid[[k + 1 for k in at]], source)
        if clock == 4:  # the early row is through: it leaves
            done["early"] = state.x[:1]
            state, source = state.rows(torch.tensor([1])), source.rows([1])
    torch.testing.assert_close(done["early"], alone[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(state.x, alone[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Adams(2), Multistep(2), Heun(Ratio()), Euler(FlowClock())],
                         ids=["Euler", "Heun", "AB2", "2M", "HeunRatio", "EulerFlow"])  # fmt: skip
def test_time_runs_both_ways(solver):
    process = Gaussian(VP())
    oracle = gaussian(process)
    x = rng(0, 1).normal((2, 4))
    grid = torch.linspace(0.2, 0.8, 301, dtype=DTYPE)
    there = solve(process, oracle, solver, grid, x)
    back = solve(process, oracle, solver, grid.flip(0), there)
    torch.testing.assert_close(back, x, atol=2e-2, rtol=2e-2)
    assert float((there - x).abs().max()) > 0.1


def test_implicit_inverts_jump_where_naive_inversion_fails():
    oracle = mixture(FLOW, None)
    start = rng(0, 1, 2).normal((3, 2))
    grid = torch.linspace(1.0, 0.0, 11, dtype=DTYPE)
    data = solve(FLOW, oracle, Jump(), grid, start)
    up = grid.flip(0)
    exact = solve(FLOW, oracle, Implicit(60), up, data)
    # The oracle's noise needs sigma > 0, so the naive run is started just above the data.
    naive = solve(FLOW, oracle, Jump(), up.clamp_min(1e-9), data)
    error, naive_error = (float((x - start).abs().max()) for x in (exact, naive))
    assert error < 1e-6
    assert naive_error > 100 * error


def test_ddim_equals_euler_on_the_same_grid():
    oracle = gaussian(FLOW)
    x, grid = rng(0, 1).normal((2, 4)), torch.linspace(1.0, 0.0, 9, dtype=DTYPE) ** 1.3
    ddim = solve(FLOW, oracle, Jump(), grid, x)
    torch.testing.assert_close(solve(FLOW, oracle, Euler(), grid, x), ddim, atol=1e-13, rtol=1e-13)
    vp = Gaussian(VP())
    oracle, grid = gaussian(vp), torch.linspace(1.0, 0.1, 9, dtype=DTYPE)
    ddim = solve(vp, oracle, Jump(), grid, x)
    for clock in (Ratio(), FlowClock(0.3)):
        torch.testing.assert_close(solve(vp, oracle, Euler(clock), grid, x), ddim, atol=1e-12, rtol=1e-12)


def test_ratio_is_refused_where_it_is_infinite():
    with pytest.raises(ValueError, match="alpha = 0"):
        solve(FLOW, gaussian(FLOW), Heun(Ratio()), torch.tensor([1.0, 0.5], dtype=DTYPE), rng(0).normal((1, 4)))


def test_clocks_other_than_the_process_own_need_a_gaussian():
    with pytest.raises(TypeError, match="Gaussian"):
        FlowClock().frame(Interpolant(Straight()), instant(0.5))


@pytest.mark.parametrize("solver", [SDE(), SDE(Proportional()), Langevin(), STOCHASTIC["Corrected"]])
def test_stochastic_steps_refuse_student_noise(solver):
    process = Gaussian(LogLinear.edm(), Student(4.0))
    net = Preconditioned(Linear(), process, V())
    with pytest.raises(TypeError, match="score"):
        solve(process, net, solver, torch.tensor([0.9, 0.8], dtype=DTYPE), rng(0).normal((1, 2)))


@pytest.mark.parametrize("solver", [Jump(), Jump(1.0), SDE(Proportional(1.0)), Adams(3), Multistep(2)],
                         ids=["DDIM", "DDPM", "SDE", "AB3", "2M"])  # fmt: skip
def test_samples_have_the_moments_of_the_data(solver):
    """For Gaussian data a linear solver maps noise linearly: its mean and covariance are read off exactly."""
    process = FLOW
    oracle = gaussian(process, dims=2)
    exact = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    count = 4000
    grid = Uniform()(process.schedule, 60)
    x = run(process, oracle, solver, (count, 2), grid, rng=RowRng(0, range(count), dtype=DTYPE))
    spread = exact.diagonal().sqrt()
    torch.testing.assert_close(x.mean(0), oracle.mean, atol=float(4 * spread.max() / count**0.5) + 0.01, rtol=0.0)
    # 4 standard errors of a covariance, plus the discretisation of 60 first-order steps.
    torch.testing.assert_close(torch.cov(x.T), exact, atol=float(6 * spread.max() ** 2 / count**0.5) + 0.02, rtol=0.0)


def test_deterministic_sampling_is_the_exact_linear_map():
    oracle = gaussian(FLOW, dims=3)
    basis = torch.cat([torch.zeros(1, 3, dtype=DTYPE), torch.eye(3, dtype=DTYPE)])
    ends = solve(FLOW, oracle, Adams(3), torch.linspace(1.0, 0.0, 201, dtype=DTYPE), basis)
    matrix = ends[1:] - ends[0]
    exact = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    torch.testing.assert_close(ends[0], oracle.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(matrix.T @ matrix, exact, atol=1e-4, rtol=1e-4)


def test_mixture_weights_are_sampled():
    oracle = mixture(FLOW, None)
    count = 3000
    x = run(FLOW, oracle, Adams(2), (count, 2), Uniform()(FLOW.schedule, 30), rng=RowRng(0, range(count), dtype=DTYPE))
    share = float(oracle.responsibilities(x, torch.tensor(1e-3))[:, 0].mean())
    assert abs(share - 0.3) < 4 * (0.21 / count) ** 0.5 + 0.005


def test_edm_ends_with_the_data_estimate():
    process = Gaussian(LogLinear.edm())
    oracle = gaussian(process)
    x = run(process, oracle, Heun(Ratio()), (2, 4), Uniform()(process.schedule, 40), rng=rng(0, 1))
    start = process.start((2, 4), rng=rng(0, 1))
    exact = oracle.flow(start, torch.tensor(1.0), torch.tensor(0.0))
    final = oracle(exact, torch.tensor(0.0), None).parts["data"]
    torch.testing.assert_close(x, final, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("grid", [torch.tensor([1.2, 0.5]), torch.tensor([0.5, -0.1]), torch.tensor([0.5, math.nan]),
                                  torch.tensor(0.5), torch.zeros(0)])  # fmt: skip
def test_bad_grids_are_refused(grid):
    with pytest.raises(ValueError, match=r"times must lie|at least one node"):
        instants(grid)


def test_solver_arguments_are_checked():
    for make in (lambda: Jump(1.5), lambda: Multistep(4), lambda: Adams(1), lambda: Implicit(0), lambda: Langevin(0)):
        with pytest.raises(ValueError, match=r"\d"):
            make()
    assert isinstance(GaussianData.of(FLOW, torch.zeros(2), torch.eye(2)), GaussianData)
    assert Velocity() == Velocity()
    assert Normal().additive
