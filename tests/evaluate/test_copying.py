"""Copying: planted copies are found, new data is not accused."""

from __future__ import annotations

import json

import pytest
import torch

from condiff.evaluate import copying


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 1, 3, 2, generator=torch.Generator().manual_seed(seed))


def test_new_data_is_not_accused() -> None:
    got = copying(rows(300, 1), rows(400, 2), rows(300, 3))
    assert got.ratio.interval[0] < 1 < got.ratio.interval[1]
    assert got.closer.interval[0] < 0.01 < got.closer.interval[1]
    assert got.verdict.startswith("No sign of copying")


def test_planted_copies_are_found_and_named() -> None:
    train = rows(400, 2)
    planted = torch.tensor([7, 399, 0, 250, 31, 8, 100, 311, 64, 200, 201, 202])
    samples = rows(100, 1)
    samples[:12] = train[planted] + 1e-3
    samples[0] = train[7]
    got = copying(samples, train, rows(300, 3))
    assert got.neighbours[:12].tolist() == planted.tolist()
    assert got.distances[0].item() == 0.0
    assert got.distances[1:12].max().item() == pytest.approx(1e-3 * 6**0.5, rel=1e-3)
    assert 0.12 <= got.closer.value <= 0.15
    assert got.closer.interval[0] > 0.01
    assert got.ratio.details["exact_copies"] == 1.0
    assert got.verdict.startswith("Samples are suspiciously near")
    near = json.loads(json.dumps(got.to_json()))["nearest"]
    assert near[0] == {"sample": 0, "train": 7, "distance": 0.0}
    assert {entry["train"] for entry in near} <= set(planted.tolist())


def test_a_model_that_only_copies() -> None:
    train = rows(50, 2)
    got = copying(train[:20], train, rows(40, 3))
    assert (got.ratio.value, got.closer.value) == (0.0, 1.0)
    assert got.neighbours.tolist() == list(range(20))


def test_ratio_by_hand() -> None:
    # Nearest training distances: samples 1, 2, 3; held-out 2, 4, 6, so the medians are 2 and 4.
    train = torch.tensor([[0.0], [100.0]])
    got = copying(torch.tensor([[1.0], [-2.0], [103.0]]), train, torch.tensor([[-2.0], [4.0], [106.0]]))
    assert got.ratio.value == 0.5
    assert got.neighbours.tolist() == [0, 0, 1]
    assert got.held_out.tolist() == [2, 4, 6]
    # The 1 % quantile of 2, 4, 6 is 2.04: samples 1 and 2 are nearer.
    assert got.closer.value == pytest.approx(2 / 3)
    assert got.closer.details["threshold"] == pytest.approx(2.04)


def test_the_feature_function_decides_what_near_means() -> None:
    # Mirrored copies are far in values and exact in absolute values.
    train = rows(60, 2)
    got = copying(-train[:30], train, rows(40, 3), features=lambda x: x.flatten(1).abs(), definition="absolute")
    assert got.closer.value == 1.0
    assert "features: absolute" in got.closer.definition
    assert copying(-train[:30], train, rows(40, 3)).closer.value < 0.2


def test_intervals_are_seeded() -> None:
    sets = rows(30, 1), rows(40, 2), rows(30, 3)
    assert copying(*sets, seed=1).ratio == copying(*sets, seed=1).ratio
    assert copying(*sets, seed=1).ratio.interval != copying(*sets, seed=2).ratio.interval


def test_wrong_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        copying(rows(5, 1), rows(5, 2).flatten(1), rows(5, 3))
    train = rows(20, 2)
    with pytest.raises(ValueError, match="held-out rows are exact copies"):
        copying(rows(5, 1), train, train)


def test_exact_copies_count_even_where_held_out_data_has_some() -> None:
    # 5 of 100 held-out rows are copies too, so their 1 % quantile is 0; nothing is below it, but copies are copies.
    train, held_out, samples = rows(100, 2), rows(100, 3), rows(40, 1)
    held_out[:5], samples[:10] = train[:5], train[50:60]
    got = copying(samples, train, held_out)
    assert got.closer.details["threshold"] == 0.0
    assert got.closer.value == 0.25
