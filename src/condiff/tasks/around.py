"""One window of tokens around those that are known, whatever the process of the system is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.guidance.given import GivenTokens
from condiff.guidance.memo import Memo
from condiff.process.absorbing import Absorbing, TimeFree, Unmasked, reveal
from condiff.process.embedded import Embedded
from condiff.tasks.generate import evaluating, sample


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

    A process on tokens starts from the known ones. They stay where visible tokens always do; where these may be wrong,
    the known ones are estimated as certain. A process on vectors of tokens starts from noise; what it estimates is put
    right at every step.

    Args:
        system: A system that writes text.
        known: Ids (N, L), the process's `mask` where not known.
        cond, batch_size, first, wanted: As for `sample`.

    Returns: Ids (N, L).
    """
    wanted |= {"batch_size": batch_size}
    steps = wanted.get("num_steps") or system.num_steps
    plain = evaluating(system).denoiser
    if steps > known.shape[1] and isinstance(plain, Unmasked) and isinstance(plain.net, TimeFree):
        # More steps than tokens: in most of them nothing changes, and then nothing is asked again.
        system = replace(system, denoiser=Memo(plain))
    if isinstance(system.process, Absorbing):
        return sample(system, num_samples=len(known), source=known, cond=cond, first=first, **wanted)
    denoiser: Any = system.denoiser
    parts = []
    for rows in torch.arange(len(known)).split(batch_size):
        given = cond.rows(rows) if isinstance(cond, Condition) else cond
        told: Any = _Certain(denoiser, system.process.mask, known[rows])
        source: Tensor | None = known[rows]
        if isinstance(system.process, Embedded):
            told, source = GivenTokens(denoiser, system.process, denoiser.space, known[rows]), None
        held = replace(system, denoiser=told)
        asked = {**wanted, "num_samples": len(rows), "first": first + int(rows[0])}
        parts.append(sample(held, source=source, cond=given, **asked))
    return torch.cat(parts)


@final
@dataclass(frozen=True)
class _Certain:
    """A token denoiser that knows some of the clean tokens, whatever the state shows.

    Args:
        denoiser: The denoiser.
        mask: Id where nothing is known.
        known: Ids (B, L). A batch that guidance has doubled is told them twice.
    """

    denoiser: Denoiser[Categorical]
    mask: int
    known: Tensor

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Estimate the clean tokens behind ids x (B, L)."""
        est = self.denoiser(x, t, cond)
        known = self.known.to(x.device).repeat(len(x) // len(self.known), 1)
        return Categorical(reveal(est.logits, known, self.mask), est.aux)
