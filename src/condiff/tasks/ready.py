"""A system made ready for sampling: where the levers for speed live, and never in a network's definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from condiff.core.system import System
from condiff.nn.pack import prepare as prepared


def prepare(system: System[Any, Any], *, dtype: torch.dtype | None = None) -> System[Any, Any]:
    """Return a system that samples as fast as this machine lets it; the system given is left as it is.

    Its denoiser is a copy with fixed weights, in the memory layout that the device likes best (see
    `condiff.nn.prepare`). States stay float32, so solvers, grids and noise are untouched: sample i of a seed starts
    from the same noise under any setting, and at one setting is the same bit for bit at equal batch shape.

    Args:
        system: A system with a trained denoiser, already on its device. One without weights is returned as it is.
        dtype: Type of the network's weights and of what it computes; None keeps them, and then samples agree with those
            of the system given up to rounding. torch.bfloat16 changes a network's output by about 1 % of its norm. It
            pays from some ten million multiply-adds a call; smaller networks on few rows are faster in float32.

    Returns: A system for sampling. Train and save the one given.

    Raises:
        TypeError: If dtype is not a floating point type.
    """
    if not isinstance(system.denoiser, nn.Module):
        return system
    return replace(system, denoiser=prepared(system.denoiser, dtype=dtype))
