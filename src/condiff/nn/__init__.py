"""Networks: `net(x, t, cond)` returns a tensor shaped like x, zero while the network is fresh.

`t` is the process time in [0, 1], shaped like a prefix of x as the network's layout allows; `cond` holds the conditions
of a declared schema, each with a learned null.
"""

from condiff.nn.attention import CrossAttention, SelfAttention, attend, block_causal
from condiff.nn.beside import Beside
from condiff.nn.conv import Conv3d, conv
from condiff.nn.dit import DiT, DiTSize
from condiff.nn.embed import Conditions, Encoded, TimeEmbedding
from condiff.nn.init import initialise
from condiff.nn.layout import Frames, Grid, Layout, Tokens
from condiff.nn.lookback import LookBack, Observing, look_back, observations
from condiff.nn.mlp import MLP
from condiff.nn.norm import group_norm, modulate, rms_norm
from condiff.nn.pack import has_bf16, prepare
from condiff.nn.ridge import Ridge
from condiff.nn.rounding import rounded
from condiff.nn.space import EmbeddingSpace
from condiff.nn.ssm import S4, S4D, diagonal_kernel, diagonalised, dplr_kernel, legs, truncated, two_sided
from condiff.nn.subspace import SubspaceScore
from condiff.nn.tokens import TokenDiT, TokenMLP
from condiff.nn.towers import EncoderDecoder, OneTower, Parallel, Reading, Spiral, TowerBlock, TwoTower
from condiff.nn.unet import UNet, UNetSize
from condiff.nn.waves import Waves

__all__ = [
    "MLP",
    "S4",
    "S4D",
    "Beside",
    "Conditions",
    "Conv3d",
    "CrossAttention",
    "DiT",
    "DiTSize",
    "EmbeddingSpace",
    "Encoded",
    "EncoderDecoder",
    "Frames",
    "Grid",
    "Layout",
    "LookBack",
    "Observing",
    "OneTower",
    "Parallel",
    "Reading",
    "Ridge",
    "SelfAttention",
    "Spiral",
    "SubspaceScore",
    "TimeEmbedding",
    "TokenDiT",
    "TokenMLP",
    "Tokens",
    "TowerBlock",
    "TwoTower",
    "UNet",
    "UNetSize",
    "Waves",
    "attend",
    "block_causal",
    "conv",
    "diagonal_kernel",
    "diagonalised",
    "dplr_kernel",
    "group_norm",
    "has_bf16",
    "initialise",
    "legs",
    "look_back",
    "modulate",
    "observations",
    "prepare",
    "rms_norm",
    "rounded",
    "truncated",
    "two_sided",
]
