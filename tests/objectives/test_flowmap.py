"""The losses of flow maps: no residual on the exact map, much on a wrong one; traps of the derivative; fixed points."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws.cases import DTYPE, FLOW, denoiser, flow_map, gaussian, labels, rng

from condiff.core import Condition, Draw, Moments, SharedRng, State, instant
from condiff.nn import MLP
from condiff.objectives import (
    CTM,
    Consistency,
    Curriculum,
    Dropping,
    Eulerian,
    Lagrangian,
    MeanFlow,
    Semigroup,
)  # fmt: skip
from condiff.objectives.consistency import hop
from condiff.objectives.meanflow import average_of, spans, total_derivative
from condiff.oracles import GaussianData, GaussianMap
from condiff.process import (
    EDM,
    VP,
    Flow,
    FlowMap,
    Gaussian,
    Jumps,
    Karras,
    LogitNormal,
    LogLinear,
    LogNormalSigma,
    Mapped,
    Preconditioned,
    Trig,
    Uniform,
    UniformTime,
    Velocity,
)  # fmt: skip
from condiff.solvers import Euler

COUNT = 16
DATA = rng(*range(COUNT)).normal((COUNT, 2))
PATHS = {"Flow": Flow(), "VP": VP(), "Trig": Trig(), "EDM": LogLinear(0.05, 20.0)}


def source(seed=1):
    return rng(*range(COUNT), seed=seed)


def moving(oracle, factor=1.1):
    """The exact map of other data: a wrong one."""
    wrong = GaussianData(oracle.process, oracle.mean + 0.3, oracle.basis, oracle.variances * factor)
    return GaussianMap(wrong)


@pytest.mark.parametrize("form", [Lagrangian, Eulerian])
@pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)
def test_lagrangian_and_eulerian_residuals_vanish_on_the_exact_map_only(form, schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)
    objective = form(Mapped(process), oracle, UniformTime(0.05, 0.95))
    exact = objective(GaussianMap(oracle), DATA, None, rng=source()).rows
    assert float(exact.max()) < 1e-18  # squares: residuals below 1e-9, in float64 with a secant in the oracle
    assert float(objective(moving(oracle), DATA, None, rng=source()).rows.mean()) > 1e-3


@pytest.mark.parametrize("schedule", PATHS.values(), ids=PATHS)
def test_semigroup_residual_vanishes_on_the_exact_map_only(schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)
    objective = Semigroup(Mapped(process), oracle, UniformTime(0.05, 0.95))
    assert float(objective(GaussianMap(oracle), DATA, None, rng=source()).rows.max()) < 1e-20
    still = Jumps(lambda s: Moments({"data": torch.zeros_like(DATA), "noise": torch.zeros_like(DATA)}))
    alone = replace(objective, local=0.0)
    assert float(objective(moving(oracle), DATA, None, rng=source()).rows.mean()) > 1e-3
    # A wrong map obeys the semigroup too: only the second term tells.
    assert float(alone(moving(oracle), DATA, None, rng=source()).rows.max()) < 1e-20
    assert float(alone(lambda x, t, c: still, DATA, None, rng=source()).rows.max()) < 1e-20


def test_meanflow_residual_vanishes_on_the_exact_map_only():
    oracle = gaussian(FLOW, dims=2)
    objective = MeanFlow(Mapped(FLOW), UniformTime(0.05, 0.95), teacher=oracle)
    assert float(objective(GaussianMap(oracle), DATA, None, rng=source()).rows.max()) < 1e-18
    assert float(objective(moving(oracle), DATA, None, rng=source()).rows.mean()) > 1e-3


TANGENTS = {
    "right": lambda v, one: (v, one, 0 * one),
    "arrival moves too": lambda v, one: (v, one, one),
    "state stands still": lambda v, one: (0 * v, one, 0 * one),
    "time stands still": lambda v, one: (v, 0 * one, 0 * one),
    "velocity reversed": lambda v, one: (-v, one, 0 * one),
}


@pytest.mark.parametrize("name", TANGENTS)
def test_the_derivative_goes_along_v_1_0_and_nothing_else(name):
    """The trap of the JVP: any other tangent leaves a residual of the size of the velocity itself."""
    oracle = gaussian(FLOW, dims=2)
    t = torch.linspace(0.4, 0.95, COUNT, dtype=DTYPE)
    s = t * torch.linspace(0.1, 0.8, COUNT, dtype=DTYPE).flip(0)
    x = FLOW.draw(oracle.sample(COUNT, rng=source(3)), t, rng=source(2)).x
    average = average_of(GaussianMap(oracle), FLOW, None)
    v = FLOW.velocity(x, t, oracle(x, t, None))
    slope = total_derivative(average, x, t, s, TANGENTS[name](v, torch.ones_like(t)))
    residual = float((average(x, t, s) - (v - (t - s).unsqueeze(1) * slope)).square().mean().sqrt())
    assert residual < 1e-9 if name == "right" else residual > 0.1, residual


def test_training_goes_along_the_right_tangent():
    """The objective itself, with the exact map: a wrong tangent inside it would show as an error of its own."""
    oracle = gaussian(FLOW, dims=2)
    seen = []

    def spy(x, t, cond):
        seen.append((x, t))
        return GaussianMap(oracle)(x, t, cond)

    objective = MeanFlow(Mapped(FLOW), UniformTime(0.1, 0.9), equal=0.5, teacher=oracle)
    rows = objective(spy, DATA, None, rng=source()).rows
    assert float(rows.max()) < 1e-18
    # One call for all rows, one differentiated call for those that really jump.
    assert next(len(x) for x, _ in seen) == COUNT
    assert 0 < len(seen[1][0]) < COUNT


def test_the_value_is_the_error_and_the_gradient_is_weighed():
    oracle = gaussian(FLOW, dims=2)
    size = torch.tensor(1.3, dtype=DTYPE, requires_grad=True)

    def scaled(x, t, cond):
        inner = GaussianMap(oracle)(x, t, cond)
        return Jumps(lambda s: Moments({k: size * v for k, v in inner.to(s).parts.items()}))

    def rows(power):
        objective = MeanFlow(Mapped(FLOW), UniformTime(0.1, 0.9), power=power, floor=0.01, equal=1.0)
        return objective(scaled, DATA, None, rng=source()).rows

    plain, weighed = rows(0.0), rows(0.75)
    torch.testing.assert_close(plain, weighed)
    for row, other in zip(plain[:3], weighed[:3], strict=True):
        (a,), (b,) = (torch.autograd.grad(value, size, retain_graph=True) for value in (row, other))
        torch.testing.assert_close(b, a / (row.detach() + 0.01) ** 0.75)


def test_pairs_of_times_are_sorted_and_some_are_equal():
    count = 4000
    data = torch.zeros(count, 2, dtype=DTYPE)
    law = LogitNormal(-0.4, 1.0)
    draw, s = spans(Mapped(FLOW), data, law, None, 0.25, rng=rng(*range(count)), draw=None)
    assert bool((s <= draw.t).all())
    assert float((s == draw.t).double().mean()) == pytest.approx(0.25, abs=4 * (0.1875 / count) ** 0.5)
    # The larger of two draws: P(max < q) = P(one < q)^2 at the median q of the law.
    below = float((draw.t < torch.sigmoid(torch.tensor(-0.4))).double().mean())
    assert below == pytest.approx(0.25, abs=4 * (0.1875 / count) ** 0.5)
    draw, s = spans(Mapped(FLOW), data, law, UniformTime(), 0.0, rng=rng(*range(count)), draw=None)
    below = float((draw.t < torch.sigmoid(torch.tensor(-0.4))).double().mean())
    assert below == pytest.approx(0.5, abs=4 * (0.25 / count) ** 0.5)
    assert bool((s <= draw.t).all())
    given = Draw(data, instant(0.5), {"data": data, "noise": data})
    again, s = spans(Mapped(FLOW), data, law, None, 0.0, rng=rng(*range(count)), draw=given)
    assert again.x is given.x
    assert float(again.t.min()) == float(again.t.max()) == 0.5
    assert float(s.max()) <= 0.5


def test_guidance_inside_meanflow_has_its_fixed_point_at_w_over_one_minus_k():
    """w = 1.2, k = 0.4: the trained velocity is null + 2 (conditional - null), and w = 1.2 alone gives 1.2.

    Data of class c are one point, so its velocity is known; the map's own answer is null + g (conditional - null). Under
    the guided target the mean error of a g is zero exactly at g = w / (1 - k).
    """
    cond = labels(*[0] * COUNT)
    draw = FLOW.draw(DATA, torch.linspace(0.1, 0.9, COUNT, dtype=DTYPE), rng=source())
    v = draw.latents["noise"] - draw.latents["data"]
    null = 0.3 * v.flip(0)

    def answers(g):
        def call(x, t, given):
            told = given.present["label"].unsqueeze(1)
            out = torch.where(told, null + g * (v - null), null)
            return Jumps(lambda s: FLOW.infer(x, t, out, Velocity()))

        return call

    def error(g, w, k, **wanted):
        objective = MeanFlow(Mapped(FLOW), scale=w, blend=k, equal=1.0, power=0.0, **wanted)
        return float(objective(answers(g), DATA, cond, rng=source(), draw=draw).rows.max())

    assert error(2.0, 1.2, 0.4) < 1e-20
    assert error(1.9, 1.2, 0.4) > 1e-4
    assert error(1.2, 1.2, 0.0) < 1e-20
    assert error(1.0, 1.0, 0.0) < 1e-20
    # Outside the interval nothing is guided.
    assert error(1.0, 1.2, 0.4, guided=(0.95, 1.0)) < 1e-20


def test_rows_whose_condition_was_dropped_keep_the_plain_velocity():
    cond = Condition({"label": torch.zeros(COUNT, dtype=torch.int64)}, {"label": torch.arange(COUNT) % 2 == 0})
    draw = FLOW.draw(DATA, torch.full((COUNT,), 0.5, dtype=DTYPE), rng=source())
    v = draw.latents["noise"] - draw.latents["data"]

    def call(x, t, given):
        return Jumps(lambda s: FLOW.infer(x, t, torch.zeros_like(x), Velocity()))

    rows = MeanFlow(Mapped(FLOW), scale=3.0, equal=1.0, power=0.0)(call, DATA, cond, rng=source(), draw=draw).rows
    square = v.square().sum(1)
    torch.testing.assert_close(rows, torch.where(cond.present["label"], 9.0 * square, square))


def test_consistency_training_is_an_euler_step_with_the_true_data():
    """x0 + t2 z with the same z: in sigma, x + (t2 - t) (x - x0) / t."""
    process = Gaussian(LogLinear.edm())
    t, s = torch.linspace(0.3, 0.9, COUNT, dtype=DTYPE), torch.linspace(0.2, 0.8, COUNT, dtype=DTYPE)
    draw = process.draw(DATA, t, rng=source())
    a, b = (process.schedule(time)[1].unsqueeze(1) for time in (t, s))
    made = hop(process, None, Euler(), draw, [s], None, source())
    torch.testing.assert_close(made, draw.x + (b - a) * (draw.x - DATA) / a, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(made, DATA + b * draw.latents["noise"], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("schedule", [Flow(), LogLinear(0.002, 80.0)], ids=["Flow", "EDM"])
def test_consistency_from_a_teacher_vanishes_on_the_exact_map(schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process, dims=2)

    class Exact:
        def init(self, x, t):
            return State(x)

        def step(self, process, denoise, state, t, s, rng):
            return State(oracle.flow(state.x, t, s))

    objective = Consistency(Mapped(process), teacher=oracle, solver=Exact())
    assert float(objective(GaussianMap(oracle), DATA, None, rng=source()).rows.max()) < 1e-15
    coarse, fine = (
        float(
            Consistency(Mapped(process), levels, teacher=oracle)(
                GaussianMap(oracle), DATA, None, rng=source()
            ).rows.mean()
        )
        for levels in (10, 40)
    )
    assert fine < 0.05 * coarse  # Heun's error: third power a step, squared
    # Other data at the answering end: the same network cannot agree with both.
    wrong = Consistency(Mapped(process), teacher=oracle, solver=Exact(), target=moving(oracle))
    assert float(wrong(GaussianMap(oracle), DATA, None, rng=source()).rows.mean()) > 1e-3


def test_ctm_vanishes_on_the_exact_map_and_reaches_as_far_as_it_may():
    oracle = gaussian(FLOW, dims=2)
    taken = []

    class Exact:
        def init(self, x, t):
            taken.clear()
            return State(x)

        def step(self, process, denoise, state, t, s, rng):
            taken.append((t, s))
            return State(oracle.flow(state.x, t, s))

    for target in (None, GaussianMap(oracle)):
        objective = CTM(Mapped(FLOW), reach=3, teacher=oracle, solver=Exact(), target=target, denoising=0.0)
        assert float(objective(GaussianMap(oracle), DATA, None, rng=source()).rows.max()) < 1e-18
        assert float(objective(moving(oracle), DATA, None, rng=source()).rows.mean()) > 1e-4
    assert len(taken) == 3
    # Every row moves at least once, none more than three levels, and those that are through stay.
    moved = torch.stack([s < t for t, s in taken])
    assert bool(moved[0].all())
    assert bool((moved.int().diff(dim=0) <= 0).all())
    assert {1, 3} <= set(moved.sum(0).tolist())


def test_ctm_trains_its_diagonal_by_denoising():
    oracle = gaussian(FLOW, dims=2)
    plain = CTM(Mapped(FLOW), teacher=oracle, denoising=0.0)
    both = replace(plain, denoising=2.0, local=EDM(0.7))
    draw = FLOW.draw(DATA, torch.linspace(0.2, 0.9, COUNT, dtype=DTYPE), rng=source())
    a, b = (o(GaussianMap(oracle), DATA, None, rng=source(), draw=draw).rows for o in (plain, both))
    row = FLOW.row(EDM(0.7), draw.t)
    error = oracle(draw.x, draw.t, None).combine(row) - Moments(draw.latents).combine(row)
    torch.testing.assert_close(b - a, 2.0 * error.square().mean(1), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("huber", [0.0, 0.03])
def test_a_distance_is_a_mean_square_or_pseudo_huber(huber):
    far = Jumps(lambda s: Moments({"data": torch.full((COUNT, 2), 3.0, dtype=DTYPE), "noise": torch.zeros_like(DATA)}))
    near = Jumps(lambda s: Moments({"data": torch.zeros_like(DATA), "noise": torch.zeros_like(DATA)}))
    objective = Consistency(Mapped(FLOW), levels=4, grid=Uniform(), target=lambda x, t, c: near, huber=huber)
    draw = FLOW.draw(DATA, torch.full((COUNT,), 0.75, dtype=DTYPE), rng=source())
    rows = objective(lambda x, t, c: far, DATA, None, rng=source(), draw=draw).rows
    expected = 9.0 if huber == 0.0 else math.sqrt(18.0 + huber**2) - huber
    torch.testing.assert_close(rows, torch.full((COUNT,), expected, dtype=DTYPE))


def test_pairs_are_neighbours_on_the_grid():
    seen = []

    def spy(x, t, cond):
        seen.append(t)
        return GaussianMap(gaussian(FLOW, dims=2))(x, t, cond)

    for law in (None, LogNormalSigma()):
        seen.clear()
        Consistency(Mapped(FLOW), levels=5, grid=Karras(), times=law)(spy, DATA, None, rng=source())
        levels = Karras()(Flow(), 5)
        s, t = seen  # the held answer first
        at = torch.stack([(levels == value).nonzero().squeeze() for value in t])
        assert torch.equal(levels[at + 1], s)
        assert len(set(at.tolist())) > 1


@pytest.mark.parametrize("steps", [100, 8000])
def test_the_curriculum_starts_at_s0_ends_at_s1_plus_one_and_never_falls(steps):
    plan = Curriculum(steps, first=2, last=200, start=0.95)
    levels = [plan.levels(k) for k in range(steps + 1)]
    rates = [plan.rate(k) for k in range(steps + 1)]
    assert (levels[0], levels[-1]) == (2, 201)
    assert levels == sorted(levels)
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(0.95**2)
    assert rates[-1] == pytest.approx(0.95 ** (2 / 200))


OBJECTIVES = {
    "MeanFlow": MeanFlow(Mapped(FLOW)),
    "guided MeanFlow": Dropping(MeanFlow(Mapped(FLOW), scale=1.2, blend=0.4), {"label": 0.3}),
    "distilled MeanFlow": MeanFlow(Mapped(FLOW), teacher=denoiser(FLOW)),
    "Consistency": Consistency(Mapped(FLOW)),
    "distilled Consistency": Consistency(Mapped(FLOW), teacher=denoiser(FLOW), target=flow_map(FLOW), huber=0.01),
    "CTM": CTM(Mapped(FLOW), reach=2, target=flow_map(FLOW)),
    "own CTM": CTM(Mapped(FLOW), reach=2),
    "Lagrangian": Lagrangian(Mapped(FLOW), denoiser(FLOW)),
    "Eulerian": Eulerian(Mapped(FLOW), denoiser(FLOW)),
    "Semigroup": Semigroup(Mapped(FLOW)),
    "distilled Semigroup": Semigroup(Mapped(FLOW), denoiser(FLOW)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_reaches_every_weight_and_draws_no_global_numbers(name):
    """In float32, as training does; nothing that is held fixed may cut the network itself off."""
    made = flow_map(FLOW)
    before = torch.get_rng_state()
    cond = labels(*[0, 1, 2, 1] * (COUNT // 4))
    rows = OBJECTIVES[name](made, DATA, cond, rng=source()).rows
    assert rows.shape == (COUNT,)
    rows.mean().backward()
    silent = [k for k, p in made.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # The nulls of what is always present learn nothing.
    assert set(silent) <= {"inner.net.conditions.vectors.on_span.null"}, silent
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        torch.testing.assert_close(OBJECTIVES[name](made, DATA, cond, rng=source()).rows, rows.detach())


@pytest.mark.parametrize(
    ("steps", "bound"), [(60, 0.9), pytest.param(3000, 0.1, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_perceptron_learns_the_exact_one_step_map(steps, bound):
    """2-D Gaussian N((.7, -.3), diag(.25, 2)), MLP 2 x 96, 3,000 steps: the jump from noise to data within 10 % (8.7 % seen)."""
    torch.manual_seed(0)
    mean, std = torch.tensor([0.7, -0.3]), torch.tensor([0.5, 2.0**0.5])
    net = MLP(2, 96, 2, schema=FlowMap.reads(), min_frequency=0.05, max_frequency=5.0)
    made = FlowMap(Preconditioned(net, FLOW, Velocity()))
    objective = MeanFlow(Mapped(FLOW), UniformTime(), power=0.0)
    optimizer = torch.optim.Adam(made.parameters(), 2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        source = SharedRng(0, step)
        data = mean + std * source.normal((256, 2))
        optimizer.zero_grad()
        objective(made, data, None, rng=source).total().backward()
        optimizer.step()
        schedule.step()
    x = SharedRng(1).normal((4000, 2))
    with torch.no_grad():
        end = Mapped(FLOW).reverse(
            x, instant(1.0), instant(0.0), made(x, instant(1.0), None), eta=0.0, rng=SharedRng(2)
        )
    error = ((end - (mean + std * x)) / std).square().mean().sqrt()
    assert float(error) < bound


def test_arguments_are_checked():
    flow, edm = Mapped(FLOW), Mapped(Gaussian(LogLinear.edm()))
    for make in (
        lambda: MeanFlow(edm),
        lambda: MeanFlow(flow, equal=1.1),
        lambda: MeanFlow(flow, blend=1.0),
        lambda: MeanFlow(flow, floor=0.0),
        lambda: Consistency(flow, levels=1),
        lambda: Consistency(flow, huber=-1.0),
        lambda: CTM(flow, reach=0),
        lambda: Curriculum(10, first=1),
        lambda: Curriculum(10, first=5, last=4),
    ):
        with pytest.raises(ValueError, match="needs"):
            make()
