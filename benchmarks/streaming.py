"""G13: a steady stream against frames alone, beside what the network itself gains by batching; and residual guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from benchmarks.paired import Effort, Row, ratio, sweep
from torch import Tensor, nn

from condiff.core import ClassLabel, Condition, RowRng, trajectory
from condiff.guidance import CFG, ResidualCFG, by_input
from condiff.nn import DiT, DiTSize, Grid, UNet, UNetSize
from condiff.process import Gaussian, Preconditioned, Table, V
from condiff.serve import StreamBatch, descent
from condiff.serve.stream import unchanged
from condiff.solvers import Renoise

STEPS = 4
SCHEMA = {"label": ClassLabel(10)}
PROCESS = Gaussian(Table.scaled_linear())


@dataclass(frozen=True)
class Steady:
    """A stream that has filled up, and the parts it is compared with."""

    stream: Callable[[], object]
    alone: Callable[[], object]
    calls: Callable[[], object]
    batch: Callable[[], object]


def steady(net: nn.Module, side: int, denoiser: object = None, remember: object = unchanged) -> Steady:
    """Fill a stream of pictures (1, 1, side, side) through a network."""
    plain = Preconditioned(net.eval(), PROCESS, V(), 0.5)
    guided = plain if denoiser is None else denoiser(plain)  # type: ignore[operator]
    batch = StreamBatch(PROCESS, guided, Renoise(), descent(0.64, STEPS), remember=remember)  # type: ignore[arg-type]
    data, cond, flight = torch.randn(1, 1, side, side), Condition.of(label=torch.tensor([3])), None
    for k in range(STEPS):
        flight, _ = batch.push(flight, k, data, cond)
    grid, t = torch.tensor(batch.times, dtype=torch.float64), torch.linspace(0.1, 0.6, STEPS, dtype=torch.float64)
    many, four = data.expand(STEPS, -1, -1, -1), cond.rows(torch.zeros(STEPS, dtype=torch.int64))

    def alone() -> Tensor:
        rng = RowRng(0, [0])
        x = PROCESS.draw(data, grid[:1], rng=rng).x
        *_, last = trajectory(PROCESS, guided, Renoise(), x, grid, cond=cond, rng=rng)
        return last.x

    # What the network gains is measured on the network alone: turning its output into means is part of the loop.
    singles = list(t.split(1))

    def calls() -> list[Tensor]:
        with torch.no_grad():
            return [net(data, one, cond) for one in singles]

    def together() -> Tensor:
        with torch.no_grad():
            made: Tensor = net(many, t, four)
        return made

    return Steady(lambda: batch.push(flight, 0, data, cond), alone, calls, together)


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G13."""
    rows = []
    cases = {
        "DiT 2 x 64, 16 tokens": (DiT(Grid(1, 2), DiTSize(64, 2, 32), patch=2, schema=SCHEMA), 8),
        "U-Net 16 x (1, 2), 16x16": (UNet(Grid(1, 2), UNetSize((16, 32)), schema=SCHEMA), 16),
        "U-Net 32 x (1, 2, 4), 32x32": (UNet(Grid(1, 2), UNetSize((32, 64, 128)), schema=SCHEMA), 32),
    }
    for name, (net, side) in list(cases.items())[: effort.pick(3, 2)]:
        made = steady(net, side)
        readings = sweep(
            {"stream": made.stream, "alone": made.alone, "calls": made.calls, "batch": made.batch}, effort.rounds
        )
        gain, own = ratio(readings, "alone", "stream"), ratio(readings, "calls", "batch")
        rows.append(Row("G13", f"{name}: gain of the stream over what the network gains", gain / own, 0.95, above=True,
                        ours=f"{gain:.2f}x", floor=f"{own:.2f}x", bound=0.6))  # fmt: skip
        if side < 32:
            rows.append(Row("G13", f"{name}: frames/s of the stream over alone", gain, 1.9, above=True, bound=1.2))
    net, side = UNet(Grid(1, 2), UNetSize((64, 128)), schema=SCHEMA), effort.pick(32, 16)
    full = steady(net, side, lambda plain: CFG(plain, 1.4))
    own = steady(net, side, lambda plain: ResidualCFG(plain, PROCESS, 1.4, 0.5), by_input)
    readings = sweep({"full": full.stream, "self": own.stream}, effort.pick(9, 3))
    rows.append(Row("G13", f"U-Net 64 x (1, 2), {side}x{side}: cost of full guidance over self-negative",
                    ratio(readings, "full", "self"), 1.9, above=True, bound=1.3))  # fmt: skip
    return rows
