"""Exact guidance by a linear reward, with no training: the covariance term that makes it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Moments
from condiff.core.shapes import expand
from condiff.process.gaussian import Gaussian


@final
@dataclass(frozen=True)
class LinearReward:
    """log p(y = target | x_t) for y = theta . data + bias + noise * z: an energy for `Guided`.

    grad = (target - theta . data_hat - bias) / (noise^2 + theta^T C theta) * J^T theta,
    C = Cov(data | x_t) = (sigma^2 / alpha) J, J = d data_hat / d x_t

    Exact for Gaussian data, where C does not depend on the state; elsewhere it treats data | x_t as Gaussian. Both the
    gradient and theta^T C theta come from one backward pass. Without the covariance term the pull is far too strong at
    high noise, and a reward read off the noisy state points off the data's subspace.

    Args:
        process: The process of the states.
        theta: Weights (D,) of the flattened data.
        target: The reward to condition on.
        noise: Standard deviation of the reward around theta . data + bias, > 0.
        bias: Constant of the reward.

    Source: Bayes' rule and the second-order Tweedie formula (Boys et al. 2023, eq. 9), for any (alpha, sigma).
    """

    process: Gaussian
    theta: Tensor
    target: float
    noise: float
    bias: float = 0.0

    def __post_init__(self) -> None:
        if self.theta.ndim != 1 or not self.noise > 0.0:
            raise ValueError(
                f"LinearReward needs theta (D,) and noise > 0, got {tuple(self.theta.shape)}, {self.noise}"
            )

    def __call__(self, x: Tensor, t: Tensor, est: Moments, cond: Condition | None) -> Tensor:
        """Return the log-likelihood of the target up to a constant, (B,)."""
        theta = self.theta.to(x)
        reward = est.parts["data"].flatten(1) @ theta + self.bias
        (pull,) = torch.autograd.grad(reward.sum(), x, retain_graph=True)
        alpha, sigma = (torch.as_tensor(c, dtype=x.dtype, device=x.device) for c in self.process.coefficients(t))
        along = pull.flatten(1) @ theta  # theta^T J theta
        # At alpha = 0 the state says nothing of the data: J = 0 there and `tilt` leaves the guidance out.
        ratio = torch.where(alpha > 0, sigma.square() / alpha.clamp_min(1e-30), 0.0)
        spread = self.noise**2 + (expand(ratio, along) * along).clamp_min(0.0)
        return -0.5 * (self.target - reward).square() / spread.detach()
