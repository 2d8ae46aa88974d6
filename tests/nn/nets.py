"""Small networks with every weight random, and conditions of every kind, for the tests of this folder."""

from __future__ import annotations

import torch
from torch import nn

from condiff.core import Condition
from condiff.core.condition import ClassLabel, Embeddings, Picture, Series, TokenIds, Vector
from condiff.nn import MLP, DiT, DiTSize, Frames, Grid, Tokens, UNet, UNetSize

UNET = UNetSize((8, 16), attention=(1,), embed_width=16, head_width=8)
DIT = DiTSize(16, 2, head_width=8, mlp_ratio=2)
FLAT = {"label": ClassLabel(3), "size": Vector(2)}
SCHEMA = {
    **FLAT,
    "picture": Picture(2),
    "set": Embeddings(4, 5),
    "text": TokenIds(6, 11),
    "past": Series(2, 9),
}


def scrambled(net, seed=0):
    """Give every parameter a random value: a fresh network returns zero and would pass most tests."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.normal_(0, fan**-0.5, generator=generator)
    return net.eval()


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def conditions(batch, grid, seed=2):
    """Conditions of every kind in SCHEMA; grid is that of a state (B, C, *grid)."""
    generator = torch.Generator().manual_seed(seed)
    return Condition.of(
        label=torch.randint(3, (batch,), generator=generator),
        size=normal(batch, 2, seed=seed),
        picture=normal(batch, 2, *grid, seed=seed + 1),
        set=normal(batch, 3, 5, seed=seed + 2),
        text=torch.randint(11, (batch, 4), generator=generator),
        past=normal(batch, 2, 7, seed=seed + 3),
    )


def make(kind, schema=None):
    """Return a scrambled network and a state of three rows it takes."""
    nets: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "mlp": (MLP(5, 16, 2, schema=schema and FLAT), normal(3, 5)),
        "unet": (UNet(Grid(2, 2), UNET, schema=schema), normal(3, 2, 7, 6)),
        "unet frames": (UNet(Frames(2), UNET, schema=schema and FLAT), normal(3, 4, 2, 5, 6)),
        "dit": (DiT(Grid(2, 2), DIT, patch=2, schema=schema), normal(3, 2, 7, 6)),
        "dit tokens": (DiT(Tokens(2), DIT, schema=schema and FLAT), normal(3, 6, 2)),
        "dit frames": (DiT(Frames(2), DIT, patch=3, schema=schema and FLAT), normal(3, 4, 2, 5, 6)),
        "dit causal": (DiT(Tokens(2), DIT, block=2, schema=schema and FLAT), normal(3, 6, 2)),
    }
    net, x = nets[kind]
    return scrambled(net), x


KINDS = ["mlp", "unet", "unet frames", "dit", "dit tokens", "dit frames", "dit causal"]
TIMED = {"unet frames": 4, "dit tokens": 6, "dit frames": 4, "dit causal": 6}


def given(kind, x):
    """Return a condition for make(kind, SCHEMA)."""
    full = conditions(x.shape[0], x.shape[2:])
    if kind in ("unet", "dit"):
        return full
    return Condition({k: full.values[k] for k in FLAT}, {k: full.present[k] for k in FLAT})
