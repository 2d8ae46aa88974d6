"""Weights of few bits: what is left of a network when its weights are rounded."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


@torch.no_grad()
def rounded(net: Net, bits: int) -> Net:
    """Copy a network with every weight matrix and kernel rounded to 2^bits - 1 equal levels, symmetric about 0.

    w <- step * round(w / step), step = max |w| / (2^(bits - 1) - 1), one step a tensor

    Vectors (biases, gains) keep their values, as is usual for quantisation after training.

    Args:
        net: Any module; it is left as it is.
        bits: Bits a weight, >= 2.

    Raises:
        ValueError: If bits < 2.
    """
    if bits < 2:
        raise ValueError(f"rounded weights need at least 2 bits, got {bits}")
    made = copy.deepcopy(net)
    for weight in made.parameters():
        if weight.ndim >= 2:
            step = weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny) / (2 ** (bits - 1) - 1)
            weight.copy_(step * torch.round(weight / step))
    return made
    return made
