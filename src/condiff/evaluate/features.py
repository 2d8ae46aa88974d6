"""Feature functions for data that no trained network knows: seeded random projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from condiff.core.rng import key
from condiff.evaluate.metric import flat


@final
@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """Standardised data seen along fixed random directions: a feature function for any modality, with no download.

    features = flatten((x - mean) / std) @ projection

    It is linear, so a Frechet distance over it compares means and covariances of the data along these directions and
    nothing perceptual. Data of no more than `size` numbers a row is only standardised. The spread is that of a whole
    channel: dividing by the spread of each number would blow up those that hardly vary, such as a picture's border.

    Args:
        mean: Mean of the reference rows, (*S).
        std: Root mean square deviation from it, one a channel, (S[0], 1, ...); 1 for a constant channel.
        projection: Directions (D, size), columns of length about 1, or None for no projection.
        definition: What this is, with its seed.
    """

    mean: Tensor
    std: Tensor
    projection: Tensor | None
    definition: str

    @classmethod
    def fit(cls, reference: Tensor, *, size: int = 64, seed: int = 0) -> Self:
        """Take the statistics of real rows and draw the directions.

        Args:
            reference: Real rows (M, *S), float, M >= 2.
            size: Number of directions.
            seed: Names the directions.

        Raises:
            ValueError: If there are fewer than 2 rows or a value is not finite.
            TypeError: If reference holds integers: token numbers have no mean.
        """
        if not reference.is_floating_point():
            raise TypeError(
                f"random features need float data, got {reference.dtype}: token numbers have no mean; "
                "pass a feature function of your own"
            )
        if reference.ndim < 2 or len(reference) < 2 or not bool(reference.isfinite().all()):
            raise ValueError(f"random features need at least 2 finite rows (M, *S), got shape {tuple(reference.shape)}")
        rows = reference.detach().to("cpu", torch.float64)
        mean = rows.mean(0)
        other = [axis for axis in range(rows.ndim) if axis != 1]
        std = (rows - mean).square().mean(other, keepdim=True).sqrt()[0]
        std = torch.where(std > 1e-12 * rows.abs().max(), std, torch.ones_like(std))
        dims = mean.numel()
        base = f"channels standardised by {len(rows)} reference rows"
        if dims <= size:
            return cls(mean, std, None, f"{base}, {dims} of {dims} dimensions")
        generator = torch.Generator().manual_seed(key(seed, "random features"))
        projection = torch.randn(dims, size, generator=generator, dtype=torch.float32).double() / dims**0.5
        return cls(mean, std, projection, f"random features, seed {seed}: {base}, {size} Gaussian directions of {dims}")

    def __call__(self, x: Tensor) -> Tensor:
        """Compute features (B, size) of rows (B, *S), float64 on the host.

        Raises:
            ValueError: If rows have another size than the reference's.
        """
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"expected rows of shape {tuple(self.mean.shape)}, got {tuple(x.shape[1:])}")
        rows = flat((x.to("cpu", torch.float64) - self.mean) / self.std)
        return rows if self.projection is None else rows @ self.projection
