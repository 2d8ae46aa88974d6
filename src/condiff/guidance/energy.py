"""Guidance by a gradient: a classifier on the noisy state, or a loss on the clean estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.process import Tiltable


class Energy(Protocol):
    """A log-density to add, up to a constant: higher is wanted more."""

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return one number a row (B,), differentiable in x."""
        ...


def pulled(
    denoise: Callable[[Tensor, Tensor], Moments], energy: Energy, x: Tensor, t: Tensor, cond: Condition | None = None
) -> tuple[Moments, Tensor | None]:
    """Return the estimate at x (B, *S), and the gradient of an energy of it there.

    Args:
        denoise: The denoiser, its condition bound.
        energy: One number a row.
        x, t: State and its times.
        cond: What the energy is told.

    Returns: The estimate as the denoiser gave it (its graph is spent), and the gradient shaped like x, or None if the
        energy does not depend on x.

    Raises:
        ValueError: If the energy does not return one number a row.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        est = denoise(leaf, t)
        total = energy(leaf, t, est, cond)
        if total.shape != x.shape[:1]:
            raise ValueError(f"an energy returns one number a row, {tuple(x.shape[:1])}, got {tuple(total.shape)}")
        grad = torch.autograd.grad(total.sum(), leaf)[0] if total.requires_grad else None
    return est, grad


@final
@dataclass(frozen=True)
class Guided:
    """A denoiser tilted by exp(scale * energy): est moved by the gradient of the energy at the state.

    Args:
        denoiser: The denoiser to guide, any guidance included.
        process: The process of its states; it knows how a gradient moves an estimate.
        energy: Log-density to add; sums of several with `Sum`.
        scale: Factor of the energy, 1 is Bayes' rule.

    Source: Dhariwal and Nichol 2021 (classifier guidance); Chung et al. 2023 (DPS) for losses on the estimate.
    """

    denoiser: Denoiser[Moments]
    process: Tiltable[Moments]
    energy: Energy
    scale: float = 1.0

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Return the tilted estimate, with one forward and one backward pass; it carries no graph."""
        est, grad = pulled(lambda leaf, t: self.denoiser(leaf, t, cond), self.energy, x, t, cond)
        aux = {name: extra.detach() for name, extra in est.aux.items()}
        plain = Moments({name: part.detach() for name, part in est.parts.items()}, aux)
        if grad is None:
            return plain
        return self.process.tilt(x, t, plain, self.scale * grad)


@final
@dataclass(frozen=True)
class Classifier:
    """log p(condition | x_t) of a classifier trained on noisy states.

    Args:
        log_prob: Called as log_prob(x, t, cond), returns (B,).
    """

    log_prob: Callable[[Tensor, Tensor, Condition | None], Tensor]

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return the log-probability of each row's condition."""
        return self.log_prob(x, t, cond)


@final
@dataclass(frozen=True)
class CleanLoss:
    """Minus a loss of the data estimate: the gradient passes through the denoiser.

    Args:
        loss: Called as loss(data, cond) on the estimate (B, *S), returns (B,).
    """

    loss: Callable[[Tensor, Condition | None], Tensor]

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return minus the loss of each row."""
        return -self.loss(est.parts["data"], cond)


@final
@dataclass(frozen=True)
class Sum:
    """Several energies at once, weighted.

    Args:
        terms: Pairs (weight, energy).
    """

    terms: tuple[tuple[float, Energy], ...]

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return the weighted sum."""
        total = x.new_zeros(x.shape[0])
        for weight, energy in self.terms:
            total = total + weight * energy(x, t, est, cond)
        return total
