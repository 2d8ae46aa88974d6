"""A denoiser with the Gaussian of its data beside it, saved with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.rng import Rng
from condiff.oracles.gaussian import GaussianData
from condiff.oracles.spectrum import Spectrum
from condiff.process.gaussian import Gaussian


@final
class Fitted(nn.Module):
    """Another denoiser that also knows mean and covariance of the data, for `solvers.Teleport` and `Prior`.

    The estimate is the inner denoiser's. The statistics are buffers: `train.fit` measures them on the encoded data
    before the first step, and they are saved and loaded with the weights.

    Args:
        inner: The denoiser that is trained.
        process: The process of its states; its noise law must be Normal.
        shape: Shape (*S) of one state.
        rank: Directions kept apart; those beyond share one variance.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: Tensor
    measured: Tensor

    def __init__(self, inner: nn.Module, process: Gaussian, shape: Sequence[int], rank: int) -> None:
        super().__init__()
        self.inner, self.process = inner, process
        dims = int(torch.Size(shape).numel())
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        rank = min(rank, dims)
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("basis", torch.zeros(dims, rank))
        self.register_buffer("variances", torch.zeros(rank))
        self.register_buffer("rest", torch.zeros(()))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Any:  # noqa: ANN401 - the inner's estimate
        """Estimate what made x (B, *S) at time t."""
        return self.inner(x, t, cond)

    @torch.no_grad()
    def measure(self, batches: Callable[[], Iterable[tuple[Tensor, Condition]]]) -> None:
        """Take the statistics of all rows; `batches` starts a fresh pass over the encoded rows and their conditions."""
        rank = self.variances.numel()
        found = Spectrum.fit(lambda: (x for x, _ in batches()), rank)
        kept = len(found.variances)  # fewer than rank if there are fewer rows
        self.mean.copy_(found.mean)
        self.basis.zero_()[:, :kept].copy_(found.basis)
        self.variances.zero_()[:kept].copy_(found.variances)
        if kept < rank:
            # The unused columns become directions of the remainder, so that the basis stays orthonormal.
            fill = torch.eye(len(self.basis), dtype=torch.float64)[:, : rank + kept]
            self.basis.copy_(torch.linalg.qr(torch.cat([found.basis, fill], 1)).Q[:, :rank])
            self.variances[kept:] = found.rest
        self.rest.fill_(found.rest)
        self.measured.fill_(True)

    @property
    def law(self) -> GaussianData:
        """The Gaussian of the data.

        Raises:
            ValueError: If no data were measured yet.
        """
        if not bool(self.measured):
            raise ValueError(
                "the Gaussian of the data was never fitted: train the system, or call measure with its encoded data"
            )
        return GaussianData(self.process, self.mean, self.basis, self.variances, float(self.rest))

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the Gaussian's probability flow at s from x (B, *S) at t."""
        return self.law.flow(x, t, s)

    def marginal(self, shape: Sequence[int], t: Tensor, *, rng: Rng) -> Tensor:
        """Draw states (B, *S) of time t from the corrupted Gaussian."""
        return self.law.marginal(shape, t, rng=rng)
