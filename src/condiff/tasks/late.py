"""Starting a trained system's sampling late: the Gaussian of its data, and the system with its first steps skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from condiff.core.system import System
from condiff.data.batch import Dataset
from condiff.oracles import GaussianData
from condiff.process.gaussian import Gaussian
from condiff.solvers import Known, Teleport, at_noise


def gaussian_of(system: System[Any, Any], data: Dataset, *, rank: int | None = None) -> GaussianData:
    """Fit the Gaussian of data as a system sees them: through its codec, in its own scale.

    Args:
        system: Any system on a Gaussian process.
        data: Rows, such as `splits.train`.
        rank: Directions kept apart; all if None, which more than 2048 features do not allow.

    Raises:
        TypeError: If the system's process is not Gaussian.
    """
    if not isinstance(system.process, Gaussian):
        raise TypeError(f"starting late needs a Gaussian process, got {type(system.process).__name__}")

    @torch.no_grad()
    def batches() -> Iterator[Tensor]:
        for index in torch.split(torch.arange(len(data)), 1024):
            rows, cond = data.rows(index)
            yield system.codec.encode(rows, cond)

    return GaussianData.fit(system.process, batches, rank)


def starting_late(system: System[Any, Any], known: Known, kappa: float) -> System[Any, Any]:
    """Return the system with a solver that reaches the noise level kappa = sigma / alpha by closed form.

    The grid stays as it is: nodes above kappa cost no network call. Take kappa well above the spread of the data, where
    the network's score is the Gaussian's (`evaluate.explained_variance` says how nearly).

    Args:
        system: A system on a Gaussian process with a deterministic solver; for a stochastic one put `Prior` around it.
        known: The closed form, as from `gaussian_of`.
        kappa: Noise level, > 0.
    """
    if not isinstance(system.process, Gaussian):
        raise TypeError(f"starting late needs a Gaussian process, got {type(system.process).__name__}")
    return replace(system, solver=Teleport(known, at_noise(system.process, kappa), system.solver))
