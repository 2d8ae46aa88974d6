from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nn.nets import KINDS, SCHEMA, given, make, normal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from condiff.nn import DiT, DiTSize, Grid, UNet, UNetSize
from condiff.nn.pack import PackedConv2d, PackedLinear, has_bf16, pack, prepare

T = torch.tensor([0.1, 0.5, 0.9])


ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN to choose")
WIDE = {torch.float32: 32, torch.bfloat16: 4}  # channels at which a convolution of 32x32 is worth packing


class Packed(TorchDispatchMode):
    """Count calls of packed layers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(name in str(func) for name in ("_linear_pointwise", "_convolution_pointwise"))
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


def layers(dtype):
    """A linear layer and a convolution with inputs that are large enough to be worth packing."""
    width = WIDE[dtype]
    return [
        (PackedLinear, nn.Linear(256, 256, dtype=dtype), normal(128, 256, dtype=dtype)),
        (PackedConv2d, nn.Conv2d(width, width, 3, padding=1, dtype=dtype), normal(1, width, 32, 32, dtype=dtype)),
        (PackedConv2d, nn.Conv2d(32, 64, 3, 2, 1, bias=False, dtype=dtype), normal(4, 32, 31, 30, dtype=dtype)),
    ]


@ONEDNN
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own forward mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", range(3))
def test_the_packed_layer_runs_where_nothing_is_differentiated_and_only_there(dtype, which):
    kind, plain, x = layers(dtype)[which]
    layer = kind(plain)
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    with torch.no_grad(), Packed() as quiet:
        torch.testing.assert_close(layer(x), plain(x), **tolerance)
    with Packed() as ours:
        (slope,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
        _, rate = torch.func.jvp(layer, (x.detach(),), (torch.ones_like(x),))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x.detach()).dtype == torch.bfloat16
    assert (quiet.count, ours.count) == (1, 0)
    (want,) = torch.autograd.grad(plain(x).sum(), x)
    torch.testing.assert_close(slope, want)
    torch.testing.assert_close(rate, torch.func.jvp(plain, (x.detach(),), (torch.ones_like(x),))[1], **tolerance)


@ONEDNN
def test_work_too_small_for_the_price_of_a_call_stays_where_it_is():
    with torch.no_grad(), Packed() as calls:
        PackedLinear(nn.Linear(64, 64))(normal(8, 64))
        PackedConv2d(nn.Conv2d(4, 4, 3, padding=1))(normal(1, 4, 8, 8))
    assert calls.count == 0


@pytest.mark.parametrize("which", range(2))
def test_new_weights_are_packed_anew_and_copies_pack_their_own(which):
    kind, plain, x = layers(torch.float32)[which]
    layer, other = kind(plain), copy.deepcopy(plain)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(-2)
        layer.load_state_dict(other.state_dict())
        want = other(x)
        for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(same(x), want, atol=1e-4, rtol=1e-4)
        low = layer.to(torch.bfloat16)(x.bfloat16())
        assert (low.float() - want).norm() <= 0.01 * want.norm()


def test_one_layer_is_not_a_network():
    for layer in (nn.Linear(2, 2), nn.Conv2d(2, 2, 3)):
        for function in (pack, prepare):
            with pytest.raises(TypeError, match="use PackedLinear"):
                function(layer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_network_is_the_same_and_in_bf16_nearly_so(kind):
    net, x = make(kind, SCHEMA)
    cond, weights = given(kind, x), copy.deepcopy(net.state_dict())
    fast, low = prepare(net), prepare(net, dtype=torch.bfloat16)
    with torch.no_grad():
        plain, quick, rough = (n(x, T, cond) for n in (net, fast, low))
    assert (quick - plain).norm() <= 1e-6 * plain.norm()
    assert quick.dtype == rough.dtype == torch.float32
    # Random weights of unit gain: every rounding counts. The aim for networks as they are trained is 1.5e-2.
    assert (rough - plain).norm() <= 2.5e-2 * plain.norm()
    assert torch.equal(net(x, T, cond).detach(), plain)
    assert all(torch.equal(weights[k], v) for k, v in net.state_dict().items())
    if has_bf16():
        assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
        assert not torch.equal(rough, plain)
    assert {b.dtype for b in low.buffers()} == {torch.float32}
    assert not any(p.requires_grad for p in low.parameters())


def test_a_processor_without_bf16_keeps_float32(monkeypatch):
    net, _ = make("mlp")
    monkeypatch.setattr("condiff.nn.pack.has_bf16", lambda device: False)
    assert {p.dtype for p in prepare(net, dtype=torch.bfloat16).parameters()} == {torch.float32}
    assert {p.dtype for p in prepare(net, dtype=torch.float64).parameters()} == {torch.float64}
    with pytest.raises(TypeError, match="floating point"):
        prepare(net, dtype=torch.int8)


@pytest.mark.parametrize("build", ["dit", "unet"])
def test_bf16_stays_within_its_bound_on_networks_as_they_are_built(build):
    torch.manual_seed(0)
    net = DiT(Grid(1), DiTSize.digits(), patch=4) if build == "dit" else UNet(Grid(1), UNetSize.digits())
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1 and not p.any():
                nn.init.normal_(p, std=0.5 * p[0].numel() ** -0.5)
        x = normal(3, 1, 28, 28)
        plain, rough = net(x, T), prepare(net, dtype=torch.bfloat16)(x, T)
    assert (rough - plain).norm() <= 1.5e-2 * plain.norm()
