"""A gated residual network over windows of series with state-space layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from condiff.core.condition import ClassLabel, Condition, Kind, Picture, Vector
from condiff.nn.embed import Conditions, TimeEmbedding
from condiff.nn.init import initialise
from condiff.nn.layout import Grid, check_time
from condiff.nn.ssm import S4D


@final
class Waves(nn.Module):
    """A residual network on windows (B, C, L): in each block a state-space layer, a gate, and two ways out.

    u = h + W temb; u = u + mix(gelu(SSM(norm(u)))); g = tanh(u + V pictures) sigmoid(u + V pictures)
    h = h + W_h g; out = head(sum over blocks of W_s g); zero when fresh

    Args:
        channels: C of a window.
        width: H, channels inside.
        num_blocks: Number of blocks.
        layer: Makes the state-space layer of one block from the width.
        skip: Add the input to the output.
        schema: Conditions: pictures (B, D, L) beside the window enter every block, classes and vectors the time's
            embedding.

    Raises:
        ValueError: If a number is not positive.
        TypeError: If the schema has a kind that needs cross-attention.

    Source: Kollovieh et al. 2023 (TSDiff), as its official code builds it, with this library's time embedding and a
        last layer that starts at zero.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        num_blocks: int = 3,
        layer: Callable[[int], nn.Module] = S4D,
        *,
        skip: bool = False,
        schema: Mapping[str, Kind] | None = None,
    ) -> None:
        super().__init__()
        if min(channels, width, num_blocks) < 1:
            raise ValueError(f"Waves needs positive numbers, got {channels=}, {width=}, {num_blocks=}")
        for name, kind in (schema or {}).items():
            if not isinstance(kind, ClassLabel | Vector | Picture):
                raise TypeError(f"Waves reads classes, vectors and pictures, {name!r} is {type(kind).__name__}")
        self.channels, self.skip = channels, skip
        self.layout = Grid(channels, 1)
        self.conditions = Conditions(schema or {}, width=width, context_width=width)
        beside = self.conditions.picture_channels
        self.time = TimeEmbedding(width)
        self.enter = nn.Conv1d(channels, width, 1)
        self.push = nn.ModuleList([nn.Linear(width, width) for _ in range(num_blocks)])
        self.beside = nn.ModuleList([nn.Conv1d(beside, 2 * width, 1) for _ in range(num_blocks)] if beside else [])
        self.norm = nn.ModuleList([nn.LayerNorm(width) for _ in range(num_blocks)])
        self.mix = nn.ModuleList([nn.Conv1d(width, width, 1) for _ in range(num_blocks)])
        self.leave = nn.ModuleList([nn.Conv1d(width, 2 * width, 1) for _ in range(num_blocks)])
        self.head = nn.Conv1d(width, width, 1)
        self.out = nn.Conv1d(width, channels, 1)
        initialise(self, zero=[self.out])
        self.layers = nn.ModuleList([layer(width) for _ in range(num_blocks)])

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: State (B, C, L).
            t: Process times in [0, 1], () or (B,).
            cond: Conditions by name; None, a missing name and an absent row all mean the learned null.

        Returns: A tensor shaped like x.

        Raises:
            ValueError: If the shape of x, t or a condition does not fit, or a condition's name is unknown.
        """
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise ValueError(f"expected windows (B, {self.channels}, L), got shape {tuple(x.shape)}")
        check_time(t, x.shape[0], ())
        self.conditions.check(cond, x.shape[0])
        said = self.conditions(cond).vector
        time = self.time(t.reshape(1) if t.ndim == 0 else t)
        time = nn.functional.silu(time if said is None else time + said)
        inner = x.to(self.enter.weight.dtype)
        pictures = (
            self.conditions.concatenate(inner, cond, self.layout)[:, self.channels :] if len(self.beside) else None
        )
        h = torch.relu(self.enter(inner))
        total = torch.zeros_like(h)
        for k, layer in enumerate(self.layers):
            u = h + self.push[k](time)[..., None]
            u = u + self.mix[k](nn.functional.gelu(layer(self.norm[k](u.mT).mT)))
            left = right = u
            if pictures is not None:
                a, b = self.beside[k](pictures).chunk(2, 1)
                left, right = u + a, u + b
            on, skip = self.leave[k](torch.tanh(left) * torch.sigmoid(right)).chunk(2, 1)
            h, total = h + on, total + skip
        out: Tensor = self.out(torch.relu(self.head(total)))
        return out.to(x.dtype) + x if self.skip else out.to(x.dtype)
