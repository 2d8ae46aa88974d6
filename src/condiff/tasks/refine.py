"""Refining another forecaster's output by what an unconditional system knows of whole windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser, bind
from condiff.core.estimate import Moments
from condiff.core.rng import Rng, RowRng, key
from condiff.core.shapes import instant
from condiff.core.system import System
from condiff.data.tracks import Track
from condiff.data.windows import cut, laid_out
from condiff.evaluate.series import ensemble_quantiles
from condiff.guidance.energy import Energy
from condiff.guidance.observed import FLAGS, LEVEL, OBSERVED, Pinball
from condiff.nn.lookback import observations
from condiff.process.gaussian import Gaussian
from condiff.tasks.forecast import MEMORY, MOST_DRAWS, Forecaster, Progress, extended, levels_of, rows_within, window_of
from condiff.tasks.generate import evaluating


@final
@dataclass(frozen=True)
class Refiner:
    """Descends the energy of a sample: how surprising a system finds it, and how far it is from where it began.

    E(y) = |noise - noise_hat(alpha y + sigma noise, tau)|^2 + weight R(y, base), sums over a sample, fresh noise a step
    y <- y - step grad E + sqrt(2 step temperature) z

    Temperature 0 goes to the most likely sample, a positive one draws around it (Langevin).

    Args:
        denoiser: An unconditional denoiser.
        process: The process of its states.
        time: tau, the one time that stands for all; see `representative_time`.
        prior: -R as a log-density of the sample, given base, flags and levels as it reads them off an estimate's aux.
        weight: Of R, >= 0.
        step: Step size, > 0.
        temperature: >= 0.
        num_steps: Steps, >= 0.
        antithetic: Average over each noise and its negative: twice the cost, less variance.

    Source: Kollovieh et al. 2023 (TSDiff), refinement; their defaults are 20 steps of 0.1, and temperature 0.01 for
        Langevin (0.1 as a factor of the noise in their code).
    """

    denoiser: Denoiser[Moments]
    process: Gaussian
    time: float
    prior: Energy
    weight: float = 1.0
    step: float = 0.1
    temperature: float = 0.0
    num_steps: int = 20
    antithetic: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.time <= 1.0 or not self.step > 0.0 or min(self.weight, self.temperature, self.num_steps) < 0:
            raise ValueError(f"Refiner needs 0 < time <= 1, a step > 0 and no negative number, got {self}")

    @torch.no_grad()
    def __call__(
        self,
        base: Tensor,
        *,
        flags: Tensor | None = None,
        level: Tensor | None = None,
        cond: Condition | None = None,
        rng: Rng,
    ) -> Tensor:
        """Refine samples.

        Args:
            base: Where they begin, (B, *S).
            flags: 1 where R holds a sample to its base, (B, *S); everywhere if None.
            level: Quantile level of each sample (B, 1), for a pinball R.
            cond: What the denoiser is told.
            rng: Source of the noise.

        Returns: Samples (B, *S).
        """
        denoise, t = bind(self.denoiser, cond), instant(self.time, base.device)
        alpha, sigma = (float(c) for c in self.process.coefficients(t))
        aux = {OBSERVED: base, FLAGS: torch.ones_like(base) if flags is None else flags}
        if level is not None:
            aux[LEVEL] = level
        y = base.clone()
        for _ in range(self.num_steps):
            noise = rng.normal(base.shape).to(base)
            with torch.enable_grad():
                leaf = y.detach().requires_grad_(True)
                signs = (1.0, -1.0) if self.antithetic else (1.0,)
                total = -self.weight * self.prior(leaf, t, Moments({"data": leaf}, aux), cond).sum()
                for sign in signs:
                    guess = denoise(alpha * leaf + sign * sigma * noise, t).parts["noise"]
                    total = total + (sign * noise - guess).square().sum() / len(signs)
                grad = torch.autograd.grad(total, leaf)[0]
            y = y - self.step * grad
            if self.temperature > 0.0:
                y = y + math.sqrt(2.0 * self.step * self.temperature) * rng.normal(base.shape).to(base)
        return y


@torch.no_grad()
def representative_time(
    denoiser: Denoiser[Moments],
    process: Gaussian,
    data: Tensor,
    times: Sequence[float],
    *,
    cond: Condition | None = None,
    rng: Rng,
) -> float:
    """Return the time whose loss on a batch is nearest to the mean loss over all times.

    Args:
        denoiser: The denoiser.
        process: The process of its states.
        data: A batch in the process's space, (B, *S).
        times: Times to choose from.
        cond: Condition of the batch.
        rng: Source of the noise.

    Source: Kollovieh et al. 2023 (TSDiff), the representative step; the loss is that of the noise.
    """
    losses = []
    for time in times:
        draw = process.draw(data, instant(time, data.device), rng=rng)
        guess = denoiser(draw.x, draw.t, cond).parts["noise"]
        losses.append(float((guess - draw.latents["noise"]).square().mean()))
    mean = sum(losses) / len(losses)
    return min(zip(times, losses, strict=True), key=lambda pair: abs(pair[1] - mean))[0]


@final
@dataclass(frozen=True)
class Refined:
    """Another forecaster, refined window by window by an unconditional system.

    Its draws are sorted step by step, so that draw k of N stands for level k / (N + 1); a point forecast is N times the
    same. A series whose history never changes keeps its forecast.

    Args:
        base: The forecaster.
        system: An unconditional system of windows, such as `tsdiff`.
        refiner: How; its denoiser is the system's.
        everywhere: Does R hold the whole window to the base, or only what was observed of it, so that the forecast is
            only where the descent begins? The paper and the official quantile code do the first, its squared one the
            second.
        memory: Budget of working memory in MiB.
        progress: Told how far it is.
    """

    base: Forecaster
    system: System[Any, Any]
    refiner: Refiner
    everywhere: bool = True
    memory: int = MEMORY
    progress: Progress = lambda done, total: None

    @property
    def paths(self) -> bool:
        """Sorted draws are no paths."""
        return False

    def __call__(self, tracks: Sequence[Track], horizon: int, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Forecast; see `Forecaster`.

        Raises:
            ValueError: If the horizon is beyond the system's.
            RuntimeError: If a draw is not finite.
        """
        window = window_of(self.system)
        if horizon > window.horizon:
            raise ValueError(f"this system refines windows of {window.horizon} steps, not {horizon}; train another")
        ends = [extended(track, window, 1) for track in tracks]
        windows = cut(window, ends, np.array([[number, len(track)] for number, track in enumerate(ends)]))
        data, seen = laid_out(window, windows)
        draws = self.base(ends, window.horizon, num_samples=num_samples, seed=seed).sort(1).values
        if draws.shape[1] != num_samples:  # a forecaster by quantiles has its own number of them
            draws = ensemble_quantiles(draws, levels_of(torch.arange(num_samples), num_samples)[:, 0].tolist())
        centre, scale = (torch.from_numpy(part)[:, None] for part in (windows.centre, windows.scale))
        system = evaluating(self.system)
        out, rows = draws.flatten(0, 1).clone(), len(tracks) * num_samples
        size = rows_within(self.memory, system, seen, gradients=True)
        for start in range(0, rows, size):
            index = torch.arange(start, min(start + size, rows))
            which, draw = index // num_samples, index % num_samples
            given = seen.rows(which)
            window_rows = data[which].clone()
            unit = torch.where(scale > 0, scale, 1.0)[which]
            window_rows[:, 0, window.context :] = ((out[index] - centre[which]) / unit).float()
            given = given.adding(level=levels_of(draw, num_samples))
            found = observations(given, window.lags, window_rows.dtype)
            refined = self.refiner(
                system.codec.encode(window_rows, given),
                flags=None if self.everywhere else found[FLAGS],
                level=found[LEVEL],
                cond=given,
                rng=RowRng(key(seed, "refine"), (which * MOST_DRAWS + draw).tolist()),
            )
            ahead = system.codec.decode(refined, given)[:, 0, window.context :].double()
            if not bool(torch.isfinite(ahead).all()):
                raise RuntimeError("some refined draws are not finite; use a smaller step")
            changes = scale[which] > 0
            out[index] = torch.where(changes, ahead * unit + centre[which], out[index])
            self.progress(int(index[-1]) + 1, rows)
        return out.reshape(len(tracks), num_samples, -1)[:, :, :horizon]


def refiner_of(
    system: System[Any, Any],
    data: Tensor,
    cond: Condition | None,
    *,
    seed: int = 0,
    **settings: Any,  # noqa: ANN401
) -> Refiner:
    """Make the refiner of a trained system, its representative time found on a batch of user data.

    Args:
        system: An unconditional system such as `tsdiff`.
        data: Training windows (B, 1, L).
        cond: Their condition.
        seed: Names the noise of the search.
        settings: Further arguments of `Refiner`; the prior is `Pinball` unless given.
    """
    system = evaluating(system)
    times = system.grid(system.num_steps).tolist()[:-1]
    time = representative_time(
        system.denoiser,
        system.process,
        system.codec.encode(data, cond),
        times,
        cond=cond,
        rng=RowRng(seed, range(len(data))),
    )
    return Refiner(system.denoiser, system.process, time, **{"prior": Pinball(), **settings})
