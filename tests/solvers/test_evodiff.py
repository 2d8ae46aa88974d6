"""EVODiff against its equations written out as a loop, and every exact property it has."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, gaussian

from condiff.core import RowRng, instant, sample, trajectory
from condiff.core.drivers import instants
from condiff.oracles import GaussianData, MixtureData
from condiff.process import VP, Cosine, Flow, Gaussian, Karras, LogLinear, LogSNR, ProcessTime, Table, Uniform
from condiff.solvers import Direct, EVODiff, Jump, Multistep, PerChannel, PerSample, Predicted, Released
from condiff.solvers import evodiff as module

EDM = Gaussian(LogLinear.edm())
SHAPE = (2, 4, 4)


def mixture(process, shape=SHAPE):
    """Three anisotropic Gaussians over (C, H, W)."""
    dims = math.prod(shape)
    draw = RowRng(3, range(3), dtype=DTYPE).normal((3, dims))
    spreads = (0.05 + 0.3 * RowRng(4, range(3), dtype=DTYPE).uniform((3, dims))) ** 2
    parts = tuple(GaussianData(process, 0.5 * m.reshape(shape), torch.eye(dims, dtype=DTYPE), v) for m, v in zip(draw, spreads, strict=True))  # fmt: skip
    return MixtureData(process, torch.tensor([0.2, 0.5, 0.3], dtype=DTYPE), parts)


class Spied:
    """A denoiser that keeps the times and states it was asked at."""

    def __init__(self, inner):
        self.inner, self.asked, self.states = inner, [], []

    def __call__(self, x, t, cond):
        self.asked.append(float(t))
        self.states.append(x)
        return self.inner(x, t, cond)


def published(model, x, sigmas, ending="official", finish=True):
    """The released sampler's equations on alpha = 1, straight from the list: one network call a node.

    Inner products over (height, width) give (B, C, 1, 1); `ending` "second" stops at the prediction.
    """
    n = len(sigmas) - 1

    def dot(a, b):
        return torch.einsum("bchw,bchw->bc", a, b)[..., None, None]

    def proj(a, b):
        return torch.clamp(dot(a, b) / dot(b, b), -2.0, 2.0)

    def sg(v):
        return 1.0 / (1.0 + torch.exp(-torch.as_tensor(v)))

    def ddim(i, x, m):
        q = sigmas[i + 1] / sigmas[i]
        return q * x + (1.0 - q) * m

    lam = [-math.log(v) for v in sigmas]
    ms = [model(x, sigmas[0])]
    x = ddim(0, x, ms[0])
    if n > 1:
        ms.append(model(x, sigmas[1]))
    for i in range(1, n):
        q, h, c = sigmas[i + 1] / sigmas[i], 1.0 / sigmas[i + 1] - 1.0 / sigmas[i], 1.0 - sigmas[i + 1] / sigmas[i]
        e, m, old = ddim(i, x, ms[i]), ms[i], ms[i - 1]
        if i == n - 1 and ending == "ddim":
            x = e
            break
        if i == n - 1 and ending == "official":
            rd = 1.0 - math.sqrt(q) / 2.0 if q < 0.5 else 1.0 - math.sqrt(q - 0.5) / 2.0
            x = (1.0 - math.sqrt(sigmas[n] * sigmas[n - 1])) * e + c / 2.0 * (m - rd * old)
            break
        r = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
        tn = (sigmas[i + 1] + sigmas[n]) / (sigmas[0] + sigmas[n])
        w, beta = (1.0 - tn**2) / 2.0, math.sqrt(sigmas[i + 1] * sigmas[i - 1]) / sigmas[i]
        b1 = (1.0 - w) * beta + w * proj(m, old)
        d1 = m - b1 * old
        rp = torch.clamp(sg(b1.abs() / 4.0) * r, r / 4.0, 3.0 * r / 2.0)
        probe = e + c / (2.0 * rp) * d1
        if i == n - 1:
            x = probe
            break
        new = model(probe, sigmas[i + 1])
        b2 = (1.0 - w) * beta + w * proj(new, m)
        d2 = new - b2 * m
        bp, bn = d1 / (r * h), r * d2 / h
        eta = sg((proj(bn + bp, bn - bp) / 2.0).abs()) / 2.0
        b = (1.0 - eta) * r * d2 - eta / r * d1
        rest = probe - e - c / (2.0 * rp) * b
        d = (proj(rest, d1) / c).abs() - 0.5
        zeta = sg(d) if n <= 20 else sg(-d * sg(proj(m, (m - old) / h) * (2.0 - q**2)))
        assert bool((b1.abs() <= 2.0).all())
        assert bool(((eta >= 0.25) & (eta <= 0.366)).all())
        assert n > 20 or bool(((zeta > 0.377) & (zeta < 1.0)).all())
        x = e + c / (2.0 * zeta) * b
        ms.append(new)
    return model(x, sigmas[n]) if finish else x


def ours(model, x, grid, solver, process=EDM, finish=True):
    for state in trajectory(process, model, solver, x, grid, rng=RowRng(0, range(len(x)))):
        last = state.x
    return process.finish(last, lambda x, t: model(x, t, None)) if finish else last


def start(rows, shape=SHAPE, scale=80.0):
    return scale * RowRng(1, range(rows), dtype=DTYPE).normal((rows, *shape))


def levels(grid, process=EDM):
    return [process.schedule(t)[1] for t in grid.tolist()]


ENDINGS = {"official": Released(), "ddim": Direct(), "second": Predicted()}


@pytest.mark.parametrize("finish", [True, False], ids=["denoised to zero", "not"])
@pytest.mark.parametrize("n", [4, 9, 19, 21, 30])
@pytest.mark.parametrize("ending", ENDINGS)
def test_parity_with_the_published_equations(ending, n, finish):
    target = mixture(EDM)
    grid = LogSNR()(EDM.schedule, n + 1)
    theirs = published(lambda x, s: target(x, instant(EDM.schedule.time(-2.0 * math.log(s))), None).parts["data"],
                       start(3), levels(grid), ending, finish)  # fmt: skip
    for steps in (None, n):  # the number of steps is read off a uniform grid as told
        mine = ours(target, start(3), grid, EVODiff(ENDINGS[ending], num_steps=steps), finish=finish)
        torch.testing.assert_close(mine, theirs, atol=1e-8, rtol=1e-8)


FROZEN = {
    4: (6.632818577, 1.548462906, 0.1427741996),
    9: (8.907109481, 1.367595075, 0.2822396027),
    19: (8.076419842, 1.083546793, 0.2150939739),
    21: (8.088571744, 1.083921708, 0.2150741445),
    30: (8.148655732, 1.091964954, 0.2123313881),
}
"""Sum, largest value and one value of the end points, by the loop above."""


@pytest.mark.parametrize("n", FROZEN)
def test_parity_with_a_frozen_table(n):
    """Eight digits of the released rule on the mixture, so that an edit of both loop and solver is seen too."""
    grid = LogSNR()(EDM.schedule, n + 1)
    x = ours(mixture(EDM), start(3), grid, EVODiff(Released()))
    assert [float(x.sum()), float(x.abs().max()), float(x[1, 0, 2, 3])] == pytest.approx(FROZEN[n], rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("n", [4, 9, 30])
def test_parity_on_a_grid_that_is_not_uniform(n):
    """Karras' grid has r != 1 and beta != 1, which a uniform one cannot tell from forgotten factors."""
    target, grid = mixture(EDM), Karras()(EDM.schedule, n + 1)
    theirs = published(lambda x, s: target(x, instant(EDM.schedule.time(-2.0 * math.log(s))), None).parts["data"],
                       start(3), levels(grid))  # fmt: skip
    mine = ours(target, start(3), grid, EVODiff(Released(), num_steps=n))
    torch.testing.assert_close(mine, theirs, atol=1e-8, rtol=1e-8)


def test_reduction_to_2m(monkeypatch):
    """With b = 1, r' = r and no corrector EVODiff is DPM-Solver++(2M): bit for bit in this order of operations."""
    monkeypatch.setattr(EVODiff, "_correct", lambda self, process, state, *rest: state.x)
    monkeypatch.setattr(EVODiff, "_balance", lambda self, step, share, x: torch.ones_like(share))
    monkeypatch.setattr(module.torch, "sigmoid", lambda v: torch.ones_like(v))
    target = mixture(EDM)
    for grid in (LogSNR()(EDM.schedule, 10), Uniform(0.9, 0.1)(EDM.schedule, 9)):
        mine = ours(target, start(3), grid, EVODiff(Predicted()), finish=False)
        x, sigmas, lam, old = start(3), levels(grid), [-math.log(v) for v in levels(grid)], None
        for i, t in enumerate(instants(grid)[:-1]):
            m, q = target(x, t, None).parts["data"], sigmas[i + 1] / sigmas[i]
            x = (q * x).add(m, alpha=1.0 - q)
            if old is not None:
                r = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
                x = x.addcmul(torch.tensor((1.0 / (2.0 * r)) * (1.0 - q), dtype=DTYPE), m - old)
            old = m
        assert torch.equal(mine, x)
        theirs = ours(target, start(3), grid, Multistep(2), finish=False)
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-13)


def test_two_steps_are_two_ddim_steps():
    grid = LogSNR()(EDM.schedule, 3)
    for solver in (EVODiff(), EVODiff(num_steps=2)):
        assert torch.equal(ours(mixture(EDM), start(2), grid, solver), ours(mixture(EDM), start(2), grid, Jump()))
    one = LogSNR()(EDM.schedule, 2)
    for ending in ENDINGS.values():  # one step has no history: DDIM whatever the ending
        assert torch.equal(
            ours(mixture(EDM), start(2), one, EVODiff(ending)), ours(mixture(EDM), start(2), one, Jump())
        )


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("n", [1, 2, 5, 21])
def test_one_call_a_node(n, ending):
    """n calls, n + 1 when denoised to zero; never at both the probe and the corrected point."""
    grid = LogSNR()(EDM.schedule, n + 1)
    spy = Spied(mixture(EDM))
    ours(spy, start(2), grid, EVODiff(ending))
    assert spy.asked == pytest.approx(grid.tolist())
    spy = Spied(mixture(EDM))
    ours(spy, start(2), grid, EVODiff(ending), finish=False)
    assert spy.asked == pytest.approx(grid.tolist()[:-1])
    flow = Gaussian(Flow())
    spy = Spied(mixture(flow))
    sample(flow, spy, EVODiff(ending), (2, *SHAPE), Uniform()(flow.schedule, n), rng=RowRng(0, range(2), dtype=DTYPE))
    assert len(spy.asked) == n


@pytest.mark.parametrize("n", [6, 15, 20, 25, 40])
def test_coefficients_stay_in_their_ranges(n, monkeypatch):
    """Balances in the mix of beta and [-2, 2], sg(|b| / 4) in [.5, .6225], eta in [.25, .366], zeta in (.377, 1)."""
    seen = {"balance": [], "eta": [], "zeta": []}
    balance, lerp = EVODiff._balance, torch.lerp

    def spied(self, step, share, x):
        seen["balance"].append(balance(self, step, share, x))
        return seen["balance"][-1]

    def halves(a, b, weight):
        seen["eta"].append(weight)
        return lerp(a, b, weight)

    sigmoid = torch.sigmoid

    def gains(v):
        out = sigmoid(v)
        seen["zeta"].append(out)
        return out

    monkeypatch.setattr(EVODiff, "_balance", spied)
    monkeypatch.setattr(module.torch, "lerp", halves)
    monkeypatch.setattr(module.torch, "sigmoid", gains)
    ours(mixture(EDM), start(16), LogSNR()(EDM.schedule, n + 1), EVODiff())
    balances, etas, every = (torch.cat([v.flatten() for v in seen[k]]) for k in seen)
    assert 0.0 < float(balances.abs().max()) <= 2.0
    assert 0.25 <= float(etas.min()) <= float(etas.max()) <= 0.366
    # Every logistic value of a short run is a probe factor, twice an eta, or a zeta: all at least sg(-1/2).
    assert n > 20 or 0.377 < float(every.min()) <= float(every.max()) < 1.0
    assert n <= 20 or 0.0 < float(every.min()) <= float(every.max()) < 1.0


def rms(solver, n, process, target, x, exact):
    grid = torch.linspace(0.95, 0.05, n + 1, dtype=DTYPE)
    return float((ours(target, x, grid, solver, process, finish=False) - exact).square().mean().sqrt())


def test_it_is_of_first_order_with_half_of_ddims_error():
    """Do not advertise a second-order solver: the corrected slope has weight (1 - 2 eta) / (2 zeta) instead of 1/2."""
    process = Gaussian(VP())
    target = gaussian(process, 8)
    x = float(process.schedule(0.95)[1]) * RowRng(1, range(16), dtype=DTYPE).normal((16, 8))
    exact = target.flow(x, torch.tensor(0.95), torch.tensor(0.05))
    errors = {n: rms(EVODiff(Predicted()), n, process, target, x, exact) for n in (128, 256, 512)}
    ddim = {n: rms(Jump(), n, process, target, x, exact) for n in errors}
    second = {n: rms(Multistep(2), n, process, target, x, exact) for n in errors}
    for n in (128, 256):
        assert math.log2(errors[n] / errors[2 * n]) == pytest.approx(1.0, abs=0.15)
        assert math.log2(second[n] / second[2 * n]) == pytest.approx(2.0, abs=0.15)
    for n in errors:
        assert 0.3 < errors[n] / ddim[n] < 0.7


GAINS = {4: 1.054, 5: 1.070, 7: 1.087, 9: 1.092, 14: 1.088, 19: 1.026, 24: 1.031, 49: 1.025}


@pytest.mark.parametrize("n", GAINS)
def test_the_released_ending_brightens_a_constant_estimate(n):
    """With an (almost) constant model output m the released rule returns g m, and DDIM returns m."""
    m = torch.linspace(-1.0, 1.0, 32, dtype=DTYPE).reshape(1, *SHAPE)
    grid, x = LogSNR()(EDM.schedule, n + 1), start(1) * 0.0 + m

    def constant(x, t, cond):
        return EDM.complete(x, t, m)

    low, high = levels(grid)[-1:-3:-1]
    q = low / high
    d = 1.0 - math.sqrt(q if q < 0.5 else q - 0.5) / 2.0
    gain = 1.0 - math.sqrt(low * high) + (1.0 - q) * (1.0 - d) / 2.0
    assert Released().gain(high, low) == pytest.approx(gain, rel=1e-12)
    assert gain == pytest.approx(GAINS[n], abs=1e-3)
    torch.testing.assert_close(ours(constant, x, grid, EVODiff(Released()), finish=False), gain * m)
    torch.testing.assert_close(ours(constant, x, grid, EVODiff(), finish=False), m)


def test_other_orders_are_not_offered():
    """The released script takes order=3 and then leaves x unchanged on most steps; here there is no such argument."""
    with pytest.raises(TypeError, match="order"):
        EVODiff(order=3)
    with pytest.raises(ValueError, match="at least 1"):
        EVODiff(num_steps=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_constant_and_black_channels_are_finite(dtype):
    """A channel that two estimates share, or that is zero, makes 0 / 0: its slope is nothing, and no other is touched."""
    target = mixture(EDM)
    m = torch.zeros(1, 4, 4, 4, dtype=dtype)
    m[:, 1] = 0.3

    def half(x, t, cond):
        est = target(x[:, 2:], t, None).parts["data"]
        return EDM.complete(x, t, torch.cat([m[:, :2].expand(len(x), 2, 4, 4), est], 1))

    grid = LogSNR()(EDM.schedule, 31)
    x = ours(half, start(2, (4, 4, 4)).to(dtype), grid, EVODiff(Predicted()))
    assert bool(torch.isfinite(x).all())
    assert torch.equal(x[:, :2], m[:, :2].expand(2, 2, 4, 4))
    alone = ours(target, start(2, (4, 4, 4))[:, 2:].to(dtype), grid, EVODiff(Predicted()))
    torch.testing.assert_close(x[:, 2:], alone)


def test_a_coefficient_belongs_to_its_pool():
    """A change in one channel changes no other's coefficients by channel, and does by sample."""
    process = Gaussian(Flow())
    a, b = start(2, (3, 4, 4), 1.0), start(3, (3, 4, 4), 1.0)[1:]
    c = a.clone()
    c[:, 0] *= 3.0

    def share(pool, new, old, t):
        """Return P(new, old) as a step from t keeps it, whose two estimates are these."""
        solver, told = EVODiff(pool=pool), iter((old, new))
        state = solver.init(new, t)
        for s in (0.9 * t, 0.8 * t):
            state = solver.step(process, lambda x, t: process.complete(x, t, next(told)), state, t, s, None)
            t = s
        return state.memory["share"]

    for pool, kept in ((PerChannel(), True), (PerSample(), False)):
        one, two = (share(pool, v, b, instant(0.5)) for v in (a, c))
        assert one.shape == ((2, 3, 1, 1) if kept else (2, 1, 1, 1))
        assert torch.equal(one[:, -1], two[:, -1]) is kept
    expected = ((a * b).sum((2, 3)) / (b * b).sum((2, 3))).clamp(-2.0, 2.0)
    torch.testing.assert_close(share(PerChannel(), a, b, instant(0.5))[..., 0, 0], expected)
    assert share(PerChannel(), a[:, 0, 0], b[:, 0, 0], instant(0.5)).shape == (2, 1)
    frames = torch.full((2, 3), 0.5, dtype=DTYPE)  # frames at their own times share nothing
    assert share(PerChannel(), a, b, frames).shape == (2, 3, 4, 1)
    assert share(PerSample(), a, b, frames).shape == (2, 3, 1, 1)
    assert share(PerChannel(), a[..., 0, 0], b[..., 0, 0], frames).shape == (2, 3)


@pytest.mark.parametrize("schedule", [Flow(), Cosine(), Table.linear()], ids=["Flow", "Cosine", "Table"])
def test_a_run_from_infinite_noise_starts_at_its_first_finite_node(schedule):
    """From alpha = 0 the first step is DDIM's, and the rest is the run from the next node: nothing of it is infinite."""
    process = Gaussian(schedule)
    target, x = mixture(process), start(2, scale=1.0)
    grid = torch.linspace(1.0, 0.1, 10, dtype=DTYPE)
    states = [state.x for state in trajectory(process, target, EVODiff(), x, grid, rng=RowRng(0, range(2)))]
    assert all(bool(torch.isfinite(state).all()) for state in states)
    torch.testing.assert_close(states[1], ours(target, x, grid[:2], Jump(), process, finish=False))
    later = [state.x for state in trajectory(process, target, EVODiff(), states[1], grid[1:], rng=RowRng(0, range(2)))]
    if schedule(1.0)[0] == 0.0:
        torch.testing.assert_close(torch.stack(states[1:]), torch.stack(later))
    else:
        assert not torch.allclose(states[-1], later[-1])


def test_the_end_of_the_clock_is_a_ddim_step_where_no_noise_is_left():
    """At sigma = 0 every ending but the released one returns the data estimate of the corrected state."""
    process = Gaussian(Flow())
    target, x = mixture(process), start(2, scale=1.0)
    grid = Uniform()(process.schedule, 6)
    spy = Spied(target)
    *_, before, last = trajectory(process, spy, EVODiff(), x, grid, rng=RowRng(0, range(2)))
    est = target(spy.states[-1], instants(grid)[-2], None).parts["data"]
    torch.testing.assert_close(last.x, est, atol=1e-12, rtol=0.0)
    assert torch.equal(spy.states[-1], before.x)
    assert torch.equal(ours(target, x, grid, EVODiff(Predicted()), process), last.x)
    released = ours(target, x, grid, EVODiff(Released()), process)
    torch.testing.assert_close(
        released, 1.5 * est - 0.5 * target(spy.states[-2], instants(grid)[-3], None).parts["data"]
    )


def test_the_clock_of_the_weight_matters():
    process = Gaussian(VP())
    target, x = mixture(process), start(2, scale=1.0)
    grid = torch.linspace(1.0, 0.05, 8, dtype=DTYPE)
    by_ratio, by_time = (ours(target, x, grid, EVODiff(clock=c), process) for c in (EVODiff().clock, ProcessTime()))
    assert not torch.allclose(by_ratio, by_time)


def test_single_precision_is_enough():
    """Slopes are differences of nearly equal estimates: 50 steps in float32 stay at rounding of float64."""
    target, grid = mixture(EDM), LogSNR()(EDM.schedule, 51)
    wide = ours(target, start(4), grid, EVODiff())
    narrow = ours(target, start(4).float(), grid, EVODiff())
    torch.testing.assert_close(narrow.double(), wide, atol=1e-4, rtol=1e-4)
