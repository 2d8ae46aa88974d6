"""Quantile regression against the linear programme it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.guidance.observed import pinball
from condiff.tasks.regression import quantile_regression

LEVELS = (0.05, 0.3, 0.5, 0.9)


def made(seed, count, width, heavy=False, whole=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) * 10.0 ** rng.uniform(-2, 2, width) + rng.normal(size=width)
    noise = rng.standard_t(2, count) if heavy else rng.normal(size=count)
    y = x @ rng.normal(size=width) + noise * (1 + np.abs(x[:, 0]) if width else 1)
    return torch.from_numpy(x), torch.from_numpy(np.round(y) if whole else y)


def programme(x, y, level):
    """The least mean pinball loss, by scipy's linear programme over weights, intercept, and both parts of residuals."""
    optimize = pytest.importorskip("scipy.optimize")
    count, width = x.shape
    cost = np.r_[np.zeros(width + 1), np.full(count, level / count), np.full(count, (1 - level) / count)]
    equal = np.hstack([x.numpy(), np.ones((count, 1)), np.eye(count), -np.eye(count)])
    free = [(None, None)] * (width + 1) + [(0, None)] * (2 * count)
    return optimize.linprog(cost, A_eq=equal, b_eq=y.numpy(), bounds=free, method="highs").fun


def loss_of(found, x, y, levels):
    level = torch.tensor(levels, dtype=torch.float64)
    return pinball(y[:, None], x.double() @ found.weight + found.intercept, level).mean(0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 120), st.integers(0, 6), st.booleans(), st.booleans())
def test_the_loss_is_that_of_the_linear_programme(seed, count, width, heavy, whole):
    x, y = made(seed, count, width, heavy, whole)
    found = quantile_regression(x, y, LEVELS, accuracy=1e-5)
    torch.testing.assert_close(found.loss, loss_of(found, x, y, LEVELS), rtol=1e-9, atol=1e-9)
    for k, level in enumerate(LEVELS):
        least = programme(x, y, level)
        assert float(found.loss[k]) <= least * (1 + 1e-5) + 1e-9 * float(y.abs().max())
        assert float(found.loss[k] - found.gap[k]) <= least * (1 + 1e-9) + 1e-9 * float(y.abs().max())


def test_a_penalty_is_paid_for_as_told():
    """The objective is convex: what no step, however small or large, can lower is its least value."""
    x, y = made(3, 80, 4)
    for penalty in (1e-2, 1.0, 100.0):
        found = quantile_regression(x, y, LEVELS, penalty=penalty, accuracy=1e-8)

        def objective(weight, intercept, penalty=penalty):
            loss = pinball(y[:, None], x @ weight + intercept, torch.tensor(LEVELS, dtype=torch.float64)).mean(0)
            sizes = (weight * x.std(0, correction=0)[:, None]).square().sum(0)
            return loss + penalty * sizes / (2 * y.std(correction=0))

        at = objective(found.weight, found.intercept)
        torch.testing.assert_close(at, found.loss)
        assert bool((found.gap <= 1e-8 * found.loss + 1e-9).all())
        rng = torch.Generator().manual_seed(0)
        for size in (1e-3, 1e-1, 1.0):
            for _ in range(50):
                d = torch.randn(5, 4, generator=rng, dtype=torch.float64) * size * y.std()
                moved = objective(found.weight + d[1:] / x.std(0)[:, None], found.intercept + d[0])
                assert bool((moved >= at - found.gap - 1e-12).all())
    assert float(found.weight.abs().max()) < 0.1 * float(quantile_regression(x, y, LEVELS).weight.abs().max())


def test_units_of_target_and_features_change_nothing():
    x, y = made(5, 60, 3)
    one = quantile_regression(x, y, LEVELS, penalty=1e-3, accuracy=1e-9)
    other = quantile_regression(
        x * torch.tensor([1e3, 1.0, 1e-3]) + 7, 1000 * y - 3, LEVELS, penalty=1e-3, accuracy=1e-9
    )
    torch.testing.assert_close(other.loss, 1000 * one.loss, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        other.weight, 1000 * one.weight / torch.tensor([1e3, 1.0, 1e-3])[:, None].double(), rtol=1e-3, atol=1e-3
    )


def test_columns_that_others_tell_and_constants_change_nothing():
    x, y = made(6, 70, 3)
    twice = torch.cat([x, x[:, :1] + 2 * x[:, 1:2], torch.full((70, 1), 5.0)], 1)
    one, other = (quantile_regression(rows, y, LEVELS, accuracy=1e-7) for rows in (x, twice))
    torch.testing.assert_close(other.loss, one.loss, rtol=3e-7, atol=0)


def test_fewer_rows_than_features_are_met_exactly():
    x, y = made(7, 6, 20)
    found = quantile_regression(x, y, LEVELS)
    torch.testing.assert_close(x @ found.weight + found.intercept, y[:, None].expand(-1, 4), atol=1e-8, rtol=1e-8)
    held = quantile_regression(x, y, LEVELS, penalty=1.0)
    assert bool((held.loss > 1e-3 * y.std()).all())
    assert bool((held.gap <= 1e-4 * held.loss + 1e-9).all())


def test_a_target_that_never_changes_is_met():
    found = quantile_regression(torch.randn(9, 2), torch.full((9,), 4.0), LEVELS)
    assert found.intercept.tolist() == [4.0] * 4
    assert not bool(found.weight.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ()}, "levels in"),
        ({"levels": (0.5, 1.0)}, "levels in"),
        ({"penalty": -1.0}, "penalty >= 0"),
        ({"accuracy": 0.0}, "accuracy > 0"),
        ({"target": torch.zeros(4)}, "features \\(N, F\\)"),
        ({"target": torch.tensor([1.0, 2.0, float("nan")])}, "finite"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    words = {"features": torch.zeros(3, 1), "target": torch.zeros(3), "levels": (0.5,), **change}
    with pytest.raises(ValueError, match=message):
        quantile_regression(**words)
