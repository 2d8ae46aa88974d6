"""Linear layers in the memory layout of oneDNN, for sampling on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

Net = TypeVar("Net", bound=nn.Module)

_ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PackedLinear(nn.Linear):
    """A linear layer with fixed weights that keeps a second, reordered copy of them.

    PyTorch's own float32 product on a CPU is MKL's, which reaches about half of oneDNN's speed on AMD processors, and
    bf16 weights are reordered anew at every call. The reordered copy is used where nothing is differentiated, compiled
    or autocast; elsewhere, and on other devices, this is a plain linear layer.

    Args:
        linear: The layer to pack; it shares no memory with the new one.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        super().load_state_dict(linear.state_dict())
        self.requires_grad_(False)
        self._pack()

    def _pack(self) -> None:
        """Reorder the weights; called whenever they may have changed."""
        fits = _ONEDNN and self.weight.device.type == "cpu" and self.weight.dtype in (torch.float32, torch.bfloat16)
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach()) if fits else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._pack()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict(state_dict, *args)
        self._pack()

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        """Pack again: reordered weights cannot be copied."""
        return PackedLinear(self).train(self.training)

    def __reduce__(self) -> tuple[type[PackedLinear], tuple[nn.Linear]]:
        """Travel as a plain layer."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, dtype=self.weight.dtype)
        plain.load_state_dict(self.state_dict())
        return PackedLinear, (plain,)

    def forward(self, input: Tensor) -> Tensor:
        """Return W input + b, (..., in_features) to (..., out_features)."""
        if torch.compiler.is_compiling() or self._packed is None or input.dtype != self.weight.dtype:
            return super().forward(input)
        differentiated = torch.is_grad_enabled() and input.requires_grad
        if differentiated or torch.is_autocast_enabled("cpu") or unpack_dual(input).tangent is not None:
            return super().forward(input)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")
        return out


def pack(net: Net) -> Net:
    """Return a copy of a network for sampling on a CPU, its weights fixed and its linear layers packed.

    Args:
        net: Any network; it is left as it is. Cast it first: `pack(net.to(torch.bfloat16))`.

    Returns: A network with the same outputs up to rounding and the same names of weights.

    Raises:
        TypeError: If net is itself a linear layer.
    """
    net = copy.deepcopy(net).requires_grad_(False)
    if type(net) is nn.Linear:
        raise TypeError("pack() takes a network that holds linear layers; for one layer use PackedLinear(layer)")
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return net
