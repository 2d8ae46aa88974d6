"""Distances from the data: off its plane, and in units of its own neighbours."""

from __future__ import annotations

import pytest
import torch

from condiff.evaluate import nn_ratio, off_support


def test_off_support_is_the_distance_from_the_plane():
    mean, basis = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([[1.0], [0.0], [0.0]])
    x = torch.tensor([[9.0, 1.0, 1.0], [0.0, 4.0, 5.0]])
    torch.testing.assert_close(off_support(x, mean, basis), torch.tensor([0.0, 5.0], dtype=torch.float64))
    grid = off_support(x.reshape(2, 1, 3), mean.reshape(1, 3), basis)
    assert float(grid[1]) == pytest.approx(5.0)


def test_neighbour_ratio_is_one_between_rows_and_grows_away():
    reference = torch.arange(10.0)[:, None] * torch.tensor([[2.0, 0.0]])
    ratio = nn_ratio(torch.tensor([[4.0, 0.0], [4.0, 2.0], [4.0, 20.0]]), reference)
    torch.testing.assert_close(ratio, torch.tensor([0.0, 1.0, 10.0], dtype=torch.float64))
