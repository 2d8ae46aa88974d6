"""Round trip, rates, velocity, prefix times, singular ends, random state, types."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.cases import BRIDGES, DTYPE, GRIDS, LATENTS, NOISES, SCHEDULES, TARGETS, TIME_LAWS, gaussian, rng

from condiff.core import RowRng, SharedRng, expand, instant
from condiff.process import (
    EDM,
    VP,
    Data,
    Flow,
    Gaussian,
    Interpolant,
    LogLinear,
    Noise,
    Normal,
    Offset,
    Score,
    Student,
    Table,
    Velocity,
    draw_times,
)  # fmt: skip

INNER = torch.linspace(0.05, 0.95, 3, dtype=DTYPE)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("shape", [(), (3,), (3, 4)], ids=["shared", "row", "frame"])
def test_round_trip(schedule, target, shape):
    process = Gaussian(schedule)
    data = RowRng(1, range(3), dtype=DTYPE).normal((3, 4, 5))
    t = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=DTYPE) * 0.8 + 0.1
    for time in [t, instant(float(t))] if not shape else [t]:
        draw = process.draw(data, time, rng=RowRng(2, range(3), dtype=DTYPE))
        row = process.row(target, time)
        out = sum(
            c * draw.latents[k] if isinstance(c, float) else expand(c, data) * draw.latents[k] for k, c in row.items()
        )
        est = process.infer(draw.x, time, out, target)
        # The worst conditioned pair is Score on VE near the data: 1 / sigma^2 is 4e3 there.
        torch.testing.assert_close(est.parts["data"], data, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(est.parts["noise"], draw.latents["noise"], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("target", "schedule", "t"),
    [(Data(), Flow(), 0.0), (Data(), VP(), 0.0), (Noise(), Flow(), 1.0), (Score(), Flow(), 0.0), (Score(), Flow(), 1.0),
     (Velocity(), VP(), 0.0)],
)  # fmt: skip
@pytest.mark.parametrize("form", ["host", "rows"])
def test_singular_ends_name_target_and_time(target, schedule, t, form):
    process, x = Gaussian(schedule), torch.ones(2, 3, dtype=DTYPE)
    time = instant(t) if form == "host" else torch.tensor([0.5, t], dtype=DTYPE)
    parts = process.infer(x, time, x, target).parts
    for name in ("data", "noise"):
        with pytest.raises(ValueError, match=rf"{type(target).__name__}.*t = {t:g}"):
            parts[name]


@pytest.mark.parametrize("name", ["V", "EDM"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_safe_targets_are_exact_at_both_ends_in_float32(name, schedule, t):
    process = Gaussian(schedule)
    data = RowRng(0, [0]).normal((1, 50))
    draw = process.draw(data, instant(t), rng=RowRng(1, [0]))
    truth = process.row(TARGETS[name], instant(t))
    out = truth["data"] * data + truth["noise"] * draw.latents["noise"]
    est = process.infer(draw.x, instant(t), out, TARGETS[name])
    torch.testing.assert_close(est.parts["data"], data, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rates_equal_autograd(schedule):
    t = torch.linspace(0.03, 0.97, 40, dtype=DTYPE).requires_grad_()
    for value, rate in zip(schedule(t), schedule.rates(t), strict=True):
        exact = torch.autograd.grad((value + 0.0 * t).sum(), t, retain_graph=True)[0]  # alpha of LogLinear is constant
        torch.testing.assert_close(rate.expand_as(t), exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
def test_bridge_rates_equal_autograd_and_ends_are_right(bridge):
    t = torch.linspace(0.03, 0.97, 20, dtype=DTYPE).requires_grad_()
    *ends, gamma = bridge(t)
    for value, rate in zip((*ends, gamma * gamma / 2), (*bridge.rates(t), bridge.gamma.product(t)), strict=True):
        (exact,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(rate, exact, atol=1e-10, rtol=1e-10)
    assert bridge(0.0) == pytest.approx((1.0, 0.0, 0.0), abs=1e-15)
    assert bridge(1.0) == pytest.approx((0.0, 1.0, 0.0), abs=1e-15)


@pytest.mark.parametrize("law", LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_latents_agree_in_host_and_tensor_and_their_product_is_finite(law, t):
    at = torch.tensor([t], dtype=DTYPE)
    for host, device in ((law(t), law(at)), (law.product(t), law.product(at))):
        assert math.isfinite(host)
        assert host == pytest.approx(float(device), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@given(t=st.floats(0.002, 0.999))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_time_inverts_logsnr_and_host_equals_tensor(schedule, t):
    alpha, sigma = schedule(t)
    assert schedule.time(2.0 * (math.log(alpha) - math.log(sigma))) == pytest.approx(t, abs=1e-9)
    at = torch.tensor([t], dtype=DTYPE)
    for host, device in zip((*schedule(t), *schedule.rates(t)), (*schedule(at), *schedule.rates(at)), strict=True):
        assert host == pytest.approx(float(device), rel=1e-12, abs=1e-14)
    back = schedule.time(2.0 * (torch.log(schedule(at)[0]) - torch.log(schedule(at)[1])))
    assert float(back) == pytest.approx(t, abs=1e-9)


def test_table_is_exact_at_its_nodes():
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=DTYPE), 0)
    alpha, sigma = Table.of(abar)(torch.arange(1, 1001, dtype=DTYPE) / 1000)
    torch.testing.assert_close(alpha, abar.sqrt(), atol=1e-13, rtol=1e-11)
    torch.testing.assert_close(sigma, (1 - abar).sqrt(), atol=1e-13, rtol=1e-11)
    zero_terminal = Table((0.9, 0.5, 0.0))
    assert zero_terminal(1.0) == pytest.approx((0.0, 1.0), abs=1e-15)


@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.6), (1.0, 0.5), (0.5, -0.1)])
def test_table_refuses_what_is_no_schedule(values):
    with pytest.raises(ValueError, match="strictly decreasing"):
        Table(values)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_velocity_equals_finite_difference_of_the_exact_flow(schedule):
    process = Gaussian(schedule)
    oracle = gaussian(process)
    x, h = RowRng(0, range(3), dtype=DTYPE).normal((3, 4)), 1e-5
    # Middles of segments of the 1000-entry tables, whose rates jump at their nodes.
    for t in (0.2505, 0.6505):
        time = torch.tensor(t, dtype=DTYPE)
        exact = (oracle.flow(x, time, time + h) - oracle.flow(x, time, time - h)) / (2 * h)
        velocity = process.velocity(x, time, oracle(x, time, None))
        torch.testing.assert_close(velocity, exact, atol=1e-6, rtol=1e-6)


def test_interpolant_velocity_is_the_mean_rate_of_its_latents():
    process = Interpolant(BRIDGES["Straight"])
    data, source, noise = (RowRng(k, range(2), dtype=DTYPE).normal((2, 3)) for k in range(3))
    t, h = torch.tensor(0.3, dtype=DTYPE), 1e-6
    draws = [process.draw(data, t + d, rng=rng(0, 1), source=source, noise=noise) for d in (-h, 0.0, h)]
    est = process.infer(draws[1].x, t, {"data": data, "noise": noise})
    torch.testing.assert_close(est.parts["source"], source)
    exact = (draws[2].x - draws[0].x) / (2 * h)
    torch.testing.assert_close(process.velocity(draws[1].x, t, est), exact, atol=1e-7, rtol=1e-7)


def test_interpolant_jump_keeps_the_exact_bridge_and_eta_one_is_the_brownian_posterior():
    process = Interpolant(BRIDGES["Straight"])
    data, source, noise = (RowRng(k, range(2), dtype=DTYPE).normal((2, 3)) for k in range(3))
    t, s = instant(0.7), instant(0.2)
    x = process.draw(data, t, rng=rng(0, 1), source=source, noise=noise).x
    est = process.infer(x, t, {"data": data, "noise": noise})
    there = process.draw(data, s, rng=rng(0, 1), source=source, noise=noise).x
    torch.testing.assert_close(process.reverse(x, t, s, est, eta=0.0, rng=rng(0, 1)), there)
    # x_s | x_t, data of a Brownian bridge of variance 2 strength^2: mean (s/t) x + (1 - s/t) data, var s (t - s) / t.
    scale = 2 * 0.7**2
    fresh = rng(0, 1).normal((2, 3))
    expected = (0.2 / 0.7) * x + (1 - 0.2 / 0.7) * data + math.sqrt(scale * 0.2 * 0.5 / 0.7) * fresh
    torch.testing.assert_close(process.reverse(x, t, s, est, eta=1.0, rng=rng(0, 1)), expected)


@pytest.mark.parametrize("schedule", [VP(), Flow(), LogLinear.ve()], ids=["VP", "Flow", "VE"])
def test_eta_one_is_the_markov_posterior(schedule):
    """q(x_s | x_t, data): the textbook product of two Gaussians, with a_ts = alpha_t / alpha_s."""
    process, t, s = Gaussian(schedule), 0.8, 0.5
    (a_t, s_t), (a_s, s_s) = schedule(t), schedule(s)
    ratio = a_t / a_s
    step = s_t**2 - ratio**2 * s_s**2
    data = RowRng(0, range(2), dtype=DTYPE).normal((2, 3))
    x = process.draw(data, instant(t), rng=rng(5, 6)).x
    variance = step * s_s**2 / s_t**2
    mean = (ratio * s_s**2 / s_t**2) * x + (a_s * step / s_t**2) * data
    expected = mean + math.sqrt(variance) * rng(0, 1).normal((2, 3))
    est = process.complete(x, instant(t), data)
    torch.testing.assert_close(process.reverse(x, instant(t), instant(s), est, eta=1.0, rng=rng(0, 1)), expected)


def test_edm_loss_is_the_plain_residual_of_its_row():
    process, sd = Gaussian(LogLinear.edm()), 0.5
    target = EDM(sd)
    data, guess = (RowRng(k, range(4), dtype=DTYPE).normal((4, 6)) for k in range(2))
    t = torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=DTYPE)
    draw = process.draw(data, t, rng=rng(*range(4)))
    est = process.complete(draw.x, t, guess)
    row = process.row(target, t)
    from condiff.core import Moments

    residual = (est.combine(row) - Moments(draw.latents).combine(row)).square()
    sigma = process.schedule(t)[1].unsqueeze(1)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    torch.testing.assert_close(residual, weight * (guess - data).square(), rtol=1e-9, atol=1e-12)


def test_student_tends_to_normal_and_has_the_right_radius():
    far = Student(1e12).draw((2, 5), RowRng(0, range(2), dtype=DTYPE))
    torch.testing.assert_close(far, Normal().draw((2, 5), RowRng(0, range(2), dtype=DTYPE)), atol=1e-5, rtol=1e-5)
    # |n|^2 / N follows F(N, df), whose quantile p at N = 2 is ((1 - p)^(-2 / df) - 1) df / 2 exactly.
    df, count = 3.0, 4000
    n = Student(df).draw((count, 2), RowRng(0, range(count), dtype=DTYPE))
    for p in (0.1, 0.5, 0.9, 0.99):
        quantile = ((1 - p) ** (-2 / df) - 1) * df / 2
        share = float((n.square().mean(1) < quantile).double().mean())
        assert abs(share - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_offset_covariance_is_what_it_draws():
    law, x = Offset(0.5), RowRng(3, [0], dtype=DTYPE).normal((1, 2, 3, 2))
    applied = law.covary(x)
    flat = x.reshape(2, 6)
    matrix = torch.eye(6, dtype=DTYPE) + 0.25
    torch.testing.assert_close(applied.reshape(2, 6), flat @ matrix)
    noise = law.draw((3000, 1, 4), RowRng(0, range(3000), dtype=DTYPE)).squeeze(1)
    torch.testing.assert_close(noise.T @ noise / 3000, torch.eye(4, dtype=DTYPE) + 0.25, atol=0.1, rtol=0.0)


def test_student_refuses_what_is_not_true_of_it():
    process = Gaussian(LogLinear.edm(), Student(4.0))
    x = torch.ones(1, 2, dtype=DTYPE)
    est = process.complete(x, instant(0.5), x)
    with pytest.raises(TypeError, match="not additive"):
        process.reverse(x, instant(0.5), instant(0.4), est, eta=1.0, rng=rng(0))
    with pytest.raises(TypeError, match="Tweedie"):
        process.tilt(x, instant(0.5), est, x)
    with pytest.raises(TypeError, match="Normal"):
        process.row(Score(), instant(0.5))


@pytest.mark.parametrize("shape", [(4,), (5,), (3, 5), (3, 4, 5, 1)])
def test_times_that_are_no_prefix_are_refused(shape):
    data = torch.zeros(3, 4, 5)
    with pytest.raises(ValueError, match="prefix"):
        Gaussian(Flow()).draw(data, torch.full(shape, 0.5), rng=RowRng(0, range(3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_state_keeps_its_type(dtype, shape):
    process = Gaussian(VP())
    t = torch.full(shape, 0.5, dtype=DTYPE)
    draw = process.draw(torch.zeros(2, 3, dtype=dtype), t, rng=RowRng(0, range(2)))
    est = process.infer(draw.x, t, draw.x, TARGETS["V"])
    moved = process.reverse(draw.x, t, t * 0.5, est, eta=0.0, rng=RowRng(0, range(2)))
    assert draw.x.dtype == est.parts["data"].dtype == moved.dtype == process.velocity(draw.x, t, est).dtype == dtype


def test_no_global_random_state_is_touched():
    before = torch.get_rng_state()
    source = RowRng(0, range(3))
    for law in NOISES.values():
        Gaussian(Flow(), law).draw(torch.zeros(3, 2, 4), torch.tensor(0.5), rng=source)
    for law in TIME_LAWS.values():
        draw_times(law, (3,), schedule=Flow(), rng=source)
    source.categorical(torch.zeros(3, 4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    "schedule", [Flow(), LogLinear.edm(), VP(), Table.linear()], ids=["Flow", "EDM", "VP", "Table"]
)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_grids_start_at_noise_fall_and_end_at_data(grid, schedule, steps):
    if type(grid).__name__ == "Times":
        times, ends = grid(steps), True
    else:
        times = grid(schedule, steps)
        ends = schedule(0.0)[1] == 0.0 or type(grid).__name__ == "Trailing"
    assert float(times[0]) == 1.0
    assert len(times) == steps + int(ends)
    assert bool((times.diff() < 0).all())
    if len(times) > 1:
        assert float(times[-1]) == 0.0


def test_karras_is_linear_in_the_root_and_a_tail_is_a_grid():
    schedule, rho = LogLinear.edm(), 7.0
    times = GRIDS["Karras"](schedule, 18)
    root = schedule(times)[1] ** (1 / rho)
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(17), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("steps", [0, -1, True, 2.0])
def test_impossible_step_counts_are_errors(steps):
    for grid in (GRIDS["Uniform"], GRIDS["Karras"], GRIDS["FlowTime"], GRIDS["Trailing"], GRIDS["LogSNR"]):
        with pytest.raises(ValueError, match="num_steps"):
            grid(Flow(), steps)
    with pytest.raises(ValueError, match="1000"):
        GRIDS["Trailing"](Flow(), 1001)


@pytest.mark.parametrize("law", TIME_LAWS.values(), ids=TIME_LAWS)
def test_time_laws_stay_in_range_and_increase(law):
    u = torch.linspace(0, 1 - 1e-9, 50, dtype=DTYPE)
    t = law.quantile(u, VP())
    assert bool(((t >= 0) & (t <= 1)).all())
    assert bool((t.diff() >= 0).all())


def test_importance_weights_undo_the_law():
    law = TIME_LAWS["Importance"]
    u = (torch.arange(6000, dtype=DTYPE) + 0.5) / 6000
    t = law.quantile(u, Flow())
    assert float((law.weight(t) * t.square()).mean()) == pytest.approx(1 / 3, abs=1e-3)
    assert float(t.square().mean()) != pytest.approx(1 / 3, abs=1e-2)


def test_stratified_fills_every_stratum_once():
    t = draw_times(TIME_LAWS["Stratified"], (8,), schedule=Flow(), rng=RowRng(4, range(8)))
    assert sorted((t * 8).long().tolist()) == list(range(8))


def test_strata_are_those_of_the_global_batch():
    law, shape = TIME_LAWS["Stratified"], (12, 3)
    whole = draw_times(law, shape, schedule=Flow(), rng=SharedRng(7, "train", 2))
    for column in whole.T:
        assert sorted((column * 12).long().tolist()) == list(range(12))
    assert not torch.equal(whole[:, 0], whole[:, 1])  # frames of a row have offsets of their own
    for size in (3, 4):  # two workers with two parts each; three workers
        parts = [SharedRng(7, "train", 2, part=(first, 12)) for first in range(0, 12, size)]
        drawn = [draw_times(law, (size, 3), schedule=Flow(), rng=rng) for rng in parts]
        assert torch.equal(torch.cat(drawn), whole)


def test_lognormal_sigma_has_its_median():
    law, schedule = TIME_LAWS["LogNormalSigma"], LogLinear.edm()
    t = law.quantile(torch.tensor([0.5], dtype=DTYPE), schedule)
    assert math.log(float(schedule(t)[1])) == pytest.approx(-1.2, abs=1e-9)
