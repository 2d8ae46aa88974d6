"""One convolution for 1, 2 and 3 dimensions, and resizing between grids of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from condiff.nn.direct import direct

_SLOW_PATH = 20480
"""ATen (CPU, float32) leaves oneDNN for a native 3-D convolution that is 4 to 13 times slower when there is one
sample and batch * channels * depth * height is at most this."""

_ONEDNN: bool = torch.backends.mkldnn.is_available()


class Conv3d(nn.Conv3d):
    """A 3-D convolution that is as fast for one sample on a CPU as for several.

    Without gradients the oneDNN kernel is called directly. It has no forward-mode derivative and a slow backward, so
    with gradients a row of zeros is appended instead, which makes ATen choose oneDNN in both directions.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        if not self._slow(input):
            return super().forward(input)
        if torch.is_grad_enabled() or not direct(input):
            return super().forward(torch.cat([input, torch.zeros_like(input)]))[:1]
        padding = [int(p) for p in self.padding]
        return torch.mkldnn_convolution(input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)

    def _slow(self, input: Tensor) -> bool:
        """Would ATen leave oneDNN here, and could oneDNN do it?"""
        plain = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        small = input.ndim == 5 and input.shape[0] == 1 and 0 < input.shape[1:4].numel() <= _SLOW_PATH
        named = self.padding_mode != "zeros" or isinstance(self.padding, str)
        return _ONEDNN and input.device.type == "cpu" and plain and small and not named and input.shape[4] > 0


_CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}


def conv(
    ndim: int, inputs: int, outputs: int, *, kernel: int = 3, stride: Sequence[int] | int = 1
) -> nn.Conv1d | nn.Conv2d | Conv3d:
    """Make a convolution over 1, 2 or 3 grid axes with zero padding, so that stride 1 keeps the grid.

    Args:
        ndim: Number of grid axes.
        inputs: Channels in.
        outputs: Channels out.
        kernel: Odd size of the kernel along every axis.
        stride: Step, one for all axes or one per axis; a grid of n becomes ceil(n / stride).

    Returns: A module from (B, inputs, *grid) to (B, outputs, *ceil(grid / stride)).

    Raises:
        ValueError: If the kernel is even or ndim not 1, 2 or 3.
    """
    if kernel % 2 == 0:
        raise ValueError(f"a convolution that keeps the grid needs an odd kernel, got {kernel}")
    if ndim not in _CONVOLUTIONS:
        raise ValueError(f"convolutions have 1, 2 or 3 dimensions, got ndim={ndim}")
    steps = (stride,) * ndim if isinstance(stride, int) else tuple(stride)
    return _CONVOLUTIONS[ndim](inputs, outputs, kernel, stride=steps, padding=kernel // 2)  # type: ignore[arg-type]


def resize(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Enlarge (B, C, *any) to (B, C, *grid) by repeating the nearest value; sizes need not divide."""
    return x if x.shape[2:] == tuple(grid) else nn.functional.interpolate(x, size=list(grid), mode="nearest")
