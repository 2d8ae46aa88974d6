"""Straightness, energy, cost, effective size and tilt on cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from condiff.evaluate import effective_size, path_metrics, tilt


def by_name(states, times):
    return {metric.name: metric for metric in path_metrics(states, times)}


def test_a_straight_path_has_no_curvature_at_any_grid():
    start, end = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 2, 3)
    times = torch.tensor([1.0, 0.7, 0.2, 0.0])
    found = by_name([end + t * (start - end) for t in times], times)
    assert found["path_curvature"].value == pytest.approx(0.0, abs=1e-10)
    cost = float(start.square().flatten(1).sum(1).mean())
    assert found["path_energy"].value == pytest.approx(cost, rel=1e-5)
    assert found["transport_cost"].value == pytest.approx(cost, rel=1e-6)


def test_a_parabola_has_the_energy_of_its_steps():
    """x = t^2 on thirds: steps 1/9, 3/9, 5/9, energy 3 (1 + 9 + 25) / 81, cost 1, curvature their difference."""
    times = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    found = by_name([torch.full((2, 1), float(t)) ** 2 for t in times], times)
    assert found["path_energy"].value == pytest.approx(35 / 27, rel=1e-6)
    assert found["transport_cost"].value == pytest.approx(1.0)
    assert found["path_curvature"].value == pytest.approx(8 / 27, rel=1e-6)
    assert found["path_energy"].n == 2


def test_direction_of_time_does_not_matter():
    times = torch.linspace(1, 0, 6, dtype=torch.float64)
    states = [torch.randn(4, 3, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    one, other = by_name(states, times), by_name(states[::-1], times.flip(0))
    for name in one:
        assert one[name].value == pytest.approx(other[name].value)


@pytest.mark.parametrize("times", [[1.0, 0.5], [1.0, 0.5, 0.6], [1.0, 0.5, 0.1]])
def test_times_must_fit(times):
    with pytest.raises(ValueError, match="paths need"):
        path_metrics([torch.zeros(2, 1)] * 3, torch.tensor(times))


def test_effective_size_and_tilt():
    assert effective_size(torch.ones(7)) == pytest.approx(1.0)
    assert effective_size(torch.tensor([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert effective_size(torch.tensor([1.0, 2.0])) == pytest.approx(9 / 10)
    data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    assert tilt(torch.tensor([3.0, 2.0, 1.0]), data) == pytest.approx(-1.0)
    assert tilt(torch.tensor([1.0, 2.0, 3.0]), data) == pytest.approx(1.0)
    assert tilt(torch.ones(3), data) == 0.0
    for bad in (torch.zeros(3), torch.tensor([1.0, -1.0]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="effective size"):
            effective_size(bad)
