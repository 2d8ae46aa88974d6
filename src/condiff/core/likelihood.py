"""Log-likelihood by the probability flow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.process import Process
from condiff.core.rng import Rng
from condiff.core.shapes import instant


class Scored(Process[Moments], Protocol):
    """A process whose flow ends in a known density: Gaussian with normal noise."""

    def flow_frame(self, t: Tensor) -> tuple[float, float, float]:
        """Return (size, tau, scale): y = x / size moves by dy/dtau = scale * noise - data, tau from 0 to at most 1."""
        ...

    def flow_time(self, tau: float) -> Tensor:
        """Return the time t at which the flow clock reads tau."""
        ...

    def log_prior(self, x: Tensor) -> Tensor:
        """Return the log-density of the state at t = 1, nats, shape (B,)."""
        ...


def log_likelihood(
    process: Scored,
    denoiser: Denoiser[Moments],
    data: Tensor,
    *,
    cond: Condition | None = None,
    num_steps: int = 100,
    rng: Rng | None = None,
    num_probes: int = 1,
) -> Tensor:
    """Return the log-density of clean data under the model, in nats, shape (B,).

    log p(x_0) = log prior(x_1) + integral over t of div dx/dt, along the flow from the data to the noise. It is
    integrated by the midpoint rule in flow coordinates, which never asks the network at either end.

    Args:
        process: A Gaussian process with normal noise.
        denoiser: Estimates the means; it must be differentiable.
        data: Clean data (B, *S) in the process's space.
        cond: Condition of all rows.
        num_steps: Midpoint steps, two network calls each; the error falls with its square.
        rng: Probes of Hutchinson's estimate, one stream a row; None computes the exact divergence with one backward
            pass for every dimension.
        num_probes: Probes a step, averaged.

    Source: Chen et al. 2018 (instantaneous change of variables); Grathwohl et al. 2019 (probes); Song et al. 2021.
    """
    process = process.given(cond)
    end = process.flow_frame(instant(1.0, data.device))
    begin = process.flow_frame(instant(0.0, data.device))
    probes = None
    if rng is not None:
        shape = (data.shape[0], num_probes, *data.shape[1:])
        probes = torch.where(rng.uniform(shape) < 0.5, -1.0, 1.0).to(data)
    y, total = data / begin[0], data.new_zeros(data.shape[0])
    # A quadratic grid: the field bends most where little noise is left.
    ramp = torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64) ** 2
    nodes = (begin[1] + ramp * (end[1] - begin[1])).tolist()

    def slope(y: Tensor, tau: float) -> Tensor:
        t = process.flow_time(tau)
        size, _, scale = process.flow_frame(t)
        est = denoiser(y * size, t.to(y.device), cond)
        return est.combine({"data": -1.0, "noise": scale})

    for a, b in pairwise(nodes):
        middle = 0.5 * (a + b)
        with torch.no_grad():
            # The first half step starts at its midpoint too, so that tau = 0 is never asked.
            half = y + (middle - a) * slope(y, max(a, 0.25 * b))
        k, divergence = _divergence(slope, half, middle, probes)
        y, total = y + (b - a) * k, total + (b - a) * divergence
    log_volume = data[0].numel() * torch.log(torch.tensor(end[0] / begin[0], dtype=torch.float64)).item()
    return process.log_prior(y * end[0]) + total + log_volume


def _divergence(
    slope: Callable[[Tensor, float], Tensor], y: Tensor, tau: float, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = y.detach().requires_grad_(True)
        k = slope(leaf, tau)
        total = y.new_zeros(y.shape[0])
        if probes is None:
            flat = k.flatten(1)
            for i in range(flat.shape[1]):
                (grad,) = torch.autograd.grad(flat[:, i].sum(), leaf, retain_graph=True)
                total = total + grad.flatten(1)[:, i]
        else:
            for i in range(probes.shape[1]):
                probe = probes[:, i]
                (grad,) = torch.autograd.grad(k, leaf, probe, retain_graph=True)
                total = total + (grad * probe).flatten(1).sum(1) / probes.shape[1]
    return k.detach(), total
