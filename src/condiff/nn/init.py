"""Initialisation of every network, in one place.

Weights start with variance 1 / fan_in, biases at 0, embedded classes, tokens and nulls with variance 1. Layers that
write into a residual stream or into the output start at zero, so that a fresh network returns exactly zero and every
block is the identity: the first gradients then come from the data alone.

The variance of the class table matters more than it looks. At a standard deviation of 0.02, usual elsewhere, a U-Net
trained for 80 CPU-seconds on digits ignored its class (28 % judged right at guidance 2); at 1 it followed it (95 %).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def initialise(net: nn.Module, zero: Iterable[nn.Module] = ()) -> None:
    """Set all weights of a network in place.

    Linear and convolution weights are truncated normal (at 2 deviations) with variance 1 / fan_in.

    Args:
        net: The network; its submodules are visited in order of registration.
        zero: Layers whose weight and bias start at zero instead.
    """
    silent = {id(module) for module in zero}
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if id(module) in silent:
                nn.init.zeros_(module.weight)
            else:
                # 0.88 is the standard deviation of a unit normal cut at 2.
                deviation = module.weight[0].numel() ** -0.5 / 0.88
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        null = getattr(module, "null", None)
        if isinstance(null, nn.Parameter):
            nn.init.normal_(null, std=1.0)
