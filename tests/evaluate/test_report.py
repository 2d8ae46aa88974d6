"""All sample metrics in one call."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from condiff.evaluate import (
    coverage,
    density,
    evaluate_samples,
    flat,
    frechet,
    kid,
    precision,
    recall,
)


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, 1, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_the_metrics_are_those_of_the_single_functions() -> None:
    x, y = rows(40, 1), rows(50, 2) + 0.5
    calls = []

    def features(part: Tensor) -> Tensor:
        calls.append(len(part))
        return part.flatten(1)[:, :4] * 2

    got = evaluate_samples(x, y, features=features, definition="four doubled", seed=3)
    assert calls == [40, 50]  # once for all metrics
    shared = {"features": features, "definition": "four doubled"}
    expected = [
        frechet(x, y, seed=3, **shared),
        kid(x, y, seed=3, **shared),
        precision(x, y, **shared),
        recall(x, y, **shared),
        density(x, y, seed=3, **shared),
        coverage(x, y, **shared),
    ]
    assert got == expected


def test_training_rows_add_the_floor_and_copying() -> None:
    train = rows(200, 3)
    copied = evaluate_samples(train[:40], rows(50, 2), train=train, seed=1)
    by_name = {metric.name: metric for metric in copied}
    assert list(by_name)[-3:] == ["frechet_train", "copying_ratio", "copying_share"]
    assert by_name["copying_share"].value == 1.0
    assert by_name["frechet_train"].n == 40
    fresh = {metric.name: metric for metric in evaluate_samples(rows(40, 9) * 3, rows(50, 2), train=train, seed=1)}
    assert fresh["copying_share"].value < 0.2
    assert fresh["frechet_train"] == by_name["frechet_train"]  # it does not look at the samples
    assert fresh["frechet"].value > 5 * fresh["frechet_train"].value
    assert json.dumps([metric.to_json() for metric in copied])


def test_random_features_are_named_in_every_definition() -> None:
    wide = [torch.randn(30, 100, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    got = evaluate_samples(wide[0], wide[1])
    assert all("random features, seed 0" in metric.definition for metric in got)


def test_features_and_definition_go_together() -> None:
    with pytest.raises(TypeError, match="belong together"):
        evaluate_samples(rows(10, 0), rows(10, 1), features=flat)
    with pytest.raises(TypeError, match="belong together"):
        evaluate_samples(rows(10, 0), rows(10, 1), definition="mine")
    with pytest.raises(ValueError, match="one shape"):
        evaluate_samples(rows(10, 0), rows(10, 1), train=rows(10, 2)[..., :1])
