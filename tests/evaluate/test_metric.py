"""Metric, Wilson and bootstrap intervals."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.evaluate import Metric, flat, mean_interval, wilson
from condiff.evaluate.metric import extract, share


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [
        # From scipy 1.17.1, binomtest(k, n).proportion_ci(method="wilson").
        (0, 10, (0.0, 0.2775327998628892)),
        (10, 10, (0.7224672001371107, 1.0)),
        (5, 10, (0.236593090512564, 0.763406909487436)),
        (81, 263, (0.2552885198782742, 0.36620957698280004)),
        (493, 500, (0.9713869308622147, 0.9932022102091564)),
    ],
)
def test_wilson_known_values(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(successes, n) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_ends_solve_the_score_equation(n: int, fraction: float) -> None:
    k = round(fraction * n)
    for end in wilson(k, n):
        if 0 < end < 1:
            assert abs(k / n - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / n), rel=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="proportion"):
        wilson(successes, n)


def test_mean_interval_matches_normal_theory_and_covers() -> None:
    # 200 means of 50 exponential rows: width against 2 * 1.96 * s / sqrt(n), coverage of the true mean 1.
    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(200, 50, dtype=torch.float64).exponential_(generator=generator)
    ends = torch.tensor([mean_interval(row, seed=i, name="x", num_resamples=400) for i, row in enumerate(rows)])
    theory = 2 * 1.96 * rows.std(1) / math.sqrt(50)
    assert ((ends[:, 1] - ends[:, 0]) / theory).mean().item() == pytest.approx(1.0, abs=0.04)
    covered = ((ends[:, 0] <= 1) & (ends[:, 1] >= 1)).double().mean().item()
    assert 0.88 <= covered <= 0.98  # percentile intervals of a skewed mean fall a little short of 0.95 at n = 50


def test_mean_interval_undoes_the_small_sample_shrinkage() -> None:
    # Two rows 0 and 1: resampled means are 0, 1/2, 1, widened by sqrt(2) around 1/2.
    low, high = mean_interval(torch.tensor([0.0, 1.0]), seed=0, name="x")
    assert (low, high) == pytest.approx((0.5 - math.sqrt(0.5), 0.5 + math.sqrt(0.5)))


def test_mean_interval_depends_on_seed_and_name_only() -> None:
    rows = torch.arange(30.0) ** 2
    state = torch.get_rng_state()
    first = mean_interval(rows, seed=1, name="a")
    assert first == mean_interval(rows, seed=1, name="a")
    assert first != mean_interval(rows, seed=2, name="a")
    assert first != mean_interval(rows, seed=1, name="b")
    assert torch.equal(state, torch.get_rng_state())


def test_mean_interval_is_the_same_in_chunks() -> None:
    # 30,000 rows do not fit one chunk of resamples; the interval must still be narrow and around the mean.
    rows = torch.randn(30_000, generator=torch.Generator().manual_seed(3))
    low, high = mean_interval(rows, seed=0, name="x", num_resamples=200)
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.25)
    assert low < float(rows.mean()) < high


def test_metric_json_round_trip_and_text() -> None:
    metric = Metric("kid", 0.25, (0.125, 0.5), 40, "a definition", "squared MMD", 7)
    assert json.loads(json.dumps(metric.to_json())) == {
        "name": "kid",
        "value": 0.25,
        "unit": "squared MMD",
        "n": 40,
        "interval": [0.125, 0.5],
        "seed": 7,
        "definition": "a definition",
    }
    assert str(metric) == "kid 0.25 squared MMD (95 % interval 0.125 to 0.5, n = 40)"
    assert share(torch.tensor([True, False]), name="a", definition="b", details={"c": 1.0}).to_json()["details"] == {
        "c": 1.0
    }


@pytest.mark.parametrize(
    ("value", "interval", "n", "match"),
    [
        (math.nan, (0.0, 1.0), 3, "came out as nan"),
        (0.5, (1.0, 0.0), 3, "low must not exceed high"),
        (0.5, (0.0, math.nan), 3, "low must not exceed high"),
        (0.5, (0.0, 1.0), 0, "at least one"),
    ],
)
def test_metric_refuses(value: float, interval: tuple[float, float], n: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Metric("x", value, interval, n, "d")


def test_extract_chunks_flattens_and_tracks_no_gradient() -> None:
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, 4, requires_grad=True)
    sizes = []

    def features(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return part @ weight

    out = extract(x, features, what="samples", chunk=3)
    assert sizes == [3, 3, 1]
    assert not out.requires_grad
    assert out.dtype == torch.float64
    assert torch.equal(out, (x @ weight).flatten(1).double())


def test_extract_names_the_bad_row() -> None:
    x = torch.zeros(5, 3)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 5 samples .* row 3"):
        extract(x, flat, what="samples")
    with pytest.raises(TypeError, match="token numbers"):
        extract(torch.zeros(5, 3, dtype=torch.int64), flat, what="samples")
    with pytest.raises(ValueError, match="at least 2 rows"):
        extract(torch.zeros(1, 3), flat, what="samples")
    with pytest.raises(ValueError, match="must keep rows"):
        extract(torch.zeros(4, 3), lambda part: part[:1], what="samples")
