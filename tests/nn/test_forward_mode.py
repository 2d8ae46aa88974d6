"""Every network has a derivative along any direction of state and time: flow maps are trained with it."""

from __future__ import annotations

import pytest
import torch
from nn.nets import KINDS, SCHEMA, given, make, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own forward mode
T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def numeric(f, x, v, t, r, h=1e-6):
    return (f(x + h * v, t + h * r) - f(x - h * v, t - h * r)) / (2 * h)


@pytest.mark.parametrize("kind", KINDS)
def test_jvp_equals_the_difference_quotient(kind):
    net, x = make(kind, SCHEMA)
    net, x = net.double(), x.double()
    cond, v, r = given(kind, x), normal(*x.shape, seed=4, dtype=torch.float64), torch.tensor([1.0, -0.5, 2.0]).double()

    def f(x, t):
        return net(x, t, cond)

    out, rate = torch.func.jvp(f, (x, T), (v, r))
    torch.testing.assert_close(out, f(x, T), atol=1e-10, rtol=1e-10)
    want = numeric(f, x, v, T, r)
    assert (rate - want).norm() <= 1e-6 * want.norm()
    # Along time alone the state carries no tangent, but everything that time has touched does.
    _, alone = torch.func.jvp(lambda t: f(x, t), (T,), (r,))
    want = numeric(f, x, torch.zeros_like(v), T, r)
    assert want.norm() > 1e-3
    assert (alone - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_jvp_in_float32_can_be_trained_through_and_is_the_same_row_by_row(kind):
    net, x = make(kind)
    v, t, r = normal(*x.shape, seed=4), T.float(), torch.ones(3)
    out, rate = torch.func.jvp(net, (x, t), (v, r))
    exact = torch.func.jvp(make(kind)[0].double(), (x.double(), t.double()), (v.double(), r.double()))[1]
    assert (rate - exact).norm() <= 1e-3 * exact.norm()
    (out + rate).square().mean().backward()
    slopes = [p.grad for p in net.parameters() if p.grad is not None]
    assert slopes
    assert all(g.isfinite().all() for g in slopes)

    if kind == "unet frames":
        return  # PyTorch's group norm refuses a transposed batch under vmap

    def one(x, t, v):
        return torch.func.jvp(lambda x, t: net(x[None], t[None])[0], (x, t), (v, torch.ones(())))[1]

    with torch.no_grad():
        rows = torch.func.vmap(one)(x, t, v)
    torch.testing.assert_close(rows, rate.detach(), atol=1e-3, rtol=1e-3)
