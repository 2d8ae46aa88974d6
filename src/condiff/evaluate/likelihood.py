"""Log-likelihood of dequantised data in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from condiff.core.rng import Rng
from condiff.evaluate.metric import Metric, mean


def dequantise(values: Tensor, *, rng: Rng, bins: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Spread each of the integers 0..bins - 1 evenly over its bin, so that a density can bound their probability.

    x = low + (values + u) * (high - low) / bins, u uniform in [0, 1)

    For data that was trained as 2 * values / 255 - 1 (bins centred on those points, 2 / 255 wide) give
    low = -1 - 1 / 255 and high = 1 + 1 / 255, here and to `bits_per_dim`.

    Args:
        values: Integers in 0..bins - 1, (B, *S).
        rng: Source of one uniform an element.
        bins: Number of levels.
        low: Lower end of the continuous data.
        high: Upper end.

    Returns: Continuous data (B, *S), float32, in [low, high].

    Raises:
        ValueError: If values are not integers in range, or `bits_per_dim` would refuse bins, low and high.
    """
    width = _width(bins, low, high)
    if values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(f"dequantise expects integers 0 to {bins - 1}, got {values.dtype}")
    if values.numel() and not (0 <= int(values.min()) and int(values.max()) < bins):
        raise ValueError(
            f"dequantise expects integers 0 to {bins - 1}, got {int(values.min())} to {int(values.max())}; check bins"
        )
    u = rng.uniform(values.shape).to(values.device, torch.float64)
    return (low + (values.double() + u) * width).float()


def bits_per_dim(
    log_likelihood: Tensor,
    num_dims: int,
    *,
    bins: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    definition: str = "log-likelihood as given",
    seed: int = 0,
) -> Metric:
    """Convert log-densities of uniformly dequantised data to bits per dimension.

    bits = -log_likelihood / (num_dims * ln 2) - log2((high - low) / bins)

    The second term is the volume of a bin. By Jensen's inequality the result is an upper bound on the code length of
    the integers; it holds on average over the dequantisation noise.

    Args:
        log_likelihood: Natural logarithm of the density of each row of dequantised data, (B,), B >= 2.
        num_dims: Numbers a row.
        bins: Levels of the integer data.
        low: Lower end of the range that `dequantise` mapped them to; the density is in its units.
        high: Upper end.
        definition: How the log-likelihood was computed.
        seed: Names the resampling of the interval.

    Returns: Metric "bits_per_dim", in bits per dimension; lower is better.

    Raises:
        ValueError: If a row is not finite, there are fewer than 2 rows, or num_dims, bins, low, high make no sense.
    """
    if num_dims < 1:
        raise ValueError(f"num_dims counts the numbers of a row and must be at least 1, got {num_dims}")
    rows = -log_likelihood.detach().double() / (num_dims * math.log(2.0)) - math.log2(_width(bins, low, high))
    return mean(
        rows,
        name="bits_per_dim",
        definition=f"mean of -log2 density per dimension of uniformly dequantised data, minus log2 of the bin width; "
        f"{bins} levels over [{low:.6g}, {high:.6g}], {num_dims} dimensions; {definition}",
        seed=seed,
        unit="bits/dim",
    )


def _width(bins: int, low: float, high: float) -> float:
    if bins < 2 or not low < high or not math.isfinite(high - low):
        raise ValueError(f"expected bins >= 2 and finite low < high, got bins={bins}, low={low}, high={high}")
    return (high - low) / bins
