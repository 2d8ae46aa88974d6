"""The stochastic similarity filter: frames that look like the last one made are mostly not made again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor


class Similarity(Protocol):
    """How alike two frames are; 1 is equal."""

    def __call__(self, frame: Tensor, reference: Tensor) -> float:
        """Compare two frames of one shape."""
        ...


@final
@dataclass(frozen=True)
class Cosine:
    """The cosine between two frames as vectors; frames without any length are equal to nothing but themselves.

    All flat frames of one sign are equal to it, whatever their brightness.

    Source: Kodaira et al. 2023 (StreamDiffusion).
    """

    def __call__(self, frame: Tensor, reference: Tensor) -> float:
        """Return the cosine, in [-1, 1]."""
        a, b = frame.flatten().double(), reference.flatten().double()
        if torch.equal(a, b):
            return 1.0
        norm = a.norm() * b.norm()
        return float(a @ b / norm) if float(norm) > 0.0 else -1.0


@final
@dataclass(frozen=True)
class MeanSquare:
    """1 - mean((frame - reference)^2) / span^2: sees changes of brightness too.

    Args:
        span: Range of the pixels, > 0.
    """

    span: float = 2.0

    def __call__(self, frame: Tensor, reference: Tensor) -> float:
        """Return the similarity, 0 for black against white."""
        return 1.0 - float((frame.double() - reference.double()).square().mean()) / self.span**2


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """What a filter knows of its stream.

    Args:
        frame: The last frame that was made, None before the first.
        skipped: Frames skipped since.
    """

    frame: Tensor | None = None
    skipped: int = 0


@final
@dataclass(frozen=True)
class SimilarityFilter:
    """Skips a frame with a probability that grows with its similarity c to the last one made.

    P(skip) = max(0, 1 - (1 - c) / (1 - threshold)); always 0 after `max_skip` frames in a row.

    Args:
        threshold: Similarity up to which every frame is made, below 1; 1 or more makes every frame.
        max_skip: Most frames skipped in a row, >= 0.
        similarity: How frames are compared.

    Source: Kodaira et al. 2023 (StreamDiffusion). The official code counts skips over the whole stream and allows one
        more; here a frame that is made sets the count to 0.
    """

    threshold: float = 0.98
    max_skip: int = 10
    similarity: Similarity = field(default_factory=Cosine)

    def __post_init__(self) -> None:
        if self.max_skip < 0:
            raise ValueError(f"max_skip must not be negative, got {self.max_skip}")

    def chance(self, frame: Tensor, last: Reference) -> float:
        """Return the probability that this frame is skipped."""
        if last.frame is None or last.skipped >= self.max_skip or self.threshold >= 1.0:
            return 0.0
        if last.frame.shape != frame.shape:
            return 0.0
        c = self.similarity(frame, last.frame)
        return max(0.0, 1.0 - (1.0 - c) / (1.0 - self.threshold))

    def __call__(self, frame: Tensor, last: Reference, u: float) -> tuple[bool, Reference]:
        """Decide on a frame.

        Args:
            frame: The new frame.
            last: What is known.
            u: A uniform number in [0, 1).

        Returns: Whether to make it, and what is known then.
        """
        if u < self.chance(frame, last):
            return False, Reference(last.frame, last.skipped + 1)
        return True, Reference(frame)
