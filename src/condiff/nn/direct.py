"""Is this call an evaluation and nothing else? Then kernels without derivatives may be used."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd.forward_ad import unpack_dual


def direct(*tensors: Tensor) -> bool:
    """Return whether a computation on these tensors is eager and neither recorded, transformed, traced nor autocast."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(tensors[0].device.type) or get_interpreter_stack():
        return False
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not recorded and all(unpack_dual(x).tangent is None for x in tensors)


def forward_mode(*tensors: Tensor) -> bool:
    """Return whether a forward derivative is being taken: of one of these tensors, or of a function around the call."""
    if any(unpack_dual(x).tangent is not None for x in tensors):
        return True
    # A vmap inside a jvp hides the tangents. The list is None when no transform is active.
    stack = None if torch.compiler.is_compiling() else get_interpreter_stack()
    return any(level.key() == TransformType.Jvp for level in stack or ())
