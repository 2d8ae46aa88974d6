"""Linear layers and convolutions in the memory layout of oneDNN, for sampling on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from condiff.nn.direct import direct

Net = TypeVar("Net", bound=nn.Module)

_ONEDNN: bool = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name)
    for name in (
        "_linear_pointwise",
        "_reorder_linear_weight",
        "_convolution_pointwise",
        "_reorder_convolution_weight",
    )
)

_WORTH = 8_000_000
"""Multiply-adds above which float32 layers win back the 30 to 50 us that a call of oneDNN costs before it computes."""


class Packed(nn.Module):
    """A layer with fixed weights that keeps a second, reordered copy of them.

    PyTorch's own float32 product on a CPU is MKL's, which is slower than oneDNN's on AMD processors, and bf16 weights
    and those of convolutions are reordered anew at every call. The reordered copy is used where a call is an evaluation
    and nothing else; elsewhere, and on other devices, this is a plain layer.
    """

    weight: Tensor
    _packed: Tensor | None

    def _reorder(self) -> Tensor:
        """Return the reordered weights."""
        raise NotImplementedError

    def _pack(self) -> None:
        """Reorder the weights; called whenever they may have changed."""
        fits = _ONEDNN and self.weight.device.type == "cpu" and self.weight.dtype in (torch.float32, torch.bfloat16)
        with torch.no_grad():
            self._packed = self._reorder() if fits else None

    def _usable(self, input: Tensor, places: int) -> bool:
        """Is the reordered copy valid here, and faster, for weights that are applied at so many places?"""
        if self._packed is None or input.dtype != self.weight.dtype:
            return False
        # In bf16 the plain layer calls oneDNN too.
        return (input.dtype == torch.bfloat16 or places * self.weight.numel() >= _WORTH) and direct(input)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._pack()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict(state_dict, *args)
        self._pack()

    def __getstate__(self) -> dict[str, Any]:
        """Travel and be copied without the reordered weights, which can do neither."""
        return {**self.__dict__, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reorder the weights again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack()


class PackedLinear(Packed, nn.Linear):
    """A linear layer with packed weights.

    Args:
        linear: The layer to pack; it shares no memory with the new one.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Linear.__init__(
            self,
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        self.load_state_dict(linear.state_dict())
        self.train(linear.training).requires_grad_(False)

    def _reorder(self) -> Tensor:
        reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
        return reordered

    def forward(self, input: Tensor) -> Tensor:
        """Return W input + b, (..., in_features) to (..., out_features)."""
        if not self._usable(input, input.numel() // self.in_features):
            return super().forward(input)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(input, self._packed, self.bias, "none", [], "")
        return out


class PackedConv2d(Packed, nn.Conv2d):
    """A 2-D convolution with packed weights; what it returns is channels last.

    Args:
        conv: The layer to pack, with zero padding by numbers; it shares no memory with the new one.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Conv2d.__init__(
            self,
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.load_state_dict(conv.state_dict())
        self.train(conv.training).requires_grad_(False)

    def _reorder(self) -> Tensor:
        self._geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        reordered: Tensor = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *self._geometry)
        return reordered

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        places = input.shape[:1].numel() * input.shape[-2:].numel() // (self.stride[0] * self.stride[1])
        if input.ndim != 4 or not self._usable(input, places):
            return super().forward(input)
        last = input.contiguous(memory_format=torch.channels_last)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            last, self._packed, self.bias, *self._geometry, "none", [], ""
        )
        return out


def pack(net: Net) -> Net:
    """Return a copy of a network for sampling on a CPU, its weights fixed, linear layers and 2-D convolutions packed.

    Args:
        net: Any network; it is left as it is.

    Returns: A network with the same outputs up to rounding and the same names of weights.

    Raises:
        TypeError: If net is itself a layer.
    """
    return _pack(_copied(net))


def prepare(net: Net, *, dtype: torch.dtype | None = None) -> Net:
    """Return a copy of a network that samples as fast as this machine lets it: type, memory layout, packed weights.

    Weights are fixed and cast to `dtype`, those of 2-D convolutions are laid out channels last, and on a CPU linear
    layers and convolutions keep a second copy in oneDNN's order. Buffers keep their type: they are constants of
    formulas, not weights. States, times and outputs keep theirs, so a solver's state stays float32.

    Args:
        net: Any network or denoiser; it is left as it is and remains the one to train and to save.
        dtype: Type of the weights and of what is computed from them; None keeps them. bfloat16 changes outputs by
            about 1 % of their norm, and is left out where the device has no products in it and would be slower.

    Returns: A network with the same names of weights; at the same type its outputs are the same up to rounding.

    Raises:
        TypeError: If dtype is not a floating point type, or net is itself a layer.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"weights need a floating point type such as torch.bfloat16, got {dtype}")
    net = _copied(net)
    for weight in net.parameters():
        slow = dtype == torch.bfloat16 and not has_bf16(weight.device)
        layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
        cast = weight.dtype if dtype is None or slow else dtype
        weight.data = weight.data.to(cast, memory_format=layout)
    return _pack(net)


def has_bf16(device: torch.device | str = "cpu") -> bool:
    """Return whether a device computes products of bfloat16 itself, rather than by way of float32."""
    kind = torch.device(device).type
    if kind == "cpu":
        able = (
            torch.cpu.get_capabilities()
            if hasattr(torch.cpu, "get_capabilities")  # older versions tell of one kind only
            else {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
        )
        return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else False


def _copied(net: Net) -> Net:
    if _packed(net) is not None:
        raise TypeError("networks that hold layers can be packed; for one layer use PackedLinear(layer)")
    return copy.deepcopy(net).requires_grad_(False)


def _pack(net: Net) -> Net:
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            layer = _packed(child)
            if layer is not None:
                setattr(module, name, layer)
    return net


def _packed(layer: nn.Module) -> Packed | None:
    """Return a packed copy of a layer, or None where packing does not apply or does not pay."""
    if type(layer) is nn.Linear:
        return PackedLinear(layer)
    # A 1x1 convolution is a product, for which the plain layer is as fast.
    if type(layer) is nn.Conv2d and layer.kernel_size != (1, 1):
        named = layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        return None if named else PackedConv2d(layer)
    return None
