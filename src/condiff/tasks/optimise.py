"""Optimisation by conditional sampling: ask for a reward, and see whether the data reach that far.

Maximise an unknown f over designs that look like the data: learn a reward from few labels, train a conditional model on
all rows, then sample rows whose reward is a target. Targets beyond the data are extrapolation; the report says where
that begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.system import System
from condiff.data.batch import Dataset
from condiff.evaluate.support import nn_ratio, off_support
from condiff.nn import Ridge
from condiff.oracles import Spectrum
from condiff.tasks.generate import batches


@final
@dataclass(frozen=True)
class Reached:
    """What the samples of one target turned out to be. Rewards are in the units of the data's file.

    Args:
        target: The reward asked for.
        predicted: Mean reward of the samples by the learned reward.
        error: Mean standard deviation of those predictions' errors: it grows with the distance from the labelled rows.
        true: Mean true reward, where a function for it was given.
        off_support: Mean distance from the data's plane.
        nn_ratio: Median distance to the nearest data row, in units of what is usual between data rows.
    """

    target: float
    predicted: float
    error: float
    true: float | None
    off_support: float
    nn_ratio: float


@final
@dataclass(frozen=True)
class Reach:
    """Targets and what became of them.

    Args:
        rows: One record a target, in increasing order of targets.
        mean: Mean reward of the labelled rows.
        std: Their standard deviation.
        off_support: Mean distance of data rows from the data's plane.
        limit: The largest mean distance of samples that counts as on the data's support.
        end: The largest target up to which every one was reached on the data's support; None if not even the first was.
        calls: Network calls made.
    """

    rows: tuple[Reached, ...]
    mean: float
    std: float
    off_support: float
    limit: float
    end: float | None
    calls: int

    def lines(self) -> list[str]:
        """Everything as lines for people."""
        out = [
            f"labels: {self.mean:.4g} +- {self.std:.4g}; data lie {self.off_support:.4g} off their plane, "
            f"and up to {self.limit:.4g} counts as on it"
        ]
        for row in self.rows:
            true = "" if row.true is None else f", truly {row.true:.4g}"
            out.append(
                f"asked {row.target:.4g}: predicted {row.predicted:.4g} +- {row.error:.2g}{true}; off the plane by "
                f"{row.off_support:.4g}, {row.nn_ratio:.3g} x as far from the data as they are from each other"
            )
        end = "no target was reached" if self.end is None else f"the data reach to a reward of {self.end:.4g}"
        return [*out, end]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return asdict(self)


def optimize(
    system: System[Any, Any],
    reward: Ridge,
    targets: float | Sequence[float],
    data: Dataset,
    *,
    num_samples: int = 256,
    guidance_scale: float = 1.0,
    true: Callable[[Tensor], Tensor] | None = None,
    rank: int = 20,
    shortfall: float = 0.5,
    excess: float = 0.05,
    num_steps: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Reach]:
    """Sample rows of a wanted reward, and report how far that can be believed.

    A target counts as reached while the mean reward (the true one where it is known, else the predicted) falls short
    of it by no more than `shortfall` standard deviations of the labels, and the samples lie no farther off the data's
    plane than nine of ten data rows do, plus `excess` times the data's own extent. Predictions alone never decide. (Not
    the average row: real rows of high reward are rare, and lie farther off the plane than most.)

    Args:
        system: A conditional system with the reward as one of its conditions, such as recipe `overview`.
        reward: The learned reward, fitted on encoded rows to the standardised condition: `system.denoiser.reward`.
        targets: Rewards to ask for, in the units of the data's file.
        data: Data rows, in the space that samples have.
        num_samples: Samples a target.
        guidance_scale: 1 is plain conditional; above 1 exaggerates, and widens the gap of predicted to true reward.
        true: Maps samples (N, *S) to their true rewards (N,), if a simulator or experiment exists.
        rank: Directions of the data's plane, from their covariance; at least one direction is left out.
        shortfall: In standard deviations of the labels.
        excess: In units of the data's extent, the mean distance of a row from the mean of all.
        num_steps: Solver steps; the system's default if None.
        seed: Names the samples.

    Returns: Samples (num_samples, *S) of the largest target, and the report.

    Raises:
        ValueError: If the system has no such condition or no target is given.

    Source: Yuan et al. 2023 (reward-directed conditional diffusion) and Krishnamoorthy et al. 2023 (DDOM), as reviewed
        in Chen et al. 2024 (an overview of diffusion models), section 5; the rule for where the reach ends is ours.
    """
    wanted = sorted([float(targets)] if isinstance(targets, int | float) else [float(target) for target in targets])
    if not wanted:
        raise ValueError("give at least one target")
    if reward.name not in system.schema:
        raise ValueError(f"the system has no condition {reward.name!r} to ask by; there are {sorted(system.schema)}")
    facts = system.data.get("meta", {}).get("conditions", {}).get(reward.name, {})
    mean, std = (float(facts[name][0]) if name in facts else value for name, value in (("mean", 0.0), ("std", 1.0)))
    labels = data.conditions[reward.name][data.present[reward.name]][:, 0].double() * std + mean
    rows = data.data.float()
    plane = Spectrum.fit(rows, min(rank, rows[0].numel() - 1) or 1)

    def off(x: Tensor) -> Tensor:
        return off_support(x, plane.mean, plane.basis)

    records: list[Reached] = []
    samples, end, good, usual, calls = rows[:0], None, True, off(rows), 0
    extent = float((rows - rows.mean(0)).flatten(1).norm(dim=1).mean())
    spread = float(labels.std()) if len(labels) > 1 else std
    limit = float(usual.quantile(0.9)) + excess * extent
    for target in wanted:
        parts = list(
            batches(
                system,
                num_samples=num_samples,
                cond={reward.name: target},
                guidance_scale=guidance_scale,
                num_steps=num_steps,
                seed=seed,
                batch_size=256,
            )
        )
        samples, calls = torch.cat([part for part, _ in parts]), calls + sum(used for _, used in parts)
        with torch.no_grad():
            x = system.codec.encode(samples)
            predicted, error = (reward(x).double() * std + mean).mean(), (reward.error(x).double() * std).mean()
        record = Reached(
            target=target,
            predicted=float(predicted),
            error=float(error),
            true=None if true is None else float(true(samples).double().mean()),
            off_support=float(off(samples).mean()),
            nn_ratio=float(nn_ratio(samples, rows[:2000]).median()),
        )
        records.append(record)
        got = record.predicted if record.true is None else record.true
        good = good and target - got <= shortfall * spread and record.off_support <= limit
        end = target if good else end  # a later target that passes by chance does not count
    return samples, Reach(tuple(records), float(labels.mean()), spread, float(usual.mean()), limit, end, calls)


def ascend(reward: Ridge, x: Tensor, target: float) -> Tensor:
    """Move encoded rows x (B, *S) along the reward's gradient until it predicts the target: the baseline.

    x + theta (target - reward(x)) / |theta|^2, where gradient ascent on a linear reward stops; nothing keeps it on the
    data.

    Args:
        reward: The learned reward.
        x: Encoded rows.
        target: In the units the reward was fitted in.
    """
    theta = reward.theta.to(x)
    moved: Tensor = x.flatten(1) + (target - reward(x))[:, None] * theta / theta.square().sum()
    return moved.reshape(x.shape)
