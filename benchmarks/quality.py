"""G16: distance to the exact end point at equal network calls, with the exact posterior mean as the network.

The error is the root mean square distance to the exact flow's end point from the same noise, divided by the data's
standard deviation. States of other libraries are read in flow coordinates: y = x / (alpha + sigma) at time
sigma / (alpha + sigma).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.neighbours import kdiffusion
from benchmarks.paired import Effort, Row
from torch import Tensor

from condiff.core.drivers import trajectory
from condiff.core.estimate import Moments
from condiff.core.rng import RowRng
from condiff.core.shapes import instant
from condiff.core.solver import Solver
from condiff.oracles import MixtureData, endpoints, patches, ring
from condiff.oracles.mixtures import STD
from condiff.process import Flow, FlowClock, FlowTime, Gaussian, LogLinear, Table
from condiff.process.grid import Trailing, Uniform
from condiff.solvers import Adams, Euler, Heun, Jump, Midpoint, Multistep, UniPC

TARGETS: dict[str, Callable[[Gaussian], MixtureData]] = {"2-D": ring, "64-D": patches}


@dataclass
class Bench:
    """One target, its noise, and exact end points for starts at any noise level."""

    target: MixtureData
    noise: Tensor

    def posterior(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return the exact mean of the data given x = alpha * data + sigma * noise."""
        size = alpha + sigma
        at = torch.tensor(sigma / size, dtype=torch.float64)
        return self.target(x / size, at, None).parts["data"]

    def ends(self, alpha: float, sigma: float, steps: int) -> Tensor:
        """Return the end points of the exact flow from sigma * noise at (alpha, sigma)."""
        size = alpha + sigma
        return endpoints(self.target, sigma * self.noise / size, instant(sigma / size), steps)

    def error(self, x: Tensor, ends: Tensor) -> float:
        """Return the error of end points x."""
        return float((x - ends).square().mean().sqrt()) / STD

    def ours(self, process: Gaussian, solver: Solver[Any, Any], grid: Tensor) -> Tensor:
        """Run a solver of this library from sigma(1) * noise along a grid."""

        def denoise(x: Tensor, t: Tensor, cond: object) -> Moments:
            alpha, sigma = process.schedule(float(t))
            return process.complete(x, t, self.posterior(x, alpha, sigma)) if sigma > 0.0 else Moments({"data": x})

        begin = process.schedule(float(grid[0]))[1] * self.noise
        state = None
        for state in trajectory(process, denoise, solver, begin, grid, rng=RowRng(0, range(len(begin)))):
            pass
        end = process.finish(state.x, lambda x, t: denoise(x, t, None))
        return end


def bench(name: str, rows: int) -> Bench:
    """Make a target with the noise of `rows` samples."""
    target = TARGETS[name](Gaussian(Flow()))
    dims = target.components[0].mean.numel()
    return Bench(target, RowRng(1, range(rows), dtype=torch.float64).normal((rows, dims)))


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G16."""
    samples, fine = effort.pick(400, 40), effort.pick(400, 150)
    rows: list[Row] = []
    for name in TARGETS:
        case = bench(name, samples)
        exact = case.ends(0.0, 1.0, fine)
        rows += _default(name, case, exact, effort)
        rows += _same(name, case, fine)
    return rows + _slopes(bench("2-D", effort.pick(100, 30)), effort)


def _default(name: str, case: Bench, exact: Tensor, effort: Effort) -> list[Row]:
    """Our default against the best neighbour's setting on the same noise, each against its own exact end points."""
    process, rows = Gaussian(Flow()), []
    ends: dict[tuple[float, float], Tensor] = {(0.0, 1.0): exact}
    for calls in (10, 20):
        errors = {}
        for scale in (0.5, 1.0, 2.0):
            # The start without history costs Adams one more call.
            grid = FlowTime(scale)(process.schedule, calls - 1)
            errors[scale] = case.error(case.ours(process, Adams(3, FlowClock(scale)), grid), exact)
        theirs: dict[str, float] = {}
        near: dict[str, float | str] = {}
        for rival, run in _settings(case, calls).items():
            try:
                their_process, their_grid, x = run()
            except ImportError as error:
                near[rival] = f"skipped: {error}"
                continue
            levels = their_process.schedule(float(their_grid[0]))
            if levels not in ends:
                ends[levels] = case.ends(*levels, effort.pick(400, 150))
            theirs[rival] = case.error(x, ends[levels])
            near[rival] = theirs[rival] / errors[0.5]
        best = min(theirs, key=lambda rival: theirs[rival], default="none of them installed")
        rows.append(
            Row("G16", f"{name}, {calls} calls: error of Adams(3, FlowClock(0.5)) on FlowTime(0.5) over the best neighbour's",
                errors[0.5] / theirs[best] if theirs else math.nan, 1.0, ours=f"{errors[0.5]:.4f}",
                floor=f"{theirs[best]:.4f}" if theirs else "", neighbours=near, bound=2.0,
                note=f"best is {best}; ours at scale 1: {errors[1.0]:.4f}, at scale 2: {errors[2.0]:.4f}")
        )  # fmt: skip
    return rows


Run = tuple[Gaussian, Tensor, Tensor]
"""A neighbour's process, the times of its grid (first is its start) and its end points."""


def _settings(case: Bench, calls: int) -> dict[str, Callable[[], Run]]:
    """Return the neighbours' best settings at a number of calls; rk4 may stay up to two below it."""
    multistep, unipc = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
    return {
        "flow_matching euler": lambda: _flow(case, "euler", calls),
        "flow_matching midpoint": lambda: _flow(case, "midpoint", calls // 2),
        "flow_matching rk4": lambda: _flow(case, "rk4", calls // 4),
        "diffusers DDIM": lambda: _ddim(case, calls),
        "diffusers DPM++2M karras": lambda: _diffusers(case, multistep, calls, use_karras_sigmas=True),
        "diffusers DPM++2M lu": lambda: _diffusers(case, multistep, calls, use_lu_lambdas=True),
        "diffusers UniPC karras": lambda: _diffusers(case, unipc, calls, use_karras_sigmas=True),
        "k-diffusion dpmpp_2m karras": lambda: _kdiffusion(case, "sample_dpmpp_2m", "get_sigmas_karras", calls),
        "k-diffusion dpmpp_2m exponential": lambda: _kdiffusion(
            case, "sample_dpmpp_2m", "get_sigmas_exponential", calls
        ),
        "k-diffusion lms karras": lambda: _kdiffusion(case, "sample_lms", "get_sigmas_karras", calls),
    }


def _same(name: str, case: Bench, fine: int) -> list[Row]:
    """The same algorithm on the same grid as a neighbour: errors must agree."""
    karras = {"use_karras_sigmas": True}
    runs: list[tuple[str, Solver[Any, Any], Callable[[], Run]]] = [
        ("DDIM, trailing", Jump(), lambda: _ddim(case, 20)),
        ("Euler, Karras grid", Jump(), lambda: _kdiffusion(case, "sample_euler", "get_sigmas_karras", 20)),
        ("DPM++ 2M, Karras grid", Multistep(2), lambda: _kdiffusion(case, "sample_dpmpp_2m", "get_sigmas_karras", 20)),
        ("DPM++ 2M, diffusers' Karras grid", Multistep(2),
         lambda: _diffusers(case, "DPMSolverMultistepScheduler", 20, **karras)),
        ("UniPC, diffusers' Karras grid", UniPC(), lambda: _diffusers(case, "UniPCMultistepScheduler", 20, **karras)),
        ("flow Euler", Euler(), lambda: _flow(case, "euler", 20)),
        ("flow midpoint", Midpoint(), lambda: _flow(case, "midpoint", 10)),
    ]  # fmt: skip
    rows, ends = [], {}
    for label, solver, run in runs:
        line = f"{name}, {label}: difference of error from the neighbour's, 20 calls"
        try:
            process, grid, theirs = run()
        except ImportError as error:
            rows.append(Row("G16", line, math.nan, 0.05, neighbours={label: f"skipped: {error}"}))
            continue
        levels = process.schedule(float(grid[0]))
        if levels not in ends:
            ends[levels] = case.ends(*levels, fine)
        mine = case.ours(process, solver, grid)
        a, b = case.error(mine, ends[levels]), case.error(theirs, ends[levels])
        apart = float((mine - theirs).abs().max())
        rows.append(Row("G16", line, abs(a / b - 1.0), 0.05, ours=f"{a:.4f}", floor=f"{b:.4f}", bound=0.5,
                        note=f"largest difference of a sample {apart:.1e}"))  # fmt: skip
    return rows


def _ddim(case: Bench, steps: int) -> Run:
    scheduler = importlib.import_module("diffusers").DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(steps)
    process = Gaussian(Table.of(scheduler.alphas_cumprod.double()))
    x = process.schedule(1.0)[1] * case.noise
    for t in scheduler.timesteps:
        abar = float(scheduler.alphas_cumprod[t])
        alpha, sigma = math.sqrt(abar), math.sqrt(1.0 - abar)
        noise = (x - alpha * case.posterior(x, alpha, sigma)) / sigma
        x = scheduler.step(noise, t, x, return_dict=False)[0]
    return process, Trailing()(process.schedule, steps), x


def _kdiffusion(case: Bench, name: str, sigmas_name: str, steps: int) -> Run:
    module = kdiffusion()
    sigmas = getattr(module, sigmas_name)(steps, 0.002, 80.0).double()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return case.posterior(x, 1.0, float(sigma[0]))

    with torch.no_grad():
        x = getattr(module, name)(model, 80.0 * case.noise, sigmas, disable=True)
    process = Gaussian(LogLinear.edm())
    grid = torch.tensor([process.schedule.time(-2.0 * math.log(float(s))) for s in sigmas[:-1]], dtype=torch.float64)
    grid[0], grid[-1] = 1.0, 0.0
    return process, grid, x


def _diffusers(case: Bench, name: str, steps: int, **options: bool) -> Run:
    scheduler = getattr(importlib.import_module("diffusers"), name)(**options)
    scheduler.set_timesteps(steps)
    process = Gaussian(Table.of(scheduler.alphas_cumprod.double()))
    kappas = [float(s) for s in scheduler.sigmas[:-1]]
    grid = torch.tensor([process.schedule.time(-2.0 * math.log(k)) for k in kappas] + [0.0], dtype=torch.float64)
    x = process.schedule(float(grid[0]))[1] * case.noise
    for t, k in zip(scheduler.timesteps, kappas, strict=True):
        alpha, sigma = 1.0 / math.sqrt(1.0 + k * k), k / math.sqrt(1.0 + k * k)
        noise = (x - alpha * case.posterior(x, alpha, sigma)) / sigma
        x = scheduler.step(noise, t, x, return_dict=False)[0]
    return process, grid, x


def _flow(case: Bench, method: str, steps: int) -> Run:
    module = importlib.import_module("flow_matching.solver")
    wrapper = importlib.import_module("flow_matching.utils").ModelWrapper
    process = Gaussian(Flow())

    class Velocity(wrapper):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            sigma = max(1.0 - float(t), 1e-7)  # its clock runs from noise to data, and rk4 asks at the data itself
            data = case.posterior(x, 1.0 - sigma, sigma)
            return data - (x - (1.0 - sigma) * data) / sigma

    ode = module.ODESolver(velocity_model=Velocity(torch.nn.Identity()))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = ode.sample(x_init=case.noise, method=method, step_size=1.0 / steps, time_grid=ends)
    return process, Uniform()(process.schedule, steps), x


def _slopes(case: Bench, effort: Effort) -> list[Row]:
    """Order of convergence by the slope between two numbers of steps, on part of the flow where it is smooth."""
    process, rows = Gaussian(Flow()), []
    few, many = effort.pick(50, 25), effort.pick(200, 50)
    begin, end = 0.9, 0.3
    start = case.noise * process.schedule(begin)[1]
    orders: dict[str, tuple[Solver[Any, Any], float]] = {
        "Euler": (Euler(), 1.0),
        "Heun": (Heun(), 2.0),
        "Midpoint": (Midpoint(), 2.0),
        "Adams 2": (Adams(2), 2.0),
        "Multistep 2": (Multistep(2), 2.0),
        "Adams 3": (Adams(3), 3.0),
    }

    def run(solver: Solver[Any, Any], steps: int) -> Tensor:
        grid = torch.linspace(begin, end, steps + 1, dtype=torch.float64)
        *_, last = trajectory(process, case.target, solver, start, grid, rng=RowRng(0, range(len(start))))
        return last.x

    exact = run(Midpoint(), many * 20) if effort.smoke else _richardson(run, many * 10)
    for name, (solver, order) in orders.items():
        errors = [float((run(solver, n) - exact).square().mean().sqrt()) for n in (few, many)]
        slope = math.log(errors[0] / errors[1]) / math.log(many / few)
        rows.append(Row("G16", f"order of {name}, t from {begin} to {end}, {few} to {many} steps: distance from {order:g}",
                        abs(slope - order), 0.2, ours=f"{slope:.2f}", bound=0.6))  # fmt: skip
    return rows


def _richardson(run: Callable[[Solver[Any, Any], int], Tensor], steps: int) -> Tensor:
    """Return the midpoint rule's result with its leading error removed."""
    return (4.0 * run(Midpoint(), 2 * steps) - run(Midpoint(), steps)) / 3.0
