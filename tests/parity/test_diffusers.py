"""The same algorithm on the same grid and noise gives the same numbers as diffusers."""

from __future__ import annotations

import warnings

import pytest
import torch

from condiff.core import RowRng, trajectory
from condiff.process import Gaussian, Noise, Table
from condiff.solvers import Jump, Multistep, UniPC

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore")
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32), 0)
PROCESS = Gaussian(Table.of(ABAR.double()))
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def epsilon(x, t):
    """An analytic stand-in for a network: it reads state and time, and is the same function for both libraries."""
    return torch.tanh(x * (1.0 + t)) * 0.7 + 0.1


def theirs(scheduler, num_steps, generator=None):
    scheduler.set_timesteps(num_steps)
    x, times = NOISE.clone(), []
    for timestep in scheduler.timesteps:
        times.append((int(timestep) + 1) / 1000)
        extra = {"generator": generator} if generator is not None else {}
        x = scheduler.step(epsilon(x, times[-1]), timestep, x, **extra).prev_sample
    return x, times


def ours(solver, times, rng=None):
    def denoiser(x, t, cond):
        return PROCESS.infer(x, t, epsilon(x, float(t)), Noise())

    grid = torch.tensor([*times, 0.0], dtype=torch.float64)
    for state in trajectory(PROCESS, denoiser, solver, NOISE, grid, rng=rng or RowRng(0, range(2))):
        x = state.x
    return x


OPTIONS = {"trained_betas": (1 - ABAR / torch.cat([torch.ones(1), ABAR[:-1]])).numpy(), "prediction_type": "epsilon"}


@pytest.mark.parametrize("num_steps", [5, 20])
def test_ddim(num_steps):
    scheduler = diffusers.DDIMScheduler(
        **OPTIONS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    x, times = theirs(scheduler, num_steps)
    torch.testing.assert_close(ours(Jump(), times), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [10, 1000])
def test_ddpm(num_steps):
    """Same noise: diffusers draws it from a generator, and ours is handed the numbers that generator would give."""
    scheduler = diffusers.DDPMScheduler(**OPTIONS, clip_sample=False, timestep_spacing="trailing")
    x, times = theirs(scheduler, num_steps, torch.Generator().manual_seed(7))

    class Replayed:
        def __init__(self):
            self.generator = torch.Generator().manual_seed(7)

        def normal(self, shape):
            return torch.randn(tuple(shape), generator=self.generator)

    # The last step draws nothing there; here its share of fresh noise is zero because sigma(0) = 0.
    torch.testing.assert_close(ours(Jump(1.0), times, Replayed()), x, atol=1e-4 if num_steps > 100 else 1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [5, 12, 20])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_pp(order, num_steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **OPTIONS, solver_order=order, algorithm_type="dpmsolver++", solver_type="midpoint", lower_order_final=False,
        euler_at_final=True, final_sigmas_type="zero", timestep_spacing="trailing",
    )  # fmt: skip
    x, times = theirs(scheduler, num_steps)
    torch.testing.assert_close(ours(Multistep(order), times), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [5, 12, 20])
def test_unipc(num_steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        **OPTIONS, solver_order=2, solver_type="bh2", final_sigmas_type="zero", timestep_spacing="trailing",
        lower_order_final=True,
    )  # fmt: skip
    x, times = theirs(scheduler, num_steps)
    torch.testing.assert_close(ours(UniPC(), times), x, atol=1e-5, rtol=1e-5)
