"""Bits per dimension against densities known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.core.rng import RowRng
from condiff.evaluate import bits_per_dim, dequantise


@pytest.mark.parametrize(
    ("bins", "low", "high", "bits"), [(256, -1.0, 1.0, 8), (2, 0.0, 1.0, 1), (16, 0.0, 16.0, 4), (256, -3.0, 5.0, 8)]
)
def test_the_uniform_density_costs_log2_of_the_bins(bins: int, low: float, high: float, bits: float) -> None:
    dims = 12
    nats = torch.full((5,), -dims * math.log(high - low))
    got = bits_per_dim(nats, dims, bins=bins, low=low, high=high)
    assert got.value == pytest.approx(bits, abs=1e-6)
    assert got.unit == "bits/dim"


def test_a_histogram_density_costs_its_entropy() -> None:
    # Density p(bin) / width is exact for dequantised data: bits per dim is -log2 p of the bin.
    p = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    values = torch.tensor([[0], [0], [0], [0], [1], [1], [2], [3]])
    x = dequantise(values, rng=RowRng(0, range(8)), bins=4, low=-1.0, high=1.0)
    bin_of = ((x.double() + 1.0) / 0.5).floor().long()
    assert torch.equal(bin_of, values)
    nats = torch.log(p[bin_of[:, 0]] / 0.5)
    got = bits_per_dim(nats, 1, bins=4)
    assert got.value == pytest.approx(1.75, abs=1e-9)
    assert got.interval[0] < 1.75 < got.interval[1]


def test_dequantise_fills_its_bins_evenly_by_row() -> None:
    values = torch.tensor([0, 255, 128])[:, None].expand(3, 4000).contiguous()
    x = dequantise(values, rng=RowRng(1, range(3)))
    u = (x.double() + 1.0) * 128 - values
    assert float(u.min()) >= -1e-4
    assert float(u.max()) <= 1 + 1e-4
    torch.testing.assert_close(u.mean(1), torch.full((3,), 0.5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(u.var(1), torch.full((3,), 1 / 12).double(), atol=0.005, rtol=0)
    assert torch.equal(dequantise(values[1:2], rng=RowRng(1, [1])), x[1:2])  # a row alone is the same row


def test_centred_bins() -> None:
    # low = -1 - 1/255 and high = 1 + 1/255 put level v at the middle of its bin, 2 v / 255 - 1.
    low, high = -1 - 1 / 255, 1 + 1 / 255
    values = torch.arange(256)[:, None].expand(256, 500).contiguous()
    x = dequantise(values, rng=RowRng(0, range(256)), low=low, high=high)
    assert float((x - (2 * values / 255 - 1)).abs().max()) <= 1 / 255 + 1e-6
    one, other = (bits_per_dim(torch.zeros(2), 3, low=a, high=b).value for a, b in ((low, high), (-1.0, 1.0)))
    assert one - other == pytest.approx(-math.log2(256 / 255), abs=1e-12)


def test_wrong_values_are_refused() -> None:
    rng = RowRng(0, range(2))
    with pytest.raises(ValueError, match="expects integers 0 to 255"):
        dequantise(torch.zeros(2, 3), rng=rng)
    with pytest.raises(ValueError, match="got 0 to 9; check bins"):
        dequantise(torch.tensor([[0], [9]]), rng=rng, bins=8)
    with pytest.raises(ValueError, match="low < high"):
        bits_per_dim(torch.zeros(2), 3, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="num_dims"):
        bits_per_dim(torch.zeros(2), 0)
    with pytest.raises(ValueError, match="1 of 2 rows are not finite"):
        bits_per_dim(torch.tensor([0.0, torch.nan]), 3)
