"""One window of tokens around those that are known, whatever the process of the system is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.system import System
from condiff.guidance.given import GivenTokens
from condiff.process.embedded import Embedded
from condiff.tasks.generate import sample


def around(
    system: System[Any, Any],
    known: Tensor,
    *,
    cond: Mapping[str, Any] | Condition | None = None,
    batch_size: int = 64,
    first: int = 0,
    **wanted: Any,  # noqa: ANN401 - as `sample`
) -> Tensor:
    """Write windows of tokens around known ones.

    A process on tokens starts from the known ones, and they stay. One on vectors of tokens starts from noise; what it
    estimates is put right at every step.

    Args:
        system: A system that writes text.
        known: Ids (N, L), the process's `mask` where not known.
        cond, batch_size, first, wanted: As for `sample`.

    Returns: Ids (N, L).
    """
    wanted |= {"batch_size": batch_size}
    if not isinstance(system.process, Embedded):
        return sample(system, num_samples=len(known), source=known, cond=cond, first=first, **wanted)
    denoiser: Any = system.denoiser
    parts = []
    for rows in torch.arange(len(known)).split(batch_size):
        told = GivenTokens(denoiser, system.process, denoiser.space, known[rows])
        given = cond.rows(rows) if isinstance(cond, Condition) else cond
        held = replace(system, denoiser=told)
        parts.append(sample(held, num_samples=len(rows), cond=given, first=first + int(rows[0]), **wanted))
    return torch.cat(parts)
