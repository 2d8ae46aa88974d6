"""Choosing among several answers to one question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.rng import key
from condiff.core.system import System
from condiff.evaluate.overlap import sentence_bleu
from condiff.tasks.text import joined, write

Utility = Callable[[str, str], float]
"""How good a first text is if a second were the truth; greater is better."""


def smoothed_bleu(candidate: str, reference: str) -> float:
    """Compute smoothed BLEU of words and marks, the usual utility."""
    return sentence_bleu(candidate, [reference])


@final
@dataclass(frozen=True)
class MBR:
    """Minimum Bayes risk: of several answers, the one that is best on average if each of the others were the truth.

    choice = argmax_i sum_{j != i} utility(answer_i, answer_j); the first of equals

    Args:
        utility: What is averaged; it need not be symmetric.

    Source: Kumar and Byrne 2004; with BLEU of smoothing 4 and 10 answers it is how DiffuSeq and its followers decode.
    """

    utility: Utility = smoothed_bleu

    def matrix(self, answers: Sequence[str]) -> Tensor:
        """Compute utility(answer_i, answer_j) at [i, j], zero on the diagonal, float64 (K, K)."""
        known: dict[tuple[str, str], float] = {}  # answers are often equal
        out = torch.zeros(len(answers), len(answers), dtype=torch.float64)
        for i, one in enumerate(answers):
            for j, other in enumerate(answers):
                if i != j:
                    pair = (one, other)
                    if pair not in known:
                        known[pair] = self.utility(one, other)
                    out[i, j] = known[pair]
        return out

    def choose(self, answers: Sequence[str]) -> int:
        """Return the number of the chosen answer.

        Raises:
            ValueError: If there is none.
        """
        if not answers:
            raise ValueError("there is no answer to choose from")
        return int(self.matrix(answers).sum(1).argmax())


def answer_seeds(seed: int, num_answers: int) -> list[int]:
    """Return the seeds of several answers; the first is the seed itself.

    Raises:
        ValueError: If num_answers is not positive.
    """
    if num_answers < 1:
        raise ValueError(f"num_answers must be at least 1, got {num_answers}")
    return [seed if k == 0 else key(seed, "answer", k) for k in range(num_answers)]


def write_best(
    system: System[Any, Any],
    num_answers: int,
    choice: MBR | None = None,
    *,
    seed: int = 0,
    **wanted: Any,  # noqa: ANN401 - as `write`
) -> list[str]:
    """Write every text several times, and keep the one that agrees best with the others.

    Args:
        system: A system that writes text.
        num_answers: How many times, >= 1.
        choice: How to choose; by smoothed BLEU if None.
        seed: Names the answers: the first is the one that `write` gives for this seed.
        wanted: As for `write`.

    Returns: One text a sample.

    Raises:
        ValueError: If num_answers is not positive, or as `write`.
    """
    answers = [joined(write(system, seed=each, **wanted)) for each in answer_seeds(seed, num_answers)]
    chosen = choice or MBR()
    return [group[chosen.choose(group)] for group in zip(*answers, strict=True)]
