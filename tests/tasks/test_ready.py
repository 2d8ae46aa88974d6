"""A prepared system draws the samples of the one it was made from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from laws.cases import gaussian
from torch import nn

import condiff
from condiff.codecs import Identity
from condiff.core import ClassLabel, System
from condiff.nn import Grid, UNet, UNetSize
from condiff.objectives import Denoising
from condiff.process import Flow, Gaussian, Preconditioned, Times, Uniform, Velocity
from condiff.solvers import Adams

PROCESS = Gaussian(Flow())


def system(denoiser=None):
    torch.manual_seed(0)
    schema = {"label": ClassLabel(3)}
    net = UNet(Grid(1), UNetSize((16, 32), embed_width=32), schema=schema)
    for p in net.parameters():
        if p.ndim > 1 and not p.any():
            nn.init.normal_(p, std=0.5 * p[0].numel() ** -0.5)
    return System(
        PROCESS, denoiser or Preconditioned(net, PROCESS, Velocity()), Denoising(PROCESS, Velocity()), Adams(2),
        Identity(), Times(Uniform(), Flow()), (1, 12, 12), schema if denoiser is None else {}, num_steps=4,
        guidance_scale=1.5 if denoiser is None else 1.0,
    )  # fmt: skip


def test_samples_are_the_same_up_to_rounding_and_in_bf16_nearly_so():
    plain = system()
    want = condiff.sample(plain, num_samples=5, seed=3)
    quick = condiff.sample(condiff.prepare(plain), num_samples=5, seed=3)
    rough = condiff.sample(condiff.prepare(plain, dtype=torch.bfloat16), num_samples=5, seed=3)
    torch.testing.assert_close(quick, want, atol=1e-5, rtol=1e-5)
    assert rough.dtype == torch.float32
    assert (rough - want).norm() <= 2e-2 * want.norm()
    assert torch.equal(condiff.sample(plain, num_samples=5, seed=3), want)
    assert plain.denoiser.training
    assert all(p.requires_grad for p in plain.denoiser.parameters())


def test_sample_i_is_sample_i_in_any_batch_and_thread():
    for dtype, bound in ((None, 1e-5), (torch.bfloat16, 2e-2)):
        fast = condiff.prepare(system(), dtype=dtype)
        whole = condiff.sample(fast, num_samples=6)
        parts = condiff.sample(fast, num_samples=6, batch_size=4)
        assert (parts - whole).norm() <= bound * whole.norm()
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(condiff.sample, fast, num_samples=6, seed=seed) for seed in (0, 1, 0)]
            runs = [job.result() for job in jobs]
        assert torch.equal(runs[0], whole)
        assert torch.equal(runs[2], whole)
        assert not torch.equal(runs[1], whole)


def test_a_system_without_weights_is_ready_as_it_is():
    exact = system(gaussian(PROCESS))
    assert condiff.prepare(exact) is exact
