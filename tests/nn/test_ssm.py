"""State-space layers are the recurrences they say: structure, kernels, both directions, any length."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from condiff.core import ClassLabel, Condition, Picture
from condiff.nn import S4, S4D, Waves, diagonal_kernel, diagonalised, dplr_kernel, legs, prepare, truncated, two_sided

N, H = 8, 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def recurrence(a, b, c, dt, length):
    """K_k = C Abar^k Bbar, step by step, of one channel."""
    eye = torch.eye(len(a), dtype=a.dtype)
    step = torch.linalg.solve(eye - dt / 2 * a, eye + dt / 2 * a)
    state = torch.linalg.solve(eye - dt / 2 * a, dt * b)
    out = []
    for _ in range(length):
        out.append((c * state).sum().real)
        state = step @ state
    return torch.stack(out)


def test_symmetric_part_of_legs_plus_low_rank_is_minus_half_the_identity():
    """Works when 7: A + P P^T has the symmetric part -I/2 exactly."""
    a, _, p = legs(16)
    normal_part = a + torch.outer(p, p)
    assert torch.allclose((normal_part + normal_part.T) / 2, -0.5 * torch.eye(16, dtype=torch.float64), atol=1e-13)


def test_conjugate_pairs_rebuild_the_transfer_of_legs():
    """C V, V^* B are free of basis: the moments P^T A^k B are those of the matrix itself."""
    a, b, p = legs(N)
    w, bb, pp = diagonalised(N)
    whole, low, inn = (torch.cat([x, x.conj()]) for x in (w, pp, bb))
    matrix = torch.diag(whole) - torch.outer(low, low.conj())
    left, right = inn, b
    for _ in range(4):
        assert (low.conj() @ left).real.item() == pytest.approx((p @ right).item(), rel=1e-10)
        left, right = matrix @ left, a @ right
    assert bool((w.imag > 0).all())
    assert bool((w.real == -0.5).all())


@pytest.mark.parametrize("length", [1, 7, 32, 64])
def test_fft_kernel_is_the_recurrence(length):
    """Works when 7: the DPLR kernel by FFT equals C Abar^k Bbar; even lengths reach z = -1."""
    w, b, p = diagonalised(N)
    c = torch.complex(normal(H, N // 2), normal(H, N // 2, seed=1))
    dt = torch.tensor([0.001, 0.03, 0.1], dtype=torch.float64)
    got = dplr_kernel(w, p, b, truncated(w, p, c, dt, length), dt, length)
    whole, low, inn, out = (torch.cat([x, x.conj()], -1) for x in (w, p, b, c))
    a = torch.diag(whole) - torch.outer(low, low.conj())
    for k in range(H):
        assert torch.allclose(got[k], recurrence(a, inn, out[k], dt[k], length), atol=1e-7, rtol=1e-7)


def test_two_sided_convolution_is_the_double_sum():
    """Works when 7: y_i = sum_{j<=i} k0[i-j] u_j + sum_{j>i} k1[j-i-1] u_j, to 1e-13."""
    length = 9
    u, k0, k1 = normal(2, H, length), normal(H, length, seed=1), normal(H, length, seed=2)
    wanted = torch.zeros_like(u)
    for i in range(length):
        for j in range(length):
            wanted[:, :, i] += (k0[:, i - j] if j <= i else k1[:, j - i - 1]) * u[:, :, j]
    assert torch.allclose(two_sided(u, k0, k1), wanted, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, on its first forward mode
def test_two_sided_convolution_has_every_derivative():
    """Gradients, their gradients, forward mode and rows mapped one by one, against finite differences and each other."""
    u, k0, k1 = (x.requires_grad_(True) for x in (normal(2, H, 5), normal(H, 5, seed=1), normal(H, 5, seed=2)))
    assert torch.autograd.gradcheck(two_sided, (u, k0, k1))
    assert torch.autograd.gradgradcheck(two_sided, (u, k0, k1))
    for wanted in ((u,), (k0,)):  # what needs no gradient is left out
        some = [x if any(x is w for w in wanted) else x.detach() for x in (u, k0, k1)]
        grad = torch.autograd.grad(two_sided(*some).square().sum(), wanted)[0]
        assert torch.allclose(grad, torch.autograd.grad(two_sided(u, k0, k1).square().sum(), wanted)[0])
    _, rate = torch.func.jvp(two_sided, (u, k0, k1), (u, k0, torch.zeros_like(k1)))
    assert torch.allclose(rate, 2.0 * two_sided(u, k0, torch.zeros_like(k1)) + two_sided(u, torch.zeros_like(k0), k1))
    each = torch.func.vmap(lambda row: two_sided(row[None], k0, k1)[0])(u)
    assert torch.allclose(each, two_sided(u, k0, k1))


def test_a_kernel_is_a_prefix_of_that_at_twice_the_length():
    """Works when 7: the shift test."""
    w, b, p = diagonalised(N)
    c = torch.complex(normal(H, N // 2), normal(H, N // 2, seed=1))
    dt = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)
    short, long = (dplr_kernel(w, p, b, truncated(w, p, c, dt, L), dt, L) for L in (24, 48))
    assert torch.allclose(short, long[:, :24], atol=1e-10)
    assert torch.allclose(diagonal_kernel(w, c, dt, 24), diagonal_kernel(w, c, dt, 48)[:, :24], atol=1e-14)


def test_diagonal_kernel_is_the_held_input_integrated():
    """S4D: the state of x' = w x + u under u = 1 on [0, dt], then 0, sampled at (k + 1) dt."""
    w = torch.tensor([-0.5 + 2.0j, -0.5 + 5.0j], dtype=torch.complex128)
    c, dt = torch.complex(normal(1, 2), normal(1, 2, seed=1)), torch.tensor([0.2], dtype=torch.float64)
    got = diagonal_kernel(w, c, dt, 5)[0]
    fine = torch.linspace(0, 0.2, 20001, dtype=torch.float64)
    for k in range(5):
        response = 2 * (c[0] * torch.exp(w * ((k + 1) * 0.2 - fine[:, None]))).sum(1).real
        assert got[k].item() == pytest.approx(torch.trapezoid(response, fine).item(), abs=1e-7)


@pytest.mark.parametrize("layer", [S4(4, 20, 8), S4D(4, 8)], ids=["S4", "S4D"])
def test_layers_see_both_ways_and_learn(layer):
    u = torch.zeros(1, 4, 20).requires_grad_(True)
    y = layer(u + torch.eye(20)[10])
    assert bool((y[..., :10].abs().sum() > 0) & (y[..., 11:].abs().sum() > 0))
    y.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and float(p.grad.abs().sum()) > 0 for p in layer.parameters())


def test_a_sequence_beyond_the_stored_length_is_refused():
    with pytest.raises(ValueError, match="at most 20 steps, got 21"):
        S4(4, 20, 8)(torch.zeros(1, 4, 21))


@pytest.mark.parametrize("layer", [S4D, lambda width: S4(width, 36, 16)], ids=["S4D", "S4"])
def test_waves_is_zero_when_fresh_and_rows_are_their_own(layer):
    net = Waves(3, 8, 2, layer)
    x, t = normal(4, 3, 36, dtype=torch.float32), torch.linspace(0.1, 0.9, 4)
    assert not net(x, t).any()
    torch.nn.init.normal_(net.out.weight)
    assert torch.allclose(net(x, t)[1:2], net(x[1:2], t[1:2]), atol=1e-5)
    assert not torch.allclose(net(x, t), net(x, t.flip(0)), atol=1e-3)


def test_waves_takes_the_published_window_and_reads_every_condition():
    """Works when (c): a window of 360 steps and 11 channels; a picture and a class each change what comes out."""
    net = Waves(11, 8, 2, lambda width: S4D(width, 8), schema={"given": Picture(2), "item": ClassLabel(3)})
    torch.nn.init.normal_(net.out.weight)
    x, t = normal(2, 11, 360, dtype=torch.float32), torch.tensor(0.5)
    given, item = normal(2, 2, 360, seed=1, dtype=torch.float32), torch.tensor([0, 2])
    both = net(x, t, Condition.of(given=given, item=item))
    assert both.shape == (2, 11, 360)
    assert not torch.allclose(both, net(x, t, Condition.of(given=given + 1.0, item=item)), atol=1e-3)
    assert not torch.allclose(both, net(x, t, Condition.of(given=given, item=item.flip(0))), atol=1e-3)
    with pytest.raises(ValueError, match=r"expected windows \(B, 11, L\)"):
        net(x[:, :10], t)


@pytest.mark.parametrize("layer", [S4D(4, 8), S4(4, 12, 8)], ids=["S4D", "S4"])
def test_a_prepared_layer_computes_the_same(layer):
    """Another layout of the weights changes nothing, and bfloat16 weights only round."""
    u = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(layer)
    torch.testing.assert_close(prepare(net)(u), net(u))
    half = copy.deepcopy(net).to(torch.bfloat16)
    out = half(u.to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), net(u), atol=0.1, rtol=0.1)
