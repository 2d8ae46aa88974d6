"""Both ends of time: a target is exact there or says so, and solvers reach them alike in host and row times."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, ORDERS, SCHEDULES, STOCHASTIC, TARGETS, denoiser, gaussian, rng

from condiff.core import instant, trajectory
from condiff.core.shapes import expand
from condiff.process import Brownian, Flow, Gaussian, Interpolant, LogLinear, Straight
from condiff.solvers import SDE, Corrected, Jump, Multistep, Proportional


def rows_of(*values):
    return torch.tensor(values, dtype=DTYPE)


def run(process, net, solver, grid, x, source):
    for state in trajectory(process, net, solver, x, grid, rng=source):
        last = state.x
    return last


@pytest.mark.parametrize("form", ["host", "rows"])
@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_an_end_is_exact_or_refused(target, schedule, t, form):
    """The determinant, computed here from the coefficients alone, decides; there is no third outcome such as nan."""
    process = Gaussian(schedule)
    data, noise = rng(0, 1).normal((2, 3)), rng(2, 3).normal((2, 3))
    time = instant(t) if form == "host" else rows_of(t, 0.5)
    alpha, sigma = (float(c) for c in schedule(rows_of(t)))
    r_data, r_noise = (float(c) for c in target.row(schedule, rows_of(t)))
    det = alpha * r_noise - sigma * r_data
    x = process.draw(data, time, rng=rng(0, 1), noise=noise).x
    row = {k: torch.as_tensor(v, dtype=DTYPE) for k, v in process.row(target, time).items()}
    out = sum(expand(row[k], x) * z for k, z in (("data", data), ("noise", noise)))
    est = process.infer(x, time, out, target)
    if det == 0.0 or not math.isfinite(det):
        with pytest.raises(ValueError, match=rf"{type(target).__name__}.*t = {t:g}"):
            est.parts["data"]
    else:
        # Where sigma is 0.002 or alpha 1e-3 a mean is known to 1e-16 / 1e-3^2 at best.
        torch.testing.assert_close(est.parts["data"], data, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(est.parts["noise"], noise, atol=1e-6, rtol=1e-6)


SOLVERS = {**{name: solver for name, (solver, _) in ORDERS.items()}, **STOCHASTIC}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_whole_clock_is_run_alike_in_host_and_row_times(solver, schedule):
    process = Gaussian(schedule)
    net, x, grid = denoiser(process), rng(4, 5).normal((2, 2)), torch.linspace(1.0, 0.0, 5, dtype=DTYPE)
    outcomes = []
    for nodes in (grid, grid[:, None].expand(5, 2)):
        try:
            outcomes.append(run(process, net, solver, nodes, x, rng(7, 8)))
        except ValueError as error:
            outcomes.append(str(error))
    shared, rows = outcomes
    if isinstance(shared, str):
        assert "alpha = 0" in shared or "infinite" in shared
        assert isinstance(rows, str) or not bool(torch.isfinite(rows).all())
    else:
        assert bool(torch.isfinite(shared).all())
        # Rates near 1e3 at the ends of VP and VE amplify rounding.
        torch.testing.assert_close(shared, rows, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("form", ["host", "rows"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_network_is_never_asked_at_the_data(solver, form):
    """A Data prediction says nothing of the noise at sigma = 0, so one question there would be an error."""
    net, asked = denoiser(FLOW, TARGETS["Data"]), []

    def spy(x, t, cond):
        asked.append(t)
        return net(x, t, cond)

    grid = torch.linspace(0.8, 0.0, 4, dtype=DTYPE)
    grid = grid if form == "host" else torch.stack([grid, torch.linspace(0.9, 0.3, 4, dtype=DTYPE)], 1)
    assert bool(torch.isfinite(run(FLOW, spy, solver, grid, rng(4, 5).normal((2, 2)), rng(7, 8))).all())
    assert min(float(t.min()) for t in asked) > 0.0


@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_of_no_length_leaves_the_state(t, eta):
    """A finished row may wait in a batch: it must neither move nor turn to nan at an end of time."""
    x = rng(0, 1).normal((2, 2))
    net = denoiser(FLOW)
    for a, b in ((instant(t), instant(t)), (rows_of(t, 0.5), rows_of(t, 0.5))):
        torch.testing.assert_close(FLOW.reverse(x, a, b, net(x, a, None), eta=eta, rng=rng(0, 1)), x)


@pytest.mark.parametrize("times", [(0.0, 0.5), (0.3, 0.6), (0.6, 1.0)])
@pytest.mark.parametrize("form", ["host", "rows"])
def test_stochastic_steps_do_not_run_upwards(times, form):
    x = rng(0, 1).normal((2, 2))
    t, s = (instant(v) if form == "host" else rows_of(v, v) for v in times)
    bridge = Interpolant(Straight(Brownian(0.5)))
    with pytest.raises(ValueError, match="s <= t"):
        FLOW.reverse(x, t, s, denoiser(FLOW)(x, t, None), eta=1.0, rng=rng(0, 1))
    with pytest.raises(ValueError, match="s <= t"):
        bridge.reverse(x, t, s, bridge.infer(x, t, {"data": x, "noise": x}), eta=1.0, rng=rng(0, 1))
    solver = SDE(Proportional())
    with pytest.raises(ValueError, match="s <= t"):
        solver.step(FLOW, lambda x, t: denoiser(FLOW)(x, t, None), solver.init(x, t), t, s, rng(0, 1))


@pytest.mark.parametrize("form", ["host", "rows"])
def test_andersons_diffusion_is_refused_where_it_is_infinite(form):
    grid = rows_of(1.0, 0.5)
    grid = grid if form == "host" else grid[:, None].expand(2, 2)
    with pytest.raises(ValueError, match=r"alpha = 0.*Proportional"):
        run(FLOW, denoiser(FLOW), SDE(), grid, rng(0, 1).normal((2, 2)), rng(0, 1))


def test_corrected_arguments_are_checked():
    for make in (lambda: Corrected(Jump(), 0), lambda: Corrected(Jump(), 1, 0.0)):
        with pytest.raises(ValueError, match="num_corrections >= 1"):
            make()


def test_a_gaussian_is_exact_at_the_data_themselves():
    """At sigma = 0 the state says nothing of the noise: its mean is 0, and rounding must not be divided by 0."""
    oracle, x, zero = gaussian(FLOW), rng(0, 1).normal((2, 4)), instant(0.0)
    est = oracle(x, zero, None)
    torch.testing.assert_close(est.parts["data"], x)
    assert float(est.parts["noise"].abs().max()) == 0.0
    up = oracle.flow(x, zero, instant(0.6))
    torch.testing.assert_close(oracle.flow(up, instant(0.6), zero), x)
    assert float(up.abs().max()) < 10.0


def test_a_thin_gaussian_keeps_what_lies_outside_its_basis():
    """With a basis of rank 1 the rest of the space is pure noise: its mean is x / sigma there, and 0 at sigma = 0."""
    full = gaussian(FLOW, dims=3)
    thin = type(full)(FLOW, full.mean, full.basis[:, :1], full.variances[:1])
    x, t = rng(0, 1).normal((2, 3)), rows_of(0.4, 0.7)
    alpha, sigma = (c.unsqueeze(1) for c in FLOW.schedule(t))
    est = thin(x, t, None)
    torch.testing.assert_close(alpha * est.parts["data"] + sigma * est.parts["noise"], x)
    outside = torch.eye(3, dtype=DTYPE) - thin.basis @ thin.basis.T
    expected = ((x - alpha * thin.mean) @ outside) / sigma
    torch.testing.assert_close(est.parts["noise"] @ outside, expected)
    moved = thin.flow(x, t, 0.5 * t)
    torch.testing.assert_close(
        (moved - (1 - 0.5 * t).unsqueeze(1) * thin.mean) @ outside, 0.5 * (x - alpha * thin.mean) @ outside
    )
    assert bool(torch.isfinite(thin(x, instant(0.0), None).parts["noise"]).all())


@pytest.mark.parametrize("schedule", [Flow(), LogLinear.edm()], ids=["Flow", "EDM"])
def test_inversion_starts_at_the_data(schedule):
    process = Gaussian(schedule)
    oracle, x = gaussian(process), rng(0, 1).normal((2, 4))
    grid = torch.linspace(0.0, 0.9, 400, dtype=DTYPE)
    exact = oracle.flow(x, instant(0.0), instant(0.9))
    up = run(process, oracle, Jump(), grid, x, rng(0, 1))
    # First order in 400 steps; Multistep cannot start where sigma = 0, which its docstring says.
    torch.testing.assert_close(up, exact, atol=0.02 * float(exact.abs().max()), rtol=0.0)
    if schedule(0.0)[1] > 0.0:
        torch.testing.assert_close(run(process, oracle, Multistep(2), grid, x, rng(0, 1)), exact, rtol=1e-3, atol=1e-3)
