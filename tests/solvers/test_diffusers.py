"""The DDPM table in float64 against diffusers: without single precision on either side 1000 steps agree to 1e-5 too."""

from __future__ import annotations

import warnings

import pytest
import torch

from condiff.core import trajectory
from condiff.process import Gaussian, Noise, Table, Trailing
from condiff.solvers import Jump, Multistep, UniPC

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore")
PROCESS = Gaussian(Table.linear(1000))
START = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def epsilon(x, t):
    return torch.tanh(x * (1.0 + t)) * 0.7 + 0.1


class Replayed:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(7)

    def normal(self, shape):
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)


CASES = {
    "ddim": (Jump(), "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    "ddpm": (Jump(1.0), "DDPMScheduler", {"clip_sample": False}),
    "2M": (Multistep(2), "DPMSolverMultistepScheduler", {"solver_order": 2, "lower_order_final": False}),
    "3M": (Multistep(3), "DPMSolverMultistepScheduler", {"solver_order": 3, "lower_order_final": False}),
    "unipc": (UniPC(), "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
}


@pytest.mark.parametrize(
    ("name", "steps"),
    [*((name, steps) for name in CASES for steps in (10, 25)), ("ddim", 1000), ("ddpm", 1000)],
)
def test_published_schedulers_take_the_same_steps(name, steps):
    solver, theirs, options = CASES[name]
    if theirs.endswith("MultistepScheduler"):
        options = {**options, "final_sigmas_type": "zero"}
    scheduler = getattr(diffusers, theirs)(1000, 1e-4, 0.02, "linear", timestep_spacing="trailing", **options)
    # Their table is made in float32, an error of 1e-7 that 1000 steps carry on: the same table goes to both sides.
    scheduler.alphas_cumprod = torch.tensor(PROCESS.schedule.alphas_cumprod, dtype=torch.float64)
    scheduler.alphas = scheduler.alphas_cumprod / torch.cat([torch.ones(1), scheduler.alphas_cumprod[:-1]])
    scheduler.betas = 1 - scheduler.alphas
    for key in ("alpha_t", "sigma_t", "lambda_t"):
        if hasattr(scheduler, key):
            abar = scheduler.alphas_cumprod
            value = {"alpha_t": abar.sqrt(), "sigma_t": (1 - abar).sqrt(), "lambda_t": (abar / (1 - abar)).log() / 2}
            setattr(scheduler, key, value[key])
    scheduler.set_timesteps(steps)
    nodes = [(int(timestep) + 1) / 1000 for timestep in scheduler.timesteps]
    assert nodes == pytest.approx(Trailing()(PROCESS.schedule, steps)[:-1].tolist())
    x, source = START, Replayed()
    for timestep, node in zip(scheduler.timesteps, nodes, strict=True):
        extra = {"generator": source.generator} if name == "ddpm" else {}
        x = scheduler.step(epsilon(x, node), timestep, x, **extra).prev_sample

    def denoiser(x, t, cond):
        return PROCESS.infer(x, t, epsilon(x, float(t)), Noise())

    grid = torch.tensor([*nodes, 0.0], dtype=torch.float64)
    for state in trajectory(PROCESS, denoiser, solver, START, grid, rng=Replayed()):
        ours = state.x
    torch.testing.assert_close(ours, x.to(torch.float64), atol=1e-5, rtol=1e-5)
