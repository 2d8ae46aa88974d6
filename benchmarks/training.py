"""G6 and G11: what training costs besides the network, and whole steps against a neighbour's network."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from benchmarks.nets import PLAN, filled, in_bf16, rival
from benchmarks.paired import Effort, Row, Stored, ratio, sweep
from torch import Tensor, nn

from condiff.core.rng import SharedRng
from condiff.nn import Grid, UNet
from condiff.objectives import Denoising
from condiff.process import Flow, Gaussian, Velocity
from condiff.process.gaussian import Preconditioned


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G6 and G11."""
    return [*_outside(effort), *_steps(effort)]


def _outside(effort: Effort) -> list[Row]:
    data, out = torch.rand(128, 3, 32, 32) * 2 - 1, torch.randn(128, 3, 32, 32).requires_grad_()
    process = Gaussian(Flow())
    denoiser, objective = Preconditioned(Stored(out), process, Velocity()), Denoising(process, Velocity())
    net, x = UNet(Grid(3), PLAN), data[: effort.pick(16, 4)]

    def ours() -> Tensor:
        return objective(denoiser, data, None, rng=SharedRng(0, "train", 0)).total()

    def floor() -> Tensor:
        noise, t = torch.randn_like(data), torch.rand(128, 1, 1, 1)
        x = torch.lerp(data, noise, t)
        return nn.functional.mse_loss(denoiser.net(x, t, None), noise - data)

    def network() -> None:
        net(x, torch.rand(len(x))).square().mean().backward()

    calls: dict[str, Callable[[], object]] = {"ours": ours, "floor": floor, "network": network}
    missing: dict[str, float | str] = {}
    for name, build in {"diffusers DDPM": _diffusers, "flow_matching": _flow_matching}.items():
        try:
            calls[name] = build(data, denoiser.net)
        except ImportError as error:
            missing[name] = f"skipped: {error}"
    readings = sweep(calls, effort.rounds, effort.pick(60, 10) / 1e3)
    near = missing | {name: ratio(readings, name, "ours") for name in calls if name not in ("ours", "floor", "network")}
    extra = (ratio(readings, "ours", "network") - ratio(readings, "floor", "network")) * len(x) / len(data)
    return [
        Row("G6", "loss besides the network, batch 128 of 3x32x32, over the floor", ratio(readings, "ours", "floor"),
            1.05, neighbours=near, bound=2.6),
        Row("G6", "what that adds to a step of the small U-Net", extra, 0.01, bound=0.03),
    ]  # fmt: skip


def _diffusers(data: Tensor, net: nn.Module) -> Callable[[], Tensor]:
    scheduler = importlib.import_module("diffusers").DDPMScheduler()

    def run() -> Tensor:
        noise = torch.randn_like(data)
        t = torch.randint(0, 1000, (len(data),))
        return nn.functional.mse_loss(net(scheduler.add_noise(data, noise, t), t), noise)

    return run


def _flow_matching(data: Tensor, net: nn.Module) -> Callable[[], Tensor]:
    importlib.import_module("flow_matching.solver")  # its path needs the rest of the package
    path = importlib.import_module("flow_matching.path").CondOTProbPath()

    def run() -> Tensor:
        drawn = path.sample(x_0=torch.randn_like(data), x_1=data, t=torch.rand(len(data)))
        return nn.functional.mse_loss(net(drawn.x_t, drawn.t), drawn.dx_t)

    return run


def _steps(effort: Effort) -> list[Row]:
    batch = effort.pick(8, 4)
    data = torch.rand(batch, 3, 32, 32) * 2 - 1
    process = Gaussian(Flow())
    objective = Denoising(process, Velocity())

    def ours(low: bool) -> Callable[[], None]:
        net = filled(UNet(Grid(3), PLAN)).train().requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x, denoiser = data.to(memory_format=torch.channels_last), Preconditioned(net, process, Velocity())
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = objective(denoiser, x, None, rng=SharedRng(0, "train", 0)).total()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

        return step

    calls: dict[str, Callable[[], object]] = {"fp32": ours(False), "autocast": ours(True)}
    near: dict[str, float | str] = {}
    try:
        theirs = rival().train()
        optimizer = torch.optim.AdamW(theirs.parameters())

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            noise, t = torch.randn_like(data), torch.rand(batch, 1, 1, 1)
            out = theirs(torch.lerp(data, noise, t), t.flatten() * 1000)
            nn.functional.mse_loss(out, noise - data).backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()

        calls["diffusers"] = step
    except ImportError as error:
        near["diffusers"] = f"skipped: {error}"
    readings = sweep(calls, effort.rounds, effort.pick(100, 10) / 1e3)
    rows = []
    if "diffusers" in calls:
        near["diffusers UNet2DModel"] = ratio(readings, "diffusers", "fp32")
        rows.append(Row("G11", f"whole step, batch {batch}, fp32: images a second over diffusers UNet2DModel",
                        ratio(readings, "diffusers", "fp32"), 1.0, above=True))  # fmt: skip
    rows.append(Row("G11", f"whole step, batch {batch}: autocast against fp32",
                    in_bf16(ratio(readings, "fp32", "autocast")), 1.4, above=True, bound=0.9, neighbours=near))  # fmt: skip
    return rows
