"""The linear predictive score: against plain ridge regression, and blind to nothing it should see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from condiff.evaluate.predictive import RidgeForecast, linear_predictive_score
from condiff.evaluate.series import weighted_quantile_loss


def windows(num=60, length=10, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num, length)).cumsum(1))


def test_real_windows_give_the_plain_ridge_baseline():
    """Works when 10: trained on real windows, the score is that of ridge regression with a free intercept."""
    train, test = windows(), windows(20, seed=1)
    # One number more of every row is 1, and free of the penalty.
    rows = np.concatenate([train[:, :7].numpy(), np.ones((60, 1))], 1)
    weights = np.linalg.solve(rows.T @ rows + np.diag([1.0] * 7 + [0.0]), rows.T @ train[:, 7:].numpy())
    theirs = torch.from_numpy(test[:, :7].numpy() @ weights[:7] + weights[7])
    ours = RidgeForecast.fit(train, 7)
    torch.testing.assert_close(ours(test[:, :7]), theirs, atol=1e-9, rtol=0)
    scale = torch.linspace(1.0, 3.0, 20, dtype=torch.float64)
    score = linear_predictive_score(train, test[:, :7], test[:, 7:] * scale[:, None], scale)
    wanted = float((scale[:, None] * (theirs - test[:, 7:]).abs()).sum() / (scale[:, None] * test[:, 7:].abs()).sum())
    assert score.value == pytest.approx(wanted, rel=1e-9)


def test_the_loss_of_a_point_is_its_absolute_error():
    """Works when 9: where all quantiles coincide, the weighted quantile loss is |e| over the sum of |y|."""
    truth = windows(5, 4)
    point = truth + torch.tensor([1.0, -2.0, 0.5, 0.0])
    found = weighted_quantile_loss(point[:, None], truth)
    assert found.value == pytest.approx(float((point - truth).abs().sum() / truth.abs().sum()), rel=1e-12)
    assert weighted_quantile_loss(point[:, None].expand(-1, 7, -1), truth).value == pytest.approx(
        found.value, rel=1e-12
    )


def test_what_cannot_be_learned_from_is_refused():
    for rows, context, match in (
        (windows(), 10, "context"),
        (windows() * torch.nan, 7, "gaps"),
        (windows()[0], 1, "windows"),
    ):
        with pytest.raises(ValueError, match=match):
            RidgeForecast.fit(rows, context)
