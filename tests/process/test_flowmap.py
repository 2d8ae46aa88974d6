"""Flow maps: boundaries for any weights, the published forms as rows, exact jumps, fresh noise, guidance, batches."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, SCHEDULES, TARGETS, flow_map, gaussian, labels, rng
from torch import nn

from condiff.core import ClassLabel, Condition, instant, trajectory
from condiff.core.drivers import sample as run
from condiff.guidance import CFG, Autoguidance, Interval
from condiff.nn import MLP, DiT, DiTSize, Grid, UNet, UNetSize
from condiff.oracles import GaussianMap
from condiff.process import (
    EDM,
    VP,
    Data,
    Diagonal,
    Flow,
    FlowMap,
    Gaussian,
    LogLinear,
    Mapped,
    Preconditioned,
    Student,
    Uniform,
    V,
    Velocity,
)  # fmt: skip
from condiff.solvers import Adams, Heun, Jump

SAFE = {name: TARGETS[name] for name in ("V", "EDM")}
X = rng(0, 1, 2).normal((3, 2))


def times(*values):
    return torch.tensor(values, dtype=DTYPE)


@torch.no_grad()
def jump(process, denoiser, x, t, s, cond=None, eta=0.0, seed=0):
    return Mapped(process).reverse(x, t, s, denoiser(x, t, cond), eta=eta, rng=rng(*range(len(x)), seed=seed))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("target", SAFE.values(), ids=SAFE)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_jump_of_no_length_is_the_identity_for_any_weights(schedule, target, eta):
    """f(x, t_min) = x, G(x, t, t) = x: no weight of the network can break either."""
    process = Gaussian(schedule)
    denoiser = flow_map(process, target)
    for t in (instant(0.0), instant(0.4), instant(1.0), times(0.0, 0.5, 1.0)):
        torch.testing.assert_close(jump(process, denoiser, X, t, t, eta=eta), X, atol=1e-12, rtol=1e-12)
    moved = jump(process, denoiser, X, instant(0.5), instant(0.2))
    assert float((moved - X).abs().max()) > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_exact_jumps_land_on_the_flow_up_and_down(schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)
    exact = GaussianMap(oracle)
    t, s = times(0.8, 0.5, 0.3), times(0.1, 0.45, 0.9)
    torch.testing.assert_close(jump(process, exact, X, t, s), oracle.flow(X, t, s), atol=1e-9, rtol=1e-9)
    here = Diagonal(exact)(X, t, None)
    for name, part in oracle(X, t, None).parts.items():
        torch.testing.assert_close(here.parts[name], part)


def test_the_diagonal_is_the_velocity():
    """u(t, t) = velocity: the average velocity over a short span, by differences."""
    oracle = gaussian(FLOW, dims=2)
    t = times(0.8, 0.5, 0.3)
    near = GaussianMap(oracle)(X, t, None).to(t - 1e-6).combine(FLOW.rates(t))
    torch.testing.assert_close(near, FLOW.velocity(X, t, oracle(X, t, None)), atol=1e-5, rtol=1e-5)


def test_average_velocity_is_the_velocity_row_on_the_straight_path():
    """MeanFlow: x_s = x - (t - s) out, written out."""
    denoiser = flow_map(FLOW, Velocity())
    t, s = times(0.9, 0.5, 1.0), times(0.1, 0.4, 0.0)
    out = denoiser(X, t, None).to(s).read(FLOW.rates(t), Velocity())
    expected = X - (t - s).unsqueeze(1) * out
    torch.testing.assert_close(jump(FLOW, denoiser, X, t, s), expected, atol=1e-13, rtol=1e-13)


def test_ctm_is_the_edm_row_on_the_edm_path():
    """CTM: G = (s / t) x + (1 - s / t) (c_skip x + c_out F), c's of EDM, and g = x - t ubar in its own time sigma."""
    process, sd = Gaussian(LogLinear.edm()), 0.5
    denoiser = flow_map(process, EDM(sd))
    t, s = times(0.9, 0.5, 0.7), times(0.1, 0.4, 0.0)
    a, b = (process.schedule(time)[1].unsqueeze(1) for time in (t, s))
    out = denoiser(X, t, None).to(s).read(process.row(EDM(sd), t), EDM(sd))
    g = sd**2 / (a**2 + sd**2) * X + a * sd / (a**2 + sd**2).sqrt() * out
    made = jump(process, denoiser, X, t, s)
    torch.testing.assert_close(made, b / a * X + (1 - b / a) * g, atol=1e-12, rtol=1e-12)
    average = (X - made) / (a - b)
    torch.testing.assert_close(g, X - a * average, atol=1e-12, rtol=1e-12)
    # g(x, t, t) is the denoiser.
    oracle = gaussian(process, dims=2)
    near = GaussianMap(oracle)(X, t, None).to(t).parts["data"]
    torch.testing.assert_close(near, oracle(X, t, None).parts["data"], atol=3e-7, rtol=0.0)


def test_a_consistency_function_at_no_noise_equals_the_published_form():
    """On a clock that reaches sigma = 0, c_skip and c_out with t_min = 0 are the jump to the data."""
    sd = 0.5
    denoiser = flow_map(FLOW, EDM(sd))
    t, zero = times(0.9, 0.5, 0.7), times(0.0, 0.0, 0.0)
    kappa = (t / (1 - t)).unsqueeze(1)
    clean = X / (1 - t).unsqueeze(1)
    out = denoiser(X, t, None).to(zero).read(FLOW.row(EDM(sd), t), EDM(sd))
    expected = sd**2 / (kappa**2 + sd**2) * clean + kappa * sd / (kappa**2 + sd**2).sqrt() * out
    torch.testing.assert_close(jump(FLOW, denoiser, X, t, zero), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("form", ["host", "rows"])
def test_eta_is_the_gamma_of_ctm(form):
    """s' = sqrt(1 - gamma^2) (s - t_min) + t_min in sigma, then noise of size sqrt(s^2 - s'^2)."""
    process = Gaussian(LogLinear.edm())
    oracle, gamma = gaussian(process, dims=2), 0.6
    t, s = (instant(v) if form == "host" else times(v, v, v) for v in (0.8, 0.5))
    sigma = float(process.schedule(0.5)[1])
    lower = math.sqrt(1 - gamma**2) * (sigma - 0.002) + 0.002
    below = torch.tensor(process.schedule.time(-2 * math.log(lower)), dtype=DTYPE)
    expected = oracle.flow(X, torch.tensor(0.8, dtype=DTYPE), below)
    expected = expected + math.sqrt(sigma**2 - lower**2) * rng(0, 1, 2).normal((3, 2))
    torch.testing.assert_close(jump(process, GaussianMap(oracle), X, t, s, eta=gamma), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("form", ["host", "rows"])
def test_eta_one_is_multistep_consistency_sampling(form):
    """x0 = f(x, t), then x0 + sqrt(s^2 - t_min^2) z: not s z."""
    process = Gaussian(LogLinear(0.5, 80.0))
    oracle = gaussian(process, dims=2)
    t, s = (instant(v) if form == "host" else times(v, v, v) for v in (0.8, 0.3))
    sigma = float(process.schedule(0.3)[1])
    data = oracle.flow(X, torch.tensor(0.8, dtype=DTYPE), torch.tensor(0.0, dtype=DTYPE))
    expected = data + math.sqrt(sigma**2 - 0.5**2) * rng(0, 1, 2).normal((3, 2))
    torch.testing.assert_close(jump(process, GaussianMap(oracle), X, t, s, eta=1.0), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("schedule", [Flow(), VP(), LogLinear.edm()], ids=["Flow", "VP", "EDM"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_exact_jumps_have_the_moments_of_the_data_at_any_eta(schedule, eta):
    """A linear map and Gaussian noise: mean and covariance after two steps, read off in closed form."""
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)
    start, middle, end = 0.9, 0.4, 0.1
    covariance = oracle.basis @ torch.diag(oracle.variances) @ oracle.basis.T
    eye = torch.eye(2, dtype=DTYPE)
    alpha, sigma = schedule(start)
    root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * eye)
    points = torch.cat([torch.zeros(1, 2, dtype=DTYPE), root.T]) + alpha * oracle.mean

    class Quiet:
        def normal(self, shape):
            return torch.zeros(shape, dtype=DTYPE)

    grid = torch.tensor([start, middle, end], dtype=DTYPE)
    for state in trajectory(Mapped(process), GaussianMap(oracle), Jump(eta), points, grid, rng=Quiet()):
        made = state.x
    alpha, sigma = schedule(end)
    torch.testing.assert_close(made[0], alpha * oracle.mean, atol=1e-9, rtol=1e-9)
    # What the quiet generator left out: the noise of the first step, carried by the second, and that of the second.
    linear = made[1:] - made[0]

    def fresh(s):
        (a_s, s_s), least = schedule(s), schedule(0.0)[1] / schedule(0.0)[0]
        low = math.sqrt(1 - eta**2) * (s_s / a_s - least) + least
        return a_s**2 * ((s_s / a_s) ** 2 - low**2)

    for state in trajectory(
        Mapped(process),
        GaussianMap(oracle),
        Jump(eta),
        torch.cat([torch.zeros(1, 2, dtype=DTYPE), math.sqrt(fresh(middle)) * eye]) + schedule(middle)[0] * oracle.mean,
        grid[1:],
        rng=Quiet(),
    ):
        carried = state.x
    carried = carried[1:] - carried[0]
    total = linear.T @ linear + carried.T @ carried + fresh(end) * eye
    torch.testing.assert_close(total, alpha**2 * covariance + sigma**2 * eye, atol=1e-9, rtol=1e-9)


def test_one_call_a_step_and_the_last_lands_on_the_data():
    oracle, calls = gaussian(FLOW, dims=2), []
    exact = GaussianMap(oracle)

    def counted(x, t, cond):
        calls.append(t)
        return exact(x, t, cond)

    start = FLOW.start((3, 2), rng=rng(0, 1, 2))
    ends = [
        run(Mapped(FLOW), counted, Jump(), (3, 2), Uniform()(Flow(), steps), rng=rng(0, 1, 2)) for steps in (1, 2, 4)
    ]
    assert len(calls) == 7
    exact_end = oracle.flow(start, torch.tensor(1.0, dtype=DTYPE), torch.tensor(0.0, dtype=DTYPE))
    for end in ends:
        torch.testing.assert_close(end, exact_end, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [VP(), LogLinear(0.02, 10.0), Flow()], ids=["VP", "VE", "Flow"])
@pytest.mark.parametrize("stack", ["plain", "CFG", "Interval", "Autoguidance"])
def test_batch_law_with_randomness_and_guidance(eta, schedule, stack):
    process = Gaussian(schedule)
    plain = flow_map(process)
    denoiser = {
        "plain": plain,
        "CFG": CFG(plain, 2.5),
        "Interval": CFG(plain, 2.5, when=Interval(0.3, 0.8)),
        "Autoguidance": Autoguidance(plain, flow_map(process, seed=1), 1.7),
    }[stack]
    cond, grid = labels(0, 1, 0), torch.linspace(0.9, 0.2, 4, dtype=DTYPE)

    def solve(x, grid, source, cond):
        for state in trajectory(Mapped(process), denoiser, Jump(eta), x, grid, cond=cond, rng=source):
            last = state.x
        return last

    whole = solve(X, grid, rng(7, 8, 9), cond)
    rows = solve(X, grid[:, None].expand(4, 3), rng(7, 8, 9), cond)
    torch.testing.assert_close(rows, whole, atol=1e-10, rtol=1e-10)
    for b in range(3):
        alone = solve(X[b : b + 1], grid, rng(7 + b), cond.rows(torch.tensor([b])))
        torch.testing.assert_close(alone[0], whole[b], atol=1e-12, rtol=1e-12)


def test_guidance_is_that_of_the_landings_and_costs_one_doubled_call():
    """Conversions are affine, so guided jumps are guided landings, whatever the network predicts."""
    calls, t, s, cond = [], instant(0.8), instant(0.3), labels(0, 1, 2)
    denoiser = flow_map(FLOW)
    denoiser.inner.net.register_forward_hook(lambda *_: calls.append(1))
    null, given = (jump(FLOW, denoiser, X, t, s, c) for c in (cond.null(), cond))
    calls.clear()
    guided = jump(FLOW, CFG(denoiser, 2.5), X, t, s, cond)
    torch.testing.assert_close(guided, null + 2.5 * (given - null), atol=1e-12, rtol=1e-12)
    assert len(calls) == 1
    assert float((null - given).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "net",
    [
        lambda schema: MLP(4, 16, 1, schema=schema),
        lambda schema: UNet(Grid(1, 2), UNetSize((8, 16), embed_width=16, head_width=8), schema=schema),
        lambda schema: DiT(Grid(1, 2), DiTSize(16, 1, head_width=8), patch=2, schema=schema),
    ],
    ids=["MLP", "UNet", "DiT"],
)
def test_every_network_reads_the_span(net):
    torch.manual_seed(0)
    made = net({"label": ClassLabel(3), **FlowMap.reads()})
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.2)
    denoiser = FlowMap(Preconditioned(made, FLOW, V()))
    x = torch.randn(2, 4) if isinstance(made, MLP) else torch.randn(2, 1, 4, 4)
    est = denoiser(x, torch.tensor([0.9, 0.7]), Condition.of(label=torch.tensor([0, 2])))
    near, far = (est.to(torch.tensor(s)).read(FLOW.row(V(), torch.tensor(0.9)), V()) for s in ([0.8, 0.6], [0.1, 0.6]))
    assert torch.equal(near[1], far[1])
    assert float((near[0] - far[0]).abs().max().detach()) > 1e-4


@pytest.mark.parametrize("solver", [Heun(), Adams(2), Jump()], ids=["Heun", "Adams", "Jump"])
def test_the_diagonal_serves_every_solver(solver):
    oracle = gaussian(FLOW, dims=2)
    grid = torch.linspace(0.9, 0.1, 7, dtype=DTYPE)
    ends = []
    for denoiser in (oracle, Diagonal(GaussianMap(oracle))):
        for state in trajectory(FLOW, denoiser, solver, X, grid, rng=rng(0, 1, 2)):
            end = state.x
        ends.append(end)
    torch.testing.assert_close(ends[0], ends[1], atol=1e-12, rtol=1e-12)


def test_what_cannot_be_is_refused():
    est = flow_map(FLOW)(X, instant(0.5), None)
    process = Mapped(FLOW)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eta"):
            process.reverse(X, instant(0.5), instant(0.2), est, eta=eta, rng=rng(0, 1, 2))
    for s in (instant(0.7), times(0.2, 0.7, 0.1)):
        with pytest.raises(ValueError, match="s <= t"):
            process.reverse(X, times(0.5, 0.5, 0.5), s, est, eta=1.0, rng=rng(0, 1, 2))
    with pytest.raises(TypeError, match="additive"):
        Mapped(Gaussian(Flow(), Student(5.0))).reverse(X, instant(0.5), instant(0.2), est, eta=0.5, rng=rng(0, 1, 2))
    with pytest.raises(ValueError, match="one time a sample"):
        flow_map(FLOW)(X, torch.full((3, 2), 0.5), None)
    for low, high in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="low"):
            FlowMap(Preconditioned(nn.Identity(), FLOW, Data()), low=low, high=high)
