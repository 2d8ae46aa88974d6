"""The one-sided process x_t = alpha(t) * data + sigma(t) * noise, and the network wrapper that reads it.

Source: the (alpha, sigma) form of Kingma et al. 2021; jumps from Song et al. 2021 (DDIM) for any schedule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Affine, Moments, Row
from condiff.core.process import Draw, NoiseLaw, Schedule, Target
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, host, instant, known, mix, scale
from condiff.process.noise import Normal
from condiff.process.target import Score


@final
@dataclass(frozen=True)
class Gaussian:
    """x_t = alpha(t) * data + sigma(t) * noise: VP, VE, EDM, flow matching, PFGM++ by schedule and noise law.

    Args:
        schedule: alpha and sigma as functions of t in [0, 1].
        noise: Law of the noise latent.
    """

    schedule: Schedule
    noise: NoiseLaw = field(default_factory=Normal)

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def coefficients(self, t: Tensor) -> tuple[Scalar, Scalar]:
        """Return (alpha, sigma) at t: floats where the host knows a shared time, else tensors of t's shape."""
        return self._at(t, self.schedule)

    def rates(self, t: Tensor) -> Row:
        """Return the velocity's row, the time derivatives of alpha and sigma."""
        d_alpha, d_sigma = self._at(t, self.schedule.rates)
        return {"data": d_alpha, "noise": d_sigma}

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t.

        Raises:
            TypeError: For Score with a noise law whose score is not -noise / sigma.
        """
        if isinstance(target, Score) and not self.noise.standard:
            raise TypeError(
                f"Score needs Normal noise: the score of {self.noise} is not -noise / sigma; use EDM, V or Noise"
            )
        r_data, r_noise = self._at(t, functools.partial(target.row, self.schedule))
        return {"data": r_data, "noise": r_noise}

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Corrupt data to times t; pass noise=... to use noise that is there already.

        Args:
            data: Clean data, shape (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: Source of the noise.
            **known: "noise", shape (B, *S).

        Returns: The draw, with latents "data" and "noise".

        Raises:
            TypeError: If another latent than noise is given.
        """
        if known.keys() - {"noise"}:
            raise TypeError(f"Gaussian has latents data and noise; got {sorted(known)}")
        noise = known["noise"] if "noise" in known else self.noise.draw(data.shape, rng).to(data)
        alpha, sigma = self.coefficients(t)
        return Draw(mix(alpha, data, sigma, noise), t, {"data": data, "noise": noise})

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Draw sigma(1) * noise, the state at t = 1 but for the alpha(1) * data left there.

        Raises:
            TypeError: If a source is given: this process has none.
        """
        if source is not None:
            raise TypeError("Gaussian starts from noise and has no source; use Interpolant to start from data")
        _, sigma = self.coefficients(instant(1.0))
        return scale(sigma, self.noise.draw(shape, rng))

    def infer(
        self, x: Tensor, t: Tensor, out: Tensor, target: Target, aux: Mapping[str, Tensor] | None = None
    ) -> Moments:
        """Read the posterior means off the state and an estimate of a target.

        data = (r_noise * x - sigma * out) / det, noise = (alpha * out - r_data * x) / det,
        det = alpha * r_noise - sigma * r_data

        Args:
            x: State, shape (B, *S).
            t: Times, any prefix shape of x.
            out: Estimate of the target, shape (B, *S).
            target: Which row `out` estimates.
            aux: Extra network outputs to hand on.

        Returns: Moments with lazy parts "data" and "noise".

        Raises:
            ValueError: When a mean is read where the target does not determine it (det = 0 or infinite).

        Source: notation section 3 of the docs; Salimans and Ho 2022 for the V case.
        """
        row = self.row(target, t)

        def solve() -> dict[str, tuple[Scalar, Scalar]]:
            alpha, sigma = self.coefficients(t)
            r_data, r_noise = row["data"], row["noise"]
            det = alpha * r_noise - sigma * r_data
            if _singular(det):
                raise ValueError(
                    f"{target} does not determine data and noise under {self.schedule} at t = {_first_bad(det, t):g}; "
                    "keep the grid away from that end, or predict V, EDM or Velocity"
                )
            return {"data": (r_noise / det, -sigma / det), "noise": (-r_data / det, alpha / det)}

        return Moments(Affine(x, out, row, target, solve), aux or {})

    def complete(self, x: Tensor, t: Tensor, data: Tensor, aux: Mapping[str, Tensor] | None = None) -> Moments:
        """Build moments from a data estimate (B, *S): the noise follows from the state where sigma > 0."""
        from condiff.process.target import Data

        return self.infer(x, t, data, Data(), aux)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at time s given the state at time t and an estimate of what made it.

        x_s = alpha_s * data + sigma_s * (sqrt(1 - tau) * noise + sqrt(tau) * fresh),
        tau = eta^2 * (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)

        Args:
            x: State at time t, shape (B, *S).
            t, s: Times in [0, 1], any prefix shape of x; s > t inverts.
            est: Posterior means, each (B, *S).
            eta: 0 is deterministic (DDIM), 1 is ancestral (DDPM).
            rng: Source of the fresh noise, read only if eta > 0.

        Returns: State at time s, shape (B, *S).

        Raises:
            TypeError: If eta > 0 and the noise law is not additive.
            ValueError: If eta is not in [0, 1], or eta > 0 with s > t.

        Source: Song et al. 2021 (DDIM), eq. 12 and 16, written for any (alpha, sigma).
        """
        alpha_t, sigma_t = self.coefficients(t)
        alpha_s, sigma_s = self.coefficients(s)
        if eta == 0.0:
            return self._jump(x, est, alpha_t, sigma_t, alpha_s, sigma_s)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        if not self.noise.additive:
            raise TypeError(f"{self.noise} is not additive, so a part of it cannot be redrawn; use eta = 0")
        carried = _carried(alpha_t * sigma_s, alpha_s * sigma_t)
        tau = eta**2 * (1.0 - carried * carried)
        if isinstance(tau, Tensor):
            if host(t) is None and host(s) is None and not torch.compiler.is_compiling() and bool((tau < -1e-9).any()):
                raise ValueError("a stochastic step needs s <= t; use eta = 0 to run time upwards")
            tau = tau.clamp_min(0.0)
        elif tau < -1e-9:
            raise ValueError(f"a stochastic step needs s <= t; use eta = 0 to run time upwards (tau = {tau:g})")
        else:
            tau = max(tau, 0.0)
        fresh = self.noise.draw(x.shape, rng).to(x)
        mean = est.combine({"data": alpha_s, "noise": sigma_s * _root(1.0 - tau)})
        return mix(1.0, mean, sigma_s * _root(tau), fresh)

    def _jump(
        self, x: Tensor, est: Moments, alpha_t: Scalar, sigma_t: Scalar, alpha_s: Scalar, sigma_s: Scalar
    ) -> Tensor:
        # alpha_s * data + sigma_s * noise with the noise eliminated: finite at sigma_s = 0 and alpha_t = 0, and it
        # needs the noise estimate only where sigma_t = 0, as when inversion starts from data.
        if isinstance(sigma_t, Tensor) or sigma_t == 0.0:
            return est.combine({"data": alpha_s, "noise": sigma_s})
        return est.add_to(sigma_s / sigma_t, x, {"data": alpha_s - alpha_t * sigma_s / sigma_t})

    def velocity(self, x: Tensor, t: Tensor, est: Moments) -> Tensor:
        """Return dx/dt = alpha' * data + sigma' * noise, shape (B, *S)."""
        return est.combine(self.rates(t))

    def tilt(self, x: Tensor, t: Tensor, est: Moments, grad: Tensor) -> Moments:
        """Return the estimate under density p(x_t) * exp(energy), given grad = d energy / d x_t.

        noise - sigma * C grad, data + (sigma^2 / alpha) * C grad, with C the covariance of the noise

        Where alpha = 0 the state says nothing about the data and the tilt is left out.

        Raises:
            TypeError: If the noise law is not additive (Tweedie's formula does not hold).

        Source: Dhariwal and Nichol 2021, eq. 14, by Tweedie's formula.
        """
        if not self.noise.additive:
            raise TypeError(f"Tweedie's formula does not hold for {self.noise}; gradient guidance needs normal noise")
        alpha, sigma = self.coefficients(t)
        push = self.noise.covary(grad)
        if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
            alpha, sigma = torch.as_tensor(alpha), torch.as_tensor(sigma)
            gain: Scalar = torch.where(alpha > 0, sigma * sigma / alpha.clamp_min(1e-30), 0.0)
            loss: Scalar = torch.where(alpha > 0, -sigma, 0.0)
        else:
            gain, loss = (sigma * sigma / alpha, -sigma) if alpha > 0.0 else (0.0, 0.0)
        return Moments(
            {"data": mix(1.0, est.parts["data"], gain, push), "noise": mix(1.0, est.parts["noise"], loss, push)},
            est.aux,
        )

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Return x if sigma(0) = 0, else the data estimate at t = 0: the textbook last step to zero noise."""
        end = instant(0.0)
        _, sigma = self.coefficients(end)
        return x if not isinstance(sigma, Tensor) and sigma == 0.0 else denoise(x, end).parts["data"]

    def flow_frame(self, t: Tensor) -> tuple[float, float, float]:
        """Return (size, tau, 1) of flow coordinates at a shared time: y = x / size, tau = sigma / (alpha + sigma)."""
        alpha, sigma = self.schedule(float(t))
        return alpha + sigma, sigma / (alpha + sigma), 1.0

    def flow_time(self, tau: float) -> Tensor:
        """Return the time at which sigma / (alpha + sigma) is tau."""
        ends = [self.flow_frame(instant(value))[1] for value in (0.0, 1.0)]
        if tau <= ends[0]:
            return instant(0.0)
        return instant(1.0) if tau >= ends[1] else instant(self.schedule.time(2.0 * (math.log1p(-tau) - math.log(tau))))

    def log_prior(self, x: Tensor) -> Tensor:
        """Return the log-density of sigma(1) * noise, nats, shape (B,): the alpha(1) * data left there is ignored.

        Raises:
            TypeError: If the noise is not Normal.
        """
        if not self.noise.standard:
            raise TypeError(f"a likelihood needs Normal noise, got {self.noise}")
        sigma = self.schedule(1.0)[1]
        flat = x.flatten(1) / sigma
        return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2.0 * math.pi * sigma**2))

    def _at(self, t: Tensor, function: Callable[..., tuple[Scalar, Scalar]]) -> tuple[Scalar, Scalar]:
        return function(known(t))


def _carried(a: Scalar, b: Scalar) -> Scalar:
    # 0 / 0 is a step of no length at an end of time: all noise is carried over.
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.nan_to_num(torch.as_tensor(a) / torch.as_tensor(b), nan=1.0, posinf=math.inf)
    return a / b if b != 0.0 else (1.0 if a == 0.0 else math.inf)


def _root(value: Scalar) -> Scalar:
    return torch.sqrt(value) if isinstance(value, Tensor) else math.sqrt(value)


def _singular(det: Scalar) -> bool:
    if isinstance(det, Tensor):
        # Tracing cannot branch on a value; a compiled step with per-row times relies on its caller's grid.
        return not torch.compiler.is_compiling() and bool(((det == 0) | ~torch.isfinite(det)).any())
    return det == 0.0 or not abs(det) < math.inf  # a graph that holds det as a symbol cannot trace math.isfinite


def _first_bad(det: Scalar, t: Tensor) -> float:
    if not isinstance(det, Tensor) or det.ndim == 0:
        return float(t)
    return float(t[(det == 0) | ~torch.isfinite(det)].flatten()[0])


@final
class Preconditioned(nn.Module):
    """A network read as a denoiser: scales its input, and turns its output into posterior means.

    out = net(x / q(t), t, cond), q = sqrt(alpha^2 sigma_data^2 + sigma^2); means as in `Gaussian.infer`

    Args:
        net: Module called as net(x, t, cond) with x (B, *S) and t of prefix shape; returns (B, *S), or a pair of that
            and a mapping of extra outputs that becomes the estimate's `aux`.
        process: The process that made x.
        target: What the network regresses.
        sigma_data: Standard deviation of the data for the input scaling; None leaves the input as it is.

    The network sees the process clock itself, not log-SNR: on LogLinear the two are the same up to scale, and on the
    others t is finite at both ends. Source: Karras et al. 2022, eq. 7, for the input scaling.
    """

    def __init__(self, net: nn.Module, process: Gaussian, target: Target, sigma_data: float | None = None) -> None:
        super().__init__()
        self.net, self.process, self.target, self.sigma_data = net, process, target, sigma_data

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate what made x (B, *S) at time t."""
        out, aux = _unpack(self.net(self._scaled(x, t), t, cond))
        out = out if out.dtype == x.dtype else out.to(x.dtype)
        return self.process.infer(x, t, out, self.target, aux)

    def _scaled(self, x: Tensor, t: Tensor) -> Tensor:
        if self.sigma_data is None:
            return x
        alpha, sigma = self.process.coefficients(t)
        square = alpha * alpha * self.sigma_data**2 + sigma * sigma
        return scale(1.0 / _root(square), x)


def _unpack(result: Tensor | tuple[Tensor, Mapping[str, Tensor]]) -> tuple[Tensor, Mapping[str, Tensor]]:
    return result if isinstance(result, tuple) else (result, {})
