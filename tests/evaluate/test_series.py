"""Measures of forecasts against values computed by hand, against scoringrules, and against gluonts' evaluator."""

from __future__ import annotations

import math

import pytest
import torch

from condiff.evaluate.series import (
    LEVELS,
    Score,
    band_coverage,
    energy_score,
    ensemble_crps,
    ensemble_quantiles,
    forecast_scores,
    mase,
    pinball,
    pit,
    pit_scores,
    seasonal_scale,
    weighted_quantile_loss,
)

NAN = math.nan


def made(windows: int = 5, count: int = 19, horizon: int = 4, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    truth = 10 + 3 * torch.randn(windows, horizon, generator=rng, dtype=torch.float64)
    draws = 10.5 + 2 * torch.randn(windows, count, horizon, generator=rng, dtype=torch.float64)
    return draws, truth


def test_quantiles_put_draw_k_at_k_over_n_plus_one():
    draws = torch.tensor([3.0, 1.0, 2.0, 4.0]).reshape(1, 4, 1)
    found = ensemble_quantiles(draws, (0.2, 0.4, 0.5, 0.8, 0.05, 0.99)).flatten()
    assert found.tolist() == pytest.approx([1.0, 2.0, 2.5, 4.0, 1.0, 4.0])
    with pytest.raises(ValueError, match=r"levels must lie in \(0, 1\)"):
        ensemble_quantiles(draws, (1.0,))


def test_pinball_by_hand():
    y, f = torch.tensor([3.0, 3.0]), torch.tensor([1.0, 4.0])
    assert pinball(y, f, 0.9).tolist() == pytest.approx([1.8, 0.1])  # too low costs 0.9 a unit, too high 0.1
    torch.testing.assert_close(pinball(y, f, 0.5), 0.5 * (y - f).abs())


def test_weighted_quantile_loss_by_hand():
    draws = torch.tensor([[[1.0], [2.0], [3.0]], [[0.0], [0.0], [0.0]]])
    truth = torch.tensor([[4.0], [-1.0]])
    # level 1/4 is the first draw, 3/4 the third: 2 * mean(.25 * 3, .75 * 1) = 1.5; 2 * mean(.75 * 1, .25 * 1) = 1
    score = weighted_quantile_loss(draws, truth, (0.25, 0.75))
    assert score.top.tolist() == pytest.approx([1.5, 1.0])
    assert score.value == pytest.approx(2.5 / 5.0)


def test_crps_of_a_point_forecast_equals_nd():
    """TSDiff's test 9: for a point forecast both CRPS are sum |e| / sum |y|."""
    draws, truth = made()
    point = draws[:, :1]
    nd = (point[:, 0] - truth).abs().sum() / truth.abs().sum()
    assert weighted_quantile_loss(point, truth).value == pytest.approx(float(nd), rel=1e-12)
    assert ensemble_crps(point, truth).value == pytest.approx(float(nd), rel=1e-12)
    assert weighted_quantile_loss(point.expand(-1, 7, -1), truth).value == pytest.approx(float(nd), rel=1e-12)


def test_crps_by_hand_and_by_the_double_sum():
    score = ensemble_crps(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[5.0]]))
    assert score.top.tolist() == pytest.approx([4.0 - 0.5])  # mean of 5 and 3, less half the mean of 0, 2, 2, 0
    assert score.details["crps_fair"] == pytest.approx(4.0 - 1.0)
    draws, truth = made()
    far = (draws - truth[:, None]).abs().mean(1)
    apart = (draws[:, :, None] - draws[:, None]).abs().mean((1, 2))
    torch.testing.assert_close(ensemble_crps(draws, truth).top, (far - 0.5 * apart).sum(1))


def test_the_two_crps_differ_on_the_same_draws():
    draws, truth = made(50, 99)
    assert weighted_quantile_loss(draws, truth).value != pytest.approx(ensemble_crps(draws, truth).value, rel=0.01)
    levels = [k / 1000 for k in range(1, 1000)]  # in the limit of many levels they are one
    assert weighted_quantile_loss(draws, truth, levels).value == pytest.approx(
        ensemble_crps(draws, truth).value, rel=0.01
    )


def test_energy_score_by_hand_and_of_one_step_is_crps():
    draws = torch.tensor([[[13.0, 4.0], [10.0, 0.0]]])
    score = energy_score(draws, torch.tensor([[10.0, 0.0]]))
    assert score.top.tolist() == pytest.approx([2.5 - 1.25])  # distances 5 and 0; pairs 0, 5, 5, 0
    draws, truth = made(horizon=1)
    torch.testing.assert_close(energy_score(draws, truth).top, ensemble_crps(draws, truth).top)


def test_energy_score_asks_for_steps_that_belong_together():
    rng = torch.Generator().manual_seed(3)
    walk = torch.randn(40, 51, 12, generator=rng).cumsum(2) + 30
    truth, draws = walk[:, 0], walk[:, 1:]
    torn = torch.stack([draws[:, torch.randperm(50, generator=rng), k] for k in range(12)], 2)
    assert ensemble_crps(torn, truth).value == pytest.approx(ensemble_crps(draws, truth).value)
    assert energy_score(torn, truth).value > 1.05 * energy_score(draws, truth).value


def test_mase_by_hand():
    assert seasonal_scale(torch.tensor([1.0, 5.0, 2.0, NAN, 6.0, 1.0]), 2) == pytest.approx((1 + 4) / 2)
    draws = torch.tensor([[[2.0, 7.0], [4.0, 9.0], [3.0, 8.0]], [[1.0, 1.0]] * 3])
    truth = torch.tensor([[4.0, 5.0], [2.0, 2.0]])
    score = mase(draws, truth, torch.tensor([2.5, 0.0]))
    assert score.value == pytest.approx((1 + 3) / 2 / 2.5)  # the second history repeats itself: it does not count
    assert score.metric().n == 1
    assert score.details["left_out"] == 1


def test_coverage_by_hand():
    draws = torch.arange(1.0, 20.0).reshape(1, 19, 1).expand(4, 19, 1)  # draw k is the k / 20 quantile
    truth = torch.tensor([[1.0], [0.9], [19.0], [NAN]])
    score = band_coverage(draws, truth, 0.9)
    assert (score.top.tolist(), score.bottom.tolist()) == ([1, 0, 1, 0], [1, 1, 1, 0])
    assert score.details["width"] == pytest.approx(18.0)
    assert band_coverage(draws, truth, 0.5).value == 0


def test_calibrated_draws_are_called_calibrated_and_others_are_not():
    rng = torch.Generator().manual_seed(1)
    truth = torch.randn(1000, 1, generator=rng)
    good = torch.randn(1000, 19, 1, generator=rng)
    found = {s.name: s.metric() for s in forecast_scores(good, truth)}
    for name, right in (
        ("coverage_50", 0.5),
        ("coverage_80", 0.8),
        ("coverage_90", 0.9),
        ("pit_mean", 0.5),
        ("pit_spread", 1.0),
    ):
        low, high = found[name].interval
        assert abs(found[name].value - right) < 1.5 * (high - low) / 2, found[name]  # three deviations: five are asked
    assert pit_scores(good - 1, truth)[0].value > 0.65  # forecasts too low: the truth ranks high
    assert pit_scores(0.3 * good, truth)[1].value > 1.8  # bands too narrow: ranks at both ends
    assert pit_scores(4 * good, truth)[1].value < 0.5
    assert sum(pit_scores(good, truth)[0].details.values()) == pytest.approx(1.0)


def test_pit_shares_ties_out_evenly():
    value = pit(torch.zeros(4000, 9, 1), torch.zeros(4000, 1))
    assert float(value.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(value.std()) == pytest.approx(12**-0.5, abs=0.01)
    assert pit(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[3.0]])).item() > 2 / 3
    assert math.isnan(pit(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[NAN]])).item())


def test_missing_truth_changes_nothing_but_what_is_scored():
    draws, truth = made(horizon=3)
    holed = torch.cat([truth, torch.full((5, 1), NAN, dtype=torch.float64)], 1)
    more = torch.cat([draws, 1e6 * torch.ones(5, 19, 1, dtype=torch.float64)], 2)
    for short, long in zip(forecast_scores(draws, truth), forecast_scores(more, holed), strict=True):
        if not short.name.startswith("pit"):  # their random part has another shape
            torch.testing.assert_close(short.top, long.top)
            torch.testing.assert_close(short.bottom, long.bottom)


def test_scores_scale_as_they_should():
    draws, truth = made()
    for one, other in zip(forecast_scores(draws, truth), forecast_scores(1000 * draws, 1000 * truth), strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-12), one.name


def test_gain_pairs_the_windows():
    rng = torch.Generator().manual_seed(2)
    hard = torch.rand(30, generator=rng).double() * 100
    one, base = (Score("loss", hard + shift, torch.ones(30).double(), "loss") for shift in (0.0, 2.0))
    gain = one.gain(base)
    assert gain.value == pytest.approx(1 - float(hard.mean()) / float(hard.mean() + 2))
    assert gain.interval[0] > 0  # though the windows' own spread is 15 times the difference
    assert one.metric().interval[1] > base.value
    with pytest.raises(ValueError, match="not one measure of the same windows"):
        one.gain(Score("loss", hard, 2 * torch.ones(30).double(), "loss"))


def test_intervals_cover():
    rng = torch.Generator().manual_seed(5)
    inside = 0
    for k in range(200):
        bottom = 1 + torch.rand(20, generator=rng).double()
        top = bottom * (2 + torch.randn(20, generator=rng).double())
        low, high = Score("x", top, bottom, "x").metric(seed=k, num_resamples=300).interval
        inside += low <= 2 <= high
    assert 0.88 <= inside / 200 <= 0.99


@pytest.mark.parametrize(
    ("draws", "truth", "message"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 3), r"draws \(W, N, H\) and truth \(W, H\)"),
        (torch.full((2, 3, 4), NAN), torch.ones(2, 4), "24 of 24 forecast values are not finite"),
        (torch.ones(2, 3, 4), torch.zeros(2, 4), "all true values are zero or missing"),
        (torch.ones(0, 3, 4), torch.ones(0, 4), "there are no windows"),
    ],
)
def test_what_cannot_be_scored_is_refused(draws, truth, message):
    with pytest.raises(ValueError, match=message):
        weighted_quantile_loss(draws, truth)


def test_zero_truth_keeps_what_needs_no_scale():
    names = [score.name for score in forecast_scores(torch.randn(3, 9, 2), torch.zeros(3, 2), scale=torch.ones(3))]
    assert names == ["mase", "coverage_50", "coverage_80", "coverage_90", "pit_mean", "pit_spread"]
    with pytest.raises(ValueError, match="every true value is missing"):
        forecast_scores(torch.randn(3, 9, 2), torch.full((3, 2), NAN))


def test_scores_equal_scoringrules():
    rules = pytest.importorskip("scoringrules")
    draws, truth = made(7, 23, 6)
    ensemble = draws.movedim(1, 2).numpy()
    crps = ensemble_crps(draws, truth)
    expected = rules.crps_ensemble(truth.numpy(), ensemble, estimator="nrg")
    assert crps.top.numpy() == pytest.approx(expected.sum(1), rel=1e-10)
    fair = rules.crps_ensemble(truth.numpy(), ensemble, estimator="fair")
    assert crps.details["crps_fair"] == pytest.approx(fair.mean(), rel=1e-10)
    energy = rules.es_ensemble(truth.numpy(), draws.numpy(), estimator="nrg")
    assert energy_score(draws, truth).top.numpy() == pytest.approx(energy, rel=1e-10)
    at = ensemble_quantiles(draws, (0.3,))[:, 0]
    assert pinball(truth, at, 0.3).numpy() == pytest.approx(
        rules.quantile_score(truth.numpy(), at.numpy(), 0.3), rel=1e-10
    )


@pytest.mark.slow  # its import alone takes four seconds
def test_scores_equal_the_evaluator_of_gluonts():
    pytest.importorskip("gluonts")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import numpy as np
        import pandas as pd
        from gluonts.evaluation import Evaluator
        from gluonts.model.forecast import QuantileForecast

        draws, truth = made(6, 39, 5)
        past = 10 + 3 * torch.randn(6, 48, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        levels = [*LEVELS, 0.05, 0.95, 0.25, 0.75]
        found = ensemble_quantiles(draws, levels).numpy()
        start = pd.Period("2024-01-01", freq="D")
        targets = [
            pd.DataFrame(np.concatenate([past[w], truth[w]]), index=pd.period_range(start, periods=53, freq="D"))
            for w in range(6)
        ]
        forecasts = [QuantileForecast(found[w], start + 48, [str(level) for level in levels]) for w in range(6)]
        theirs, _ = Evaluator(quantiles=levels, seasonality=7, num_workers=0)(targets, forecasts)
    deciles = np.mean([theirs[f"wQuantileLoss[{level}]"] for level in LEVELS])
    assert weighted_quantile_loss(draws, truth).value == pytest.approx(deciles, rel=1e-9)
    assert weighted_quantile_loss(draws, truth, levels).value == pytest.approx(theirs["mean_wQuantileLoss"], rel=1e-9)
    scale = torch.tensor([seasonal_scale(row, 7) for row in past])
    assert mase(draws, truth, scale).value == pytest.approx(theirs["MASE"], rel=1e-7)  # theirs rounds
    for share, low, high in ((0.5, 0.25, 0.75), (0.8, 0.1, 0.9), (0.9, 0.05, 0.95)):
        ours = theirs[f"Coverage[{high}]"] - theirs[f"Coverage[{low}]"]
        assert band_coverage(draws, truth, share).value == pytest.approx(ours, abs=1e-9)
