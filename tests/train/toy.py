"""A system that trains in microseconds a step, and its data; shared by the tests here and the processes they start."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from condiff.codecs import Identity
from condiff.core.condition import ClassLabel, Condition
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits
from condiff.nn import MLP, DiT, DiTSize, Grid, UNet, UNetSize
from condiff.objectives import Denoising, Dropping
from condiff.process import Flow, Gaussian, Preconditioned, Times, Uniform, Velocity
from condiff.solvers import Heun
from condiff.train import Recipe, Training, recipe

FAST = Training(
    steps=12, batch_size=8, learning_rate=1e-2, warmup_steps=3, checkpoint_every=4, validate_every=4, log_every=1
)


class Net(nn.Module):
    """A perceptron with everything that makes resuming hard: dropout, tied weights, a buffer, an unused weight."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 4)
        self.middle = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.middle[1].weight = self.middle[0].weight
        self.label, self.dropout = nn.Embedding(4, width), nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        if self.training:
            self.calls += 1
        label = torch.full((len(x),), 3) if cond is None else torch.where(cond.present["y"], cond.values["y"], 3)
        times = t.to(x).reshape(-1, 1).expand(len(x), 1)
        h = self.dropout(torch.tanh(self.first(torch.cat([x, times], 1)) + self.label(label)))
        for layer in self.middle:
            h = torch.tanh(layer(h))
        return self.last(h)


@recipe(training=FAST)
def toy(*, width: int = 8, dropout: float = 0.0, tied: bool = True, sizes: Sequence[int] = (1, 2)) -> System:
    """Toy of four numbers."""
    process = Gaussian(Flow())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Net(width, dropout)
    if not tied:
        net.middle[1].weight = nn.Parameter(net.middle[0].weight.detach().clone())
    return System[Gaussian, Moments](
        process=process,
        denoiser=Preconditioned(net, process, Velocity()),
        objective=Dropping(Denoising(process, Velocity()), {"y": 0.2}),
        solver=Heun(),
        codec=Identity(),
        grid=Times(Uniform(), process.schedule),
        shape=(4,),
        schema={"y": ClassLabel(3, ("a", "b", "c"))},
    )


def _made(net: nn.Module, shape: tuple[int, ...]) -> System:
    process = Gaussian(Flow())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in net.parameters():  # networks begin as zero, which would hide most of their weights
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return System[Gaussian, Moments](
        process=process,
        denoiser=Preconditioned(net, process, Velocity()),
        objective=Dropping(Denoising(process, Velocity()), {"y": 0.2}),
        solver=Heun(),
        codec=Identity(),
        grid=Times(Uniform(), process.schedule),
        shape=shape,
        schema=SCHEMA,
    )


SCHEMA = {"y": ClassLabel(3)}
NETS = {
    "unet": lambda: _made(UNet(Grid(1, 2), UNetSize((8, 16)), schema=SCHEMA), (1, 8, 8)),
    "dit": lambda: _made(DiT(Grid(1, 2), DiTSize(width=16, depth=2, head_width=8), schema=SCHEMA), (1, 8, 8)),
    "mlp": lambda: _made(MLP(6, 16, 2, schema=SCHEMA), (6,)),
}
"""A small system with each of the package's networks."""


def drawn(system: System, rows: int = 32) -> Dataset:
    """Noise as data for a system of any shape."""
    x = torch.randn(rows, *system.shape, generator=torch.Generator().manual_seed(1))
    return Dataset(x, {"y": torch.arange(rows) % 3}, {"y": torch.ones(rows, dtype=torch.bool)}, "noise", "images")


def find(name: str) -> Recipe:
    if name != "toy":
        raise ValueError(f"no recipe named {name!r}")
    return toy


def data(shift: float = 0.0, rows: int = 50) -> Splits:
    generator = torch.Generator().manual_seed(1)

    def part(count: int) -> Dataset:
        y = torch.randint(0, 3, (count,), generator=generator)
        x = torch.randn(count, 4, generator=generator) * 0.3 + y.unsqueeze(1) + shift
        return Dataset(x, {"y": y}, {"y": torch.ones(count, dtype=torch.bool)}, "toys", "vectors")

    return Splits(part(rows), part(12), part(12))


def environment(**more: str) -> dict[str, str]:
    """Environment of a child process that imports this module."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    path = os.pathsep.join([os.path.join(root, "src"), here])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}
