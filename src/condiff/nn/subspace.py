"""A score network for data near a linear subspace: an encoder, a small net and a decoder that share one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.process import Schedule
from condiff.core.shapes import expand


class SubspaceScore(nn.Module):
    """s(x, t, cond) = (V g(V^T x, t, cond) - x) / sigma^2: what lies outside the columns of V is noise, and is known.

    For data x_0 = A z, A orthonormal, the exact score has this form with V = A and
    g(u) = u + sigma^2 grad log p_t(u): only k numbers must be learned, whatever D is.

    Read it with `Preconditioned(net, process, Score())`. It is 1 / sigma^2 at the data end, so stop at t > 0.

    Args:
        features: D, features of a state.
        inner: The small net g, called as inner(u, t, cond) with u (B, k).
        rank: k.
        schedule: The process's schedule, for sigma.

    Source: Chen et al. 2023 (score approximation on low-dimensional data), eq. 7 and figure 2; any (alpha, sigma). V is
        free here and starts orthonormal.
    """

    def __init__(self, features: int, inner: nn.Module, rank: int, schedule: Schedule) -> None:
        super().__init__()
        if not 1 <= rank <= features:
            raise ValueError(f"the rank must be 1 to {features}, got {rank}")
        self.inner, self.schedule = inner, schedule
        self.basis = nn.Parameter(torch.linalg.qr(torch.randn(features, rank)).Q.contiguous())

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return scores (B, D) at states (B, D) and process times () or (B,), sigma > 0."""
        basis = self.basis.to(x.dtype)
        sigma = torch.as_tensor(self.schedule(t.to(torch.float64))[1]).to(x.dtype)
        inside: Tensor = self.inner(x @ basis, t, cond)
        return (inside @ basis.T - x) / expand(sigma.square(), x)
