"""Nearest neighbours, precision, recall, density and coverage on cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.evaluate import coverage, density, nearest, precision, radii, recall

LINE = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
"""Distances to the nearest other: 1, 1, 2, 7; to the second nearest: 3, 2, 3, 9."""

SAMPLES = torch.tensor([[0.5], [3.5], [-2.0], [17.5]])
"""Distances to the nearest other: 2.5, 3, 2.5, 14."""


def test_radii_by_hand() -> None:
    assert radii(LINE, 1).tolist() == [1, 1, 2, 7]
    assert radii(LINE, 2).tolist() == [3, 2, 3, 9]


def test_radii_of_copies_are_zero() -> None:
    assert radii(torch.tensor([[1.0], [1.0], [4.0]]), 1).tolist() == [0, 0, 3]


def test_precision_by_hand() -> None:
    # Balls [-1, 1], [0, 2], [1, 5], [3, 17]: 0.5 and 3.5 are inside, -2 and 17.5 are not.
    got = precision(SAMPLES, LINE, k=1)
    assert (got.value, got.n, got.unit) == (0.5, 4, "fraction")


def test_recall_by_hand() -> None:
    # Balls of the samples [-2, 3], [0.5, 6.5], [-4.5, 0.5], [3.5, 31.5]: every point of LINE is inside one.
    assert recall(SAMPLES, LINE, k=1).value == 1.0
    # Without the far sample, 10 is outside [0.5, 6.5] and the others stay as they are.
    assert recall(SAMPLES[:3], LINE, k=1).value == 0.75


def test_density_by_hand() -> None:
    # Balls that hold each sample: 0.5 in two, 3.5 in two, the others in none.
    assert density(SAMPLES, LINE, k=1).value == 1.0
    # k = 2: balls [-3, 3], [-1, 3], [0, 6], [1, 19] hold 3, 2, 1 and 1 times; 7 / (2 * 4).
    assert density(SAMPLES, LINE, k=2).value == 7 / 8


def test_coverage_by_hand() -> None:
    # Every ball of LINE holds 0.5 or 3.5.
    assert coverage(SAMPLES, LINE, k=1).value == 1.0
    assert coverage(SAMPLES[[0, 2]], LINE, k=1).value == 0.5
    assert coverage(SAMPLES[[2, 3]], LINE, k=1).value == 0.0


def test_variety_and_fidelity_are_told_apart() -> None:
    g = torch.Generator().manual_seed(0)
    real = torch.randn(200, 2, generator=g)
    narrow = torch.randn(200, 2, generator=g) * 0.1
    wide = torch.randn(200, 2, generator=g) * 6
    assert precision(narrow, real).value > 0.95
    assert recall(narrow, real).value < 0.3
    assert coverage(narrow, real).value < 0.5
    assert precision(wide, real).value < 0.4
    assert recall(wide, real).value > 0.9
    assert density(narrow, real).value > density(wide, real).value


def test_same_distribution_has_density_about_one() -> None:
    g = torch.Generator().manual_seed(0)
    got = density(torch.randn(400, 3, generator=g), torch.randn(400, 3, generator=g), k=5)
    assert got.interval[0] < 1.0 < got.interval[1]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6), st.integers(0, 99))
def test_nearest_equals_brute_force(n: int, m: int, d: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)
    k = min(3, m)
    distances, indices = nearest(x, y, k, chunk=7)
    brute = (x.double()[:, None] - y.double()[None]).square().sum(-1).sqrt()
    torch.testing.assert_close(distances, brute.sort(dim=1).values[:, :k])
    torch.testing.assert_close(brute.gather(1, indices), distances)


def test_nearest_is_exact_for_near_copies_far_from_the_origin() -> None:
    # |x|^2 is 1e8 * 50: expanding the square in float32 would lose the distance, and in float64 seven digits of it.
    x = torch.full((1, 50), 1e4, dtype=torch.float64)
    y = torch.cat([x + 1e-5, x + 1.0, x - 2e-5])
    distances, indices = nearest(x, y, 2)
    assert indices.tolist() == [[0, 2]]
    assert distances[0, 0].item() == pytest.approx(1e-5 * 50**0.5, rel=1e-6)


def test_nearest_gives_ties_to_the_lowest_index() -> None:
    y = torch.tensor([[5.0], [1.0], [1.0], [1.0]])
    assert nearest(torch.zeros(1, 1), y, 2)[1].tolist() == [[1, 2]]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        nearest(SAMPLES, LINE, 5)
    with pytest.raises(ValueError, match="more than 4 rows"):
        precision(SAMPLES, LINE, k=4)
