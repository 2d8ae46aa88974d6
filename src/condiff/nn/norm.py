"""Normalisation within one sample, and its modulation. No batch statistics anywhere: rows must not see each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def group_norm(channels: int, *, max_groups: int = 32, min_size: int = 16) -> nn.GroupNorm:
    """Make a group norm with as many groups as divide the channels, each of at least `min_size` channels.

    Groups of fewer than 16 channels fall out of the vector path of PyTorch's CPU kernel for channels-last tensors:
    measured 4 times slower in float32 and 20 times in bfloat16 at grids under 32x32.

    Args:
        channels: Number of channels, any positive number.
        max_groups: Upper limit of the number of groups.
        min_size: Fewest channels a group may have, where there are enough for two groups.

    Returns: A group norm with learned scale and shift per channel.
    """
    groups = next((g for g in range(min(max_groups, channels // min_size), 0, -1) if channels % g == 0), 1)
    return nn.GroupNorm(groups, channels)


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x^2) + 1e-6) over the last axis; half the price of a layer norm on a CPU."""
    return nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x * (1 + scale) + shift as one fused operation, in x's dtype.

    Args:
        x: Features, any shape.
        scale: Relative change, broadcastable against x; 0 changes nothing.
        shift: Offset, broadcastable against x.
    """
    return torch.addcmul(shift.to(x.dtype), x, (1 + scale).to(x.dtype))


def gate(x: Tensor, weight: Tensor, branch: Tensor) -> Tensor:
    """Return x + weight * branch as one fused operation, in x's dtype; weight is broadcastable against x."""
    return torch.addcmul(x, weight.to(x.dtype), branch.to(x.dtype))
