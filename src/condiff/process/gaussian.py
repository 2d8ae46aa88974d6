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
from condiff.core.shapes import Scalar, instant, kept, known, mix, scale
from condiff.process.fresh import FixedSmall, Fresh
from condiff.process.noise import Normal
from condiff.process.scalar import choose, clip, holds, missing, ratio, sqrt
from condiff.process.target import Score


@final
@dataclass(frozen=True)
class Gaussian:
    """x_t = alpha(t) * data + sigma(t) * noise: VP, VE, EDM, flow matching, PFGM++ by schedule and noise law.

    Args:
        schedule: alpha and sigma as functions of t in [0, 1].
        noise: Law of the noise latent.
        fresh: How much fresh noise stochastic steps add.
    """

    schedule: Schedule
    noise: NoiseLaw = field(default_factory=Normal)
    fresh: Fresh = field(default_factory=FixedSmall)

    def given(self, cond: Condition | None) -> Self:
        """Return itself: the corruption does not depend on a condition."""
        return self

    def coefficients(self, t: Tensor) -> tuple[Scalar, Scalar]:
        """Return (alpha, sigma) at t: floats where the host knows a shared time, else tensors of t's shape."""
        return kept(t, ("coefficients", self.schedule), lambda: self._at(t, self.schedule))

    def rates(self, t: Tensor) -> Row:
        """Return the velocity's row, the time derivatives of alpha and sigma."""
        d_alpha, d_sigma = self._at(t, self.schedule.rates)
        return {"data": d_alpha, "noise": d_sigma}

    def level(self, t: Tensor) -> Scalar:
        """Return sigma at t: the score is -noise / sigma."""
        return self.coefficients(t)[1]

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t.

        Raises:
            TypeError: For Score with a noise law whose score is not -noise / sigma.
        """
        self._check(target)
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

    @property
    def end(self) -> str:
        """Name of the latent that is left at t = 1, but for alpha(1) of the data."""
        return "noise"

    def draw_end(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Draw noise of shape (B, *S)."""
        return self.noise.draw(shape, rng)

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
            TypeError: For Score with a noise law whose score is not -noise / sigma.
            ValueError: When a mean is read where the target does not determine it (det = 0 or infinite).

        Source: notation section 3 of the docs; Salimans and Ho 2022 for the V case.
        """
        self._check(target)
        return Moments(Affine(x, t, out, self, target), aux or {})

    def weights(self, target: Target, t: Tensor, row: Row) -> tuple[Scalar, Scalar]:
        """Return (a, b) with row_data * data + row_noise * noise = a x + b out, where out estimates a target at t.

        a = (row_data r_noise - row_noise r_data) / det, b = (alpha row_noise - sigma row_data) / det; (0, 1) where the
        row is the target's own, else nan where det = 0 or infinite: there the state and the target say nothing of it.
        """
        native = self.row(target, t)
        if not row.keys() <= native.keys():
            raise KeyError(f"the hidden variables of a Gaussian process are data and noise; got {sorted(row)}")
        r_data, r_noise = native["data"], native["noise"]
        w_data, w_noise = row.get("data", 0.0), row.get("noise", 0.0)
        alpha, sigma = self.coefficients(t)
        det = alpha * r_noise - sigma * r_data
        own = len(row) == len(native) and (w_data == r_data) & (w_noise == r_noise)
        bad = _singular(det)
        a = choose(bad, math.nan, ratio(w_data * r_noise - w_noise * r_data, det))
        b = choose(bad, math.nan, ratio(alpha * w_noise - sigma * w_data, det))
        return choose(own, 0.0, a), choose(own, 1.0, b)

    def read(self, target: Target, t: Tensor, row: Row) -> tuple[Scalar, Scalar]:
        """Return `weights`.

        Raises:
            ValueError: Where the target does not determine them.
        """
        if any(isinstance(value, Tensor) for value in row.values()):  # no name for it
            return self._read(target, t, row)
        return kept(t, ("read", self.schedule, target, *row.items()), lambda: self._read(target, t, row))

    def _read(self, target: Target, t: Tensor, row: Row) -> tuple[Scalar, Scalar]:
        a, b = self.weights(target, t, row)
        if holds(missing(a)):
            self._refuse(target, t)
        return a, b

    def _refuse(self, target: Target, t: Tensor) -> None:
        row = self.row(target, t)
        alpha, sigma = self.coefficients(t)
        bad = torch.as_tensor(_singular(alpha * row["noise"] - sigma * row["data"]))
        if bool(bad.any()):
            raise ValueError(
                f"{target} does not determine data and noise under {self.schedule} at "
                f"t = {float(t[bad].flatten()[0] if bad.ndim else t):g}; "
                "keep the grid away from that end, or predict V, EDM or Velocity"
            )

    def complete(self, x: Tensor, t: Tensor, data: Tensor, aux: Mapping[str, Tensor] | None = None) -> Moments:
        """Build moments from a data estimate (B, *S): the noise follows from the state where sigma > 0."""
        from condiff.process.target import Data

        return self.infer(x, t, data, Data(), aux)

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at time s given the state at time t and an estimate of what made it.

        x_s = alpha_s * data + sigma_s * (sqrt(1 - tau) * noise + sqrt(tau) * fresh),
        tau = eta^2 * (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2); `FixedLarge` multiplies fresh by sigma_t / sigma_s

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
        row = self.jump(t, s, eta=eta)
        mean = est.add_to(row["x"], x, {"data": row["data"], "noise": row["noise"]})
        return mean if eta == 0.0 else mix(1.0, mean, row["fresh"], self.noise.draw(x.shape, rng).to(x))

    def jump(self, t: Tensor, s: Tensor, *, eta: float) -> Row:
        """Return the row of `reverse`: x_s = row_x x + row_data data + row_noise noise + row_fresh fresh.

        At eta = 0 the noise is eliminated by means of the state: finite at sigma_s = 0 and alpha_t = 0, and its
        estimate is needed only where sigma_t = 0, as when inversion starts from data. Arguments and errors as there.
        """
        alpha_t, sigma_t = self.coefficients(t)
        alpha_s, sigma_s = self.coefficients(s)
        if eta == 0.0:
            clean = sigma_t == 0.0
            x = choose(clean, 0.0, ratio(sigma_s, sigma_t))
            return {"x": x, "data": alpha_s - alpha_t * x, "noise": choose(clean, sigma_s, 0.0), "fresh": 0.0}
        tau = self._redrawn(_carried(alpha_t * sigma_s, alpha_s * sigma_t), eta)
        level = self.fresh.level(sigma_t, sigma_s)
        return {"x": 0.0, "data": alpha_s, "noise": sigma_s * sqrt(1.0 - tau), "fresh": level * sqrt(tau)}

    def _redrawn(self, carried: Scalar, eta: float) -> Scalar:
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        if not self.noise.additive:
            raise TypeError(f"{self.noise} is not additive, so a part of it cannot be redrawn; use eta = 0")
        tau = eta**2 * (1.0 - carried * carried)
        if holds(tau < -1e-9):
            raise ValueError("a stochastic step needs s <= t; use eta = 0 to run time upwards")
        return clip(tau, 0.0, 1.0)

    def settle(self, x: Tensor, t: Tensor, s: Tensor, est: Moments) -> Tensor:
        """Return the deterministic jump to s, exact while the estimate stays."""
        row = self.jump(t, s, eta=0.0)
        return est.add_to(row["x"], x, {"data": row["data"], "noise": row["noise"]})

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

    def _check(self, target: Target) -> None:
        if isinstance(target, Score) and not self.noise.standard:
            raise TypeError(
                f"Score needs Normal noise: the score of {self.noise} is not -noise / sigma; use EDM, V or Noise"
            )

    def _at(self, t: Tensor, function: Callable[..., tuple[Scalar, Scalar]]) -> tuple[Scalar, Scalar]:
        return function(known(t))


def _carried(a: Scalar, b: Scalar) -> Scalar:
    # 0 / 0 is a step of no length at an end of time: all noise is carried over.
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.nan_to_num(torch.as_tensor(a) / torch.as_tensor(b), nan=1.0, posinf=math.inf)
    return a / b if b != 0.0 else (1.0 if a == 0.0 else math.inf)


def _singular(det: Scalar) -> Tensor | bool:
    if isinstance(det, Tensor):
        return (det == 0.0) | ~torch.isfinite(det)
    return det == 0.0 or not abs(det) < math.inf  # a graph that holds det as a symbol cannot trace math.isfinite


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
        process.row(target, instant(0.5))  # a target that this noise law does not allow is refused now, not in a loop
        self.net, self.process, self.target, self.sigma_data = net, process, target, sigma_data

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate what made x (B, *S) at time t."""
        return self._read(self.net, x, t, cond)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Moments]:
        """Return the denoiser of one condition; a loop of many steps saves the call of this module, not of its net."""
        if self._forward_hooks or self._forward_pre_hooks:
            return lambda x, t: self(x, t, cond)
        net = self.net
        return lambda x, t: self._read(net, x, t, cond)

    def _read(self, net: nn.Module, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        out = net(x if self.sigma_data is None else self._scaled(x, t, self.sigma_data), t, cond)
        out, aux = out if isinstance(out, tuple) else (out, {})
        return Moments(Affine(x, t, out if out.dtype is x.dtype else out.to(x.dtype), self.process, self.target), aux)

    def _scaled(self, x: Tensor, t: Tensor, sigma_data: float) -> Tensor:
        def factor() -> Scalar:
            alpha, sigma = self.process.coefficients(t)
            return 1.0 / sqrt(alpha * alpha * sigma_data**2 + sigma * sigma)

        return scale(kept(t, ("input", self.process.schedule, sigma_data), factor), x)
