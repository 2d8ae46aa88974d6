from __future__ import annotations

import pytest
import torch
from nn.nets import normal
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from condiff.nn import Conv3d, conv
from condiff.nn.conv import resize


class Calls(TorchDispatchMode):
    """Collect the convolutions that run, with the batch size each one sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            self.seen.append((str(func), args[0].shape[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_stride_divides_the_grid_rounding_up(ndim, stride):
    x = normal(2, 3, *(5, 4, 7)[:ndim])
    out = conv(ndim, 3, 6, stride=stride)(x)
    assert out.shape == (2, 6, *(-(-n // stride) for n in x.shape[2:]))


def test_an_even_kernel_and_a_fourth_dimension_are_refused():
    with pytest.raises(ValueError, match="odd kernel, got 2"):
        conv(2, 3, 3, kernel=2)
    with pytest.raises(ValueError, match="ndim=4"):
        conv(4, 3, 3)


@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_fast_volume_convolution_equals_the_plain_one_and_so_do_its_gradients(stride, batch):
    layer = conv(3, 3, 4, stride=stride)
    assert isinstance(layer, Conv3d)
    x = normal(batch, 3, 5, 6, 7).requires_grad_()
    other = x.detach().clone().requires_grad_()
    plain = torch.nn.functional.conv3d(other, layer.weight, layer.bias, layer.stride, 1)
    torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
    weight = normal(*plain.shape, seed=3)
    ours = torch.autograd.grad((layer(x) * weight).sum(), [x, layer.weight, layer.bias])
    theirs = torch.autograd.grad((plain * weight).sum(), [other, layer.weight, layer.bias])
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN to choose")
def test_one_small_sample_takes_the_fast_kernel_and_nothing_else_does():
    layer, x = conv(3, 3, 4), normal(1, 3, 5, 6, 7)
    with torch.no_grad(), Calls() as direct:
        layer(x)
    assert [name for name, _ in direct.seen] == ["aten.mkldnn_convolution.default"]
    with Calls() as doubled:
        layer(x)
    assert {rows for _, rows in doubled.seen} == {2}
    with torch.no_grad(), Calls() as plain:
        layer(normal(2, 3, 5, 6, 7))
        layer.double()(x.double())
    assert [(name, rows) for name, rows in plain.seen] == [("aten.convolution.default", n) for n in (2, 1)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own forward mode
def test_one_sample_has_a_forward_derivative_without_gradients():
    layer, x, step = conv(3, 3, 4), normal(1, 3, 5, 6, 7), normal(1, 3, 5, 6, 7, seed=2)
    with torch.no_grad(), forward_ad.dual_level():
        rate = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, step))).tangent
        torch.testing.assert_close(rate, layer(x + step) - layer(x), atol=1e-5, rtol=1e-5)


def test_resize_repeats_the_nearest_cell_for_any_sizes():
    x = torch.arange(3.0).reshape(1, 1, 3)
    assert resize(x, [5]).flatten().tolist() == [0, 0, 1, 1, 2]
    assert resize(x, [6]).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert resize(x, [3]) is x
