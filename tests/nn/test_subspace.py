"""The score of data on a subspace: what the form of the network leaves to be learned, exactly."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, rng
from torch import nn

from condiff.core import instant
from condiff.nn import MLP, SubspaceScore
from condiff.oracles import GaussianData
from condiff.process import VP, Flow, Gaussian, Preconditioned, Score

A = torch.linalg.qr(torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=DTYPE)).Q
LAM = torch.tensor([3.0, 1.0, 0.2], dtype=DTYPE)
SCHEDULE = VP(0.999999, 1.000001)  # beta = 1: alpha = e^(-t/2), sigma^2 = 1 - e^-t


class Exact(nn.Module):
    """g(u) = u + sigma^2 grad log p_t(u) for z ~ N(0, LAM)."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, u, t, cond):
        alpha, sigma = (torch.as_tensor(c, dtype=DTYPE) for c in self.schedule(t.to(DTYPE)))
        if t.ndim:
            alpha, sigma = alpha[:, None], sigma[:, None]
        return u - sigma**2 * u / (alpha**2 * LAM + sigma**2)


def states(t, count=6):
    data = GaussianData(Gaussian(SCHEDULE), torch.zeros(7, dtype=DTYPE), A, LAM)
    alpha, sigma = SCHEDULE(t)
    x = rng(*range(count)).normal((count, 7))
    return data, alpha * data.sample(count, rng=rng(*range(50, 50 + count))) + sigma * x, alpha, sigma


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_the_score_splits_on_and_off_the_support(t):
    """score = A grad log p_z(A^T x) - (I - A A^T) x / h."""
    data, x, alpha, sigma = states(t)
    score = -data(x, instant(t), None).parts["noise"] / sigma
    inside = -(x @ A) / (alpha**2 * LAM + sigma**2)
    split = inside @ A.T - (x - (x @ A) @ A.T) / sigma**2
    torch.testing.assert_close(score, split, atol=1e-15, rtol=1e-13)


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_the_network_form_is_the_exact_score(t):
    """(V g(V^T x, t) - x) / h with V = A; as a denoiser it gives the exact means."""
    data, x, _, sigma = states(t)
    net = SubspaceScore(7, Exact(SCHEDULE), 3, SCHEDULE)
    net.basis.data = A.clone()
    wanted = data(x, instant(t), None)
    for time in (instant(t), torch.full((6,), t, dtype=DTYPE)):
        score = net(x, time, None)
        torch.testing.assert_close(score, -wanted.parts["noise"] / sigma, atol=1e-15, rtol=1e-12)
        est = Preconditioned(net, data.process, Score())(x, time, None)
        for name in ("data", "noise"):
            torch.testing.assert_close(est.parts[name], wanted.parts[name], atol=1e-12, rtol=1e-12)


def test_off_support_the_score_grows_as_the_root_of_the_noise():
    """Why sampling stops early: its size per dimension is 1 / sqrt(h), so log|score| over log h has slope -1/2."""
    data, _, _, _ = states(0.1)
    times = torch.logspace(-3, -1, 9, dtype=DTYPE)
    noise, clean = rng(*range(200)).normal((200, 7)), data.sample(200, rng=rng(*range(200, 400)))
    logs = []
    for t in times.tolist():
        alpha, sigma = SCHEDULE(t)
        x = alpha * clean + sigma * noise
        score = -data(x, instant(t), None).parts["noise"] / sigma
        off = score - (score @ A) @ A.T
        logs.append((2.0 * torch.log(torch.tensor(sigma)), torch.log(off.square().mean().sqrt())))
    h, size = torch.tensor(logs, dtype=DTYPE).T
    slope = float(((h - h.mean()) * (size - size.mean())).sum() / (h - h.mean()).square().sum())
    assert slope == pytest.approx(-0.5, abs=1e-6)


def test_it_starts_orthonormal_and_learns_its_matrix():
    net = SubspaceScore(6, MLP(2, 8, 1), 2, Flow())
    torch.testing.assert_close(net.basis.T @ net.basis, torch.eye(2), atol=1e-6, rtol=0.0)
    nn.init.normal_(net.inner.out.weight)
    x = torch.randn(3, 6)
    net(x, torch.full((3,), 0.5), None).sum().backward()
    assert float(net.basis.grad.abs().sum()) > 0.0
    with pytest.raises(ValueError, match="rank must be 1 to 6"):
        SubspaceScore(6, MLP(2, 8, 1), 7, Flow())
