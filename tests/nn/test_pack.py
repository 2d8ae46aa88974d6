from __future__ import annotations

import copy

import pytest
import torch
from nn.nets import SCHEMA, given, make, normal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from condiff.nn.pack import PackedLinear, pack

T = torch.tensor([0.1, 0.5, 0.9])


class Packed(TorchDispatchMode):
    """Count calls of the packed product."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_linear_pointwise" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dit", "unet", "mlp", "dit causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_packed_network_gives_the_same_and_leaves_the_first_alone(kind, dtype):
    net, x = make(kind, SCHEMA)
    net, x = net.to(dtype), x.to(dtype)
    fast = pack(net)
    assert not any(isinstance(m, PackedLinear) for m in net.modules())
    assert not any(p.requires_grad for p in fast.parameters())
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        plain, quick = (n(x, T, given(kind, x)) for n in (net, fast))
    bound = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    assert (quick - plain).double().norm() <= bound * plain.double().norm()
    assert fast.state_dict().keys() == net.state_dict().keys()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN to choose")
def test_the_packed_product_runs_where_nothing_is_differentiated_and_only_there():
    layer, x = PackedLinear(nn.Linear(6, 4)), normal(3, 6)
    with torch.no_grad(), Packed() as quiet:
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    with Packed() as ours:
        (slope,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x.detach()).dtype == torch.bfloat16
    assert (quiet.count, ours.count) == (1, 0)
    torch.testing.assert_close(slope, layer.weight.sum(0).expand(3, 6))


def test_new_weights_are_packed_anew():
    layer, x = PackedLinear(nn.Linear(6, 4)), normal(3, 6)
    other = nn.Linear(6, 4)
    layer.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), other(x))
        torch.testing.assert_close(copy.deepcopy(layer)(x), other(x))
        torch.testing.assert_close(layer.to(torch.bfloat16)(x.bfloat16()), other.bfloat16()(x.bfloat16()))


def test_one_layer_is_not_a_network():
    with pytest.raises(TypeError, match="use PackedLinear"):
        pack(nn.Linear(2, 2))
