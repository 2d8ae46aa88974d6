"""Frechet distance and KID against closed forms and plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condiff.evaluate import frechet, frechet_distance, kid, moments


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def exact(n: int, mean: Tensor, cov: Tensor, seed: int) -> Tensor:
    """Rows whose sample mean and unbiased covariance are exactly those given."""
    z = normal(n, len(mean), seed=seed)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1))).T
    return white @ torch.linalg.cholesky(cov).T + mean


def covariance(d: int, seed: int) -> Tensor:
    a = normal(d, d, seed=seed)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 8), st.integers(0, 100))
def test_frechet_distance_of_commuting_covariances(d: int, seed: int) -> None:
    # With common eigenvectors: sum of squared differences of means and of standard deviations.
    q, _ = torch.linalg.qr(normal(d, d, seed=seed))
    s1, s2 = normal(d, seed=seed + 1).abs(), normal(d, seed=seed + 2).abs()
    m1, m2 = normal(d, seed=seed + 3), normal(d, seed=seed + 4)
    expected = (m1 - m2).square().sum() + (s1 - s2).square().sum()
    got = frechet_distance(m1, q @ torch.diag(s1**2) @ q.T, m2, q @ torch.diag(s2**2) @ q.T)
    assert got == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)


def test_frechet_distance_matches_general_matrix_square_root() -> None:
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    c1, c2, m = covariance(6, 1), covariance(6, 2), normal(6, seed=3)
    root = torch.from_numpy(sqrtm((c1 @ c2).numpy()).real)
    expected = m.square().sum() + torch.trace(c1 + c2 - 2 * root)
    assert frechet_distance(m, c1, torch.zeros(6), c2) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_singular_covariances() -> None:
    # Two lines at right angles in 40 dimensions, far fewer rows than dimensions: tr S1 + tr S2, no root of rounding.
    u, v = normal(40, seed=0), normal(40, seed=1)
    v = v - u * (u @ v) / (u @ u)
    zero = torch.zeros(40)
    got = frechet_distance(zero, torch.outer(u, u), zero, torch.outer(v, v))
    assert got == pytest.approx((u @ u + v @ v).item(), rel=1e-10)
    few = normal(10, 40, seed=2)
    assert frechet_distance(*moments(few), *moments(few)) <= 1e-10
    assert frechet_distance(zero, torch.zeros(40, 40), zero, torch.zeros(40, 40)) == 0.0


def test_frechet_distance_is_symmetric_and_quadratic() -> None:
    a, b = (normal(5, seed=1), covariance(5, 1)), (normal(5, seed=2), covariance(5, 2))
    there = frechet_distance(*a, *b)
    assert there == pytest.approx(frechet_distance(*b, *a), rel=1e-10)
    assert frechet_distance(3 * a[0], 9 * a[1], 3 * b[0], 9 * b[1]) == pytest.approx(9 * there, rel=1e-10)


def test_frechet_of_sets_with_exact_moments() -> None:
    m1, m2, c1, c2 = normal(4, seed=1), normal(4, seed=2), covariance(4, 3), covariance(4, 4)
    got = frechet(exact(50, m1, c1, 5), exact(70, m2, c2, 6), num_resamples=20)
    assert got.value == pytest.approx(frechet_distance(m1, c1, m2, c2), rel=1e-9)
    assert (got.n, got.details["num_reference"]) == (50, 70.0)
    assert got.interval[0] < got.value < got.interval[1]


def test_frechet_of_identical_sets_is_zero() -> None:
    x = normal(30, 2, 3, 3, seed=1)
    got = frechet(x, x, num_resamples=20)
    assert got.value <= 1e-10
    assert got.interval[0] == 0.0


def test_frechet_reads_the_feature_function_and_records_it() -> None:
    x, y = normal(40, 3, seed=1), normal(40, 3, seed=2)
    twice = frechet(x, y, features=lambda rows: 2 * rows, definition="doubled", num_resamples=20)
    assert twice.value == pytest.approx(4 * frechet(x, y, num_resamples=20).value, rel=1e-9)
    assert "features: doubled" in twice.definition


def test_frechet_interval_is_centred_and_its_bias_is_told() -> None:
    # 60 rows in 8 dimensions: resampling repeats the upward bias; the interval must not inherit it.
    values, biases, covered = [], [], []
    for seed in range(40):
        x, y = normal(60, 8, seed=2 * seed) + 0.7, normal(60, 8, seed=2 * seed + 1)
        got = frechet(x, y, seed=seed, num_resamples=50)
        values.append(got.value)
        biases.append(got.details["bias"])
        covered.append(got.interval)
    mean = sum(values) / len(values)
    bias = mean - 8 * 0.7**2  # unit covariances: the true distance is the squared shift
    assert bias > 0.3
    assert sum(biases) / len(biases) == pytest.approx(bias, rel=0.35)
    assert sum(low <= mean <= high for low, high in covered) >= 34


def naive_kid(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    return (
        sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        + sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        - 2 * sum(k(a, b) for a in x for b in y) / (n * m)
    )


def test_kid_equals_the_double_loop() -> None:
    x, y = normal(7, 3, seed=1), 1 + normal(9, 3, seed=2)
    assert kid(x, y, num_resamples=10).value == pytest.approx(naive_kid(x, y), rel=1e-10)


def test_kid_in_chunks_equals_whole() -> None:
    from condiff.evaluate.distances import _between, _counts, _within

    x, y = normal(11, 3, seed=1), normal(8, 3, seed=2)
    left, right = _counts(11, 5, generator(0)), _counts(8, 5, generator(1))
    assert torch.equal(left.sum(1), torch.full((5,), 11.0, dtype=torch.float64))
    torch.testing.assert_close(_within(x, left, chunk=4), _within(x, left))
    torch.testing.assert_close(_between(x, y, left, right, chunk=4), _between(x, y, left, right))
    # A resample's self-pairs are left out: compare with the loop over pairs of different original rows.
    rows = [i for i in range(11) for _ in range(int(left[0, i]))]
    pairs = [(i, j) for a, i in enumerate(rows) for b, j in enumerate(rows) if a != b and i != j]
    loop = sum(float((x[i] @ x[j] / 3 + 1) ** 3) for i, j in pairs) / len(pairs)
    assert _within(x, left)[0].item() == pytest.approx(loop, rel=1e-10)


def test_kid_is_unbiased_and_tells_equal_from_shifted() -> None:
    values, covered = [], 0
    for seed in range(60):
        got = kid(normal(40, 5, seed=2 * seed), normal(40, 5, seed=2 * seed + 1), seed=seed, num_resamples=50)
        values.append(got.value)
        covered += got.interval[0] <= 0 <= got.interval[1]
    mean, spread = torch.tensor(values).mean().item(), torch.tensor(values).std().item()
    assert abs(mean) < 3 * spread / 60**0.5
    assert min(values) < 0  # an estimate clipped at 0 would be biased
    assert covered >= 55
    assert kid(normal(40, 5, seed=1) + 1, normal(40, 5, seed=2)).interval[0] > 0


@pytest.mark.parametrize("metric", [frechet, kid])
def test_distances_are_deterministic_and_refuse_unlike_sets(metric: object) -> None:
    assert callable(metric)
    x, y = normal(20, 3, seed=1), normal(20, 3, seed=2)
    state = torch.get_rng_state()
    assert metric(x, y, seed=4) == metric(x, y, seed=4)
    assert metric(x, y, seed=4).interval != metric(x, y, seed=5).interval
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="like with like"):
        metric(x, y[:, :2])
    with pytest.raises(ValueError, match="at least 10 resamples"):
        metric(x, y, num_resamples=2)
