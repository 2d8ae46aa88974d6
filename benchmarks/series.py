"""G17, G18, G19: networks of series: training and guided forecasts beside the official shape, and cost against length.

No package among the neighbours has a two-sided S4 layer for PyTorch, so `Plain` below is the official network's shape
written from the equations: the same numbers of channels, blocks and states, and the Cauchy sum spelled out, as the
official code does where its compiled kernels are not there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from benchmarks.paired import Effort, Row, Variants, ratio, seconds, sweep
from torch import Tensor, nn
from torch.nn import functional as F

from condiff.data.frequency import Frequency
from condiff.data.tracks import Track
from condiff.data.windows import Window
from condiff.nn import S4, S4D, Waves
from condiff.nn.ssm import two_sided
from condiff.recipes import tsdiff
from condiff.recipes.tsdiff import HOURLY, PUBLISHED
from condiff.tasks.forecast import Trained

WIDTH, BLOCKS, STATES, STEPS = 64, 3, 128, 100
RUN = PUBLISHED["electricity_nips"]
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)


class PlainS4(nn.Module):
    """The layer of `S4` with its weights, its kernel as the plain sum over all states at every frequency."""

    def __init__(self, layer: S4) -> None:
        super().__init__()
        self.layer = layer

    def kernels(self, length: int) -> Tensor:
        """Return the kernels of both directions, (2, H, L)."""
        own = self.layer
        dt = own.log_dt.exp()[:, None]
        w = torch.complex(-own.log_decay.exp(), own.frequency)
        b, p, c = (torch.view_as_complex(part) for part in (own.b, own.p, own.c))
        rows = torch.stack([b, p])[:, None, None]
        columns = torch.cat([c, p.conj().expand(1, *c.shape[1:])])[None]
        v = rows * columns  # (2, 3, H, N / 2): inputs B and P, outputs C of both directions and P^*
        v, w = torch.cat([v, v.conj()], -1), torch.cat([w, w.conj()], -1)
        omega = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1) / length)
        if length % 2 == 0:
            omega[-1] = -1 + 1e-6  # z = 2 (1 - omega) / (1 + omega) has a pole there
        z = 2 * (1 - omega) / (1 + omega)
        r = (dt[..., None] * v[..., None] / (z - (dt * w)[..., None])).sum(-2)
        k = r[:1, :2] - r[:1, 2:] * r[1:, :2] / (1 + r[1:, 2:])
        return torch.fft.irfft(k[0] * 2 / (1 + omega), n=length)

    def forward(self, u: Tensor) -> Tensor:
        """Apply the layer to (B, H, L)."""
        length = u.shape[-1]
        ahead, back = self.kernels(length)
        kernel = F.pad(ahead, (0, length)) + F.pad(back.flip(-1), (length, 0))
        out = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel), n=2 * length)
        return out[..., :length] + self.layer.skip[:, None] * u


class Plain(nn.Module):
    """The official network's shape, channels last where it has them last."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.enter, self.head, self.out = (
            nn.Linear(*size) for size in ((channels, WIDTH), (WIDTH,) * 2, (WIDTH, channels))
        )
        self.embed = nn.Sequential(nn.Linear(128, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "push": nn.Linear(WIDTH, WIDTH), "norm": nn.LayerNorm(WIDTH), "ssm": PlainS4(S4(WIDTH, length, STATES)),
                    "mix": nn.Conv1d(WIDTH, WIDTH, 1), "on": nn.Conv1d(WIDTH, WIDTH, 1), "skip": nn.Conv1d(WIDTH, WIDTH, 1),
                }
            )
            for _ in range(BLOCKS)
        )  # fmt: skip

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Apply the network to windows (B, L, C) at steps (B,)."""
        rates = torch.exp(-math.log(1e4) * torch.arange(64) / 63)
        angle = step[:, None] * rates
        time = self.embed(torch.cat([angle.sin(), angle.cos()], 1))
        h = torch.relu(self.enter(x)).mT
        total = torch.zeros_like(h)
        for block in self.blocks:
            u = h + block["push"](time)[..., None]
            u = u + block["mix"](F.gelu(block["ssm"](block["norm"](u.mT).mT)))
            gated = torch.tanh(u) * torch.sigmoid(u)
            h, total = h + block["on"](gated), total + block["skip"](gated)
        return self.out(torch.relu(self.head(total.mT)))


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G17, G18 and G19."""
    return [*_training(effort), *_forecasts(effort), *_lengths(effort)]


def _training(effort: Effort) -> list[Row]:
    batch, channels = effort.pick(64, 2), 1 + len(HOURLY)
    length = RUN["context"] + RUN["horizon"]
    x, noise, t = torch.randn(batch, channels, length), torch.randn(batch, channels, length), torch.rand(batch)
    nets = {
        "S4": Waves(channels, WIDTH, BLOCKS, lambda width: S4(width, length, STATES)),
        "S4D": Waves(channels, WIDTH, BLOCKS, lambda width: S4D(width, STATES)),
    }
    plain = Plain(channels, length)

    def ours(net: nn.Module) -> None:
        (net(x, t) - noise).square().mean().backward()

    variants = {name: lambda net=net: ours(net) for name, net in nets.items()}
    variants["plain"] = lambda: (plain(x.mT, STEPS * t) - noise.mT).square().mean().backward()
    readings = sweep(variants, effort.pick(5, 2))
    rows = []
    for name in nets:
        speed = batch / np.median(readings[name])
        case = f"training windows a second, {length} x {channels}, batch {batch}, {name} of {STATES} states: over the official shape"
        rows.append(
            Row("G17", case, ratio(readings, "plain", name), 1.0, above=True, ours=f"{speed:.1f} windows/s",
                floor=f"{batch / np.median(readings['plain']):.1f} windows/s")
        )  # fmt: skip
    return rows


def _forecasts(effort: Effort) -> list[Row]:
    """Time guided draws of a few steps; a forecast of 100 steps costs 100 / few times as much."""
    few, draws = effort.pick(4, 1), effort.pick(32, 2)
    context, horizon, hour = RUN["context"], RUN["horizon"], Frequency(3600.0)
    window = Window(horizon, context, HOURLY, hour, scaling="mean")
    values = (
        100.0
        + 20.0 * np.sin(np.arange(window.reach + context) * 2 * np.pi / 24)
        + np.random.default_rng(0).normal(size=window.reach + context)
    )
    seconds_ = 3600.0 * np.arange(len(values) + horizon, dtype=np.float64)
    track = Track("series", seconds_, values, np.empty((len(seconds_), 0)))
    schema = {
        "given": {"kind": "Picture", "channels": 2},
        "measured": {"kind": "Picture", "channels": 1},
        "older": {"kind": "Series", "channels": 2, "length": window.reach},
        "calendar": {"kind": "Picture", "channels": 4},
    }
    about = {"meta": {"window": window.to_json()}}
    forecasters = {
        order: Trained(
            tsdiff(window=window.to_json(), conditions=schema, layer="s4", states=STATES, order=order, about=about),
            num_steps=few,
        )
        for order in ("before", "after")
    }
    plain = Plain(1 + len(HOURLY), window.length)
    beta = torch.linspace(1e-4, 0.1, STEPS, dtype=torch.float64)
    kept = torch.cumprod(1 - beta, 0)
    chosen = [STEPS - 1 - k for k in range(few)]
    seen = torch.randn(draws, window.length, 1 + len(HOURLY))
    mask = torch.ones_like(seen)
    mask[:, context:, 0] = 0.0
    level = ((torch.arange(draws) + 1.0) / (draws + 1.0))[:, None, None]

    def official() -> Tensor:
        """The loop of the official code: a step, then the gradient at the state it led to."""
        x = torch.randn_like(seen)
        for number in chosen:
            a, b = float(kept[number]), float(beta[number])
            before = float(kept[number - 1]) if number else 1.0
            step = torch.full((draws,), float(number))
            with torch.no_grad():
                mean = (x - b / math.sqrt(1 - a) * plain(x, step)) / math.sqrt(1 - b)
                variance = b * (1 - before) / (1 - a)
                x = mean + math.sqrt(variance) * torch.randn_like(x)
            leaf = x.requires_grad_(True)
            clean = (leaf - math.sqrt(1 - a) * plain(leaf, step)) / math.sqrt(a)
            error = seen - clean
            energy = (torch.maximum(level * error, (level - 1) * error) * mask).sum()
            x = (leaf - RUN["scale"] * variance * torch.autograd.grad(energy, leaf)[0]).detach()
        return x

    variants = {
        name: lambda made=made: made([track], horizon, num_samples=draws, seed=0) for name, made in forecasters.items()
    }
    readings = sweep({**variants, "plain": official}, effort.pick(5, 2))
    rows = []
    for name in forecasters:
        speed = draws * few / STEPS / np.median(readings[name])
        floor = draws * few / STEPS / np.median(readings["plain"])
        case = f"guided draws of {horizon} hours a second at {STEPS} steps, gradient {name} the step: over the official shape and loop"
        rows.append(
            Row("G18", case, ratio(readings, "plain", name), 1.0, above=True, ours=f"{speed:.2f} draws/s", floor=f"{floor:.2f} draws/s")
        )  # fmt: skip
    return rows


@torch.no_grad()
def _lengths(effort: Effort, width: int = 16, states: int = 64) -> list[Row]:
    """Fit the exponent of cost against length; that of L log L is 1.15 over these lengths."""
    lengths = LENGTHS[: effort.pick(7, 4)]
    found: dict[str, list[float]] = {}
    for length in lengths:
        for name, cost in seconds(_layers(width, length, states), effort.pick(7, 3)).items():
            found.setdefault(name, []).append(cost)
    return [
        Row(
            "G19",
            f"cost against length, {lengths[0]} to {lengths[-1]:,}, {name}: fitted exponent",
            float(np.polyfit(np.log(lengths), np.log(costs), 1)[0]),
            1.2,
            ours=", ".join(f"{1e3 * cost:.2g}" for cost in costs) + " ms",
        )
        for name, costs in found.items()
    ]


def _layers(width: int, length: int, states: int) -> Variants:
    u, kernel = torch.randn(4, width, length), torch.randn(width, length)
    layers = {"S4": S4(width, length, states), "S4D": S4D(width, states)}
    variants = {name: lambda layer=layer: layer(u) for name, layer in layers.items()}
    return {**variants, "convolution alone": lambda: two_sided(u, kernel, kernel)}
