"""Fixed small and fixed large variance: which data each is right for."""

from __future__ import annotations

import pytest
import torch

from condiff.core import SharedRng, instant, sample
from condiff.core.estimate import Moments
from condiff.process import VP, FixedLarge, FixedSmall, Gaussian, Table, Uniform
from condiff.solvers import Jump

SCHEDULES = {"vp": VP(), "table": Table.square_root(50)}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_large_is_the_variance_of_the_noising_step_and_leaves_the_mean(schedule):
    """sqrt(beta_t), beta = 1 - (alpha_t / alpha_s)^2; none at the last step."""
    small, large = Gaussian(schedule), Gaussian(schedule, fresh=FixedLarge())
    t, s = instant(0.62), instant(0.58)
    rows = [process.jump(t, s, eta=1.0) for process in (small, large)]
    assert [rows[0][name] for name in ("x", "data", "noise")] == [rows[1][name] for name in ("x", "data", "noise")]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(0.62), schedule(0.58)
    beta = 1.0 - (alpha_t / alpha_s) ** 2
    assert rows[1]["fresh"] ** 2 == pytest.approx(beta, rel=1e-9)
    assert rows[0]["fresh"] ** 2 == pytest.approx(beta * sigma_s**2 / sigma_t**2, rel=1e-9)
    assert large.jump(instant(0.02), instant(0.0), eta=1.0)["fresh"] == 0.0
    ends = torch.tensor([0.62, 0.02]), torch.tensor([0.58, 0.0])
    assert large.jump(*ends, eta=1.0)["fresh"].tolist() == pytest.approx([rows[1]["fresh"], 0.0], abs=1e-6)


@pytest.mark.parametrize("fresh", [FixedSmall(), FixedLarge()])
def test_each_is_right_where_it_says_so(fresh):
    """Unit noise as data keeps unit variance by the large one, a single point as data its levels by the small one."""
    process = Gaussian(VP(), fresh=fresh)
    grid = Uniform()(process.schedule, 8)
    unit = isinstance(fresh, FixedLarge)
    (_, half) = process.schedule(float(grid[4]))

    def denoise(x, t, cond):
        alpha, sigma = process.coefficients(t)
        data = alpha * x if unit else torch.zeros_like(x)
        return Moments({"data": data, "noise": sigma * x if unit else x / sigma})

    # Down to the middle of the grid only: at the end the estimate decides, and neither adds anything.
    x = process.start((40_000, 1), rng=SharedRng(0, "start"))
    state, solver = Jump(1.0).init(x, instant(1.0)), Jump(1.0)
    for t, s in zip(grid[:4].tolist(), grid[1:5].tolist(), strict=True):
        state = solver.step(process, lambda x, t: denoise(x, t, None), state, instant(t), instant(s), SharedRng(1, t))
    assert float(state.x.std()) == pytest.approx(1.0 if unit else half, rel=0.015)


def test_planned_steps_add_it_too():
    process = Gaussian(VP(), fresh=FixedLarge())

    def denoise(x, t, cond):
        return process.complete(x, t, 0.3 * x)

    class Unplanned:
        init, step = Jump(1.0).init, Jump(1.0).step

    grid = Uniform()(process.schedule, 6)
    one, other = (
        sample(process, denoise, solver, (3, 4), grid, rng=SharedRng(0, "planned"))
        for solver in (Jump(1.0), Unplanned())
    )
    torch.testing.assert_close(one, other)
