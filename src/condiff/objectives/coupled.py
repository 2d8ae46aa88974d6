"""Training on coupled pairs: the noise or the sources of a batch are re-paired or weighed before the loss is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Moments
from condiff.core.objective import Loss
from condiff.core.process import Draw, Ended
from condiff.core.rng import Rng
from condiff.objectives.denoising import Denoising
from condiff.process.coupling import Coupling
from condiff.process.timelaw import draw_times


@final
@dataclass(frozen=True)
class Coupled:
    """A denoising loss on pairs of a coupling: data and noise depend on each other, or pairs count differently.

    loss_b = weight_b * inner loss of (data_b, noise_b), with (noise, weight) from the coupling. For a bridge it is the
    source that is paired, and the network must not see the condition it came from. `Sinkhorn(4 * eps)` on a
    `Straight(Brownian(2 * eps))` bridge, sampled by `SDE(Constant(eps))`, is a Schroedinger bridge.

    Its minimiser is the velocity of that joint law; times, target and network are those of the inner objective. With
    `Independent` it is the inner objective, bit for bit. Rows of a batch depend on each other, which is for training
    only; with an injected draw the pairs are given, and the inner loss is returned unweighted.

    Args:
        inner: The objective.
        process: Its process: Gaussian, or a bridge.
        coupling: Who is paired with whom.

    Source: Tong et al. 2024 (CFM, algorithm 3); Calvo-Ordonez et al. 2025 for weights.
    """

    inner: Denoising
    process: Ended
    coupling: Coupling

    def __call__(
        self,
        denoiser: Denoiser[Moments],
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the weighted loss rows of data (B, *S)."""
        if draw is not None:
            return self.inner(denoiser, data, cond, rng=rng, draw=draw)
        shape = data.shape[: self.inner.time_axes]
        t = draw_times(self.inner.times, shape, schedule=self.process.schedule, rng=rng).to(data.device)
        process = self.process.given(cond)
        fresh = process.draw_end(data.shape, rng=rng).to(data)
        paired, weight = self.coupling.couple(data, fresh, cond, rng=rng)
        draw = process.draw(data, t, rng=rng, **{process.end: paired})
        rows = self.inner(denoiser, data, cond, rng=rng, draw=draw).rows
        return Loss(rows if weight is None else rows * weight.to(rows))
