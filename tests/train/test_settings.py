"""Settings and recipes: what is refused, and what a call records."""

from __future__ import annotations

import json

import pytest
import torch
from train.toy import FAST, toy

from condiff.train import Training


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"clip": -1.0}, "clip must not be negative"),
        ({"seconds": -1.0}, "seconds must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0"),
        ({"ema": 1.0}, r"ema in \[0, 1\)"),
        ({"decay": 1.1}, r"decay must lie in \[0, 1\]"),
        ({"accumulate": 3, "batch_size": 8}, "8 does not split into 3"),
        ({"precision": "fp16"}, "fp32 or bf16, got 'fp16'"),
    ],
)
def test_bad_settings_are_named(bad, words):
    with pytest.raises(ValueError, match=words):
        Training(**bad)


def test_a_recipe_records_its_call_with_defaults():
    system = toy(width=5)
    assert system.call.name == "toy"
    assert json.loads(json.dumps(system.call.arguments)) == system.call.arguments
    assert system.call.arguments == {"width": 5, "dropout": 0.0, "tied": True, "sizes": [1, 2]}
    assert toy(**system.call.arguments).call == system.call
    assert (toy.summary, toy.training) == ("Toy of four numbers.", FAST)


@pytest.mark.parametrize("value", [torch.zeros(1), float("nan"), object()])
def test_arguments_that_cannot_be_written_are_refused(value):
    with pytest.raises(TypeError, match="arguments of recipe 'toy' must be plain JSON"):
        toy(dropout=value)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="breadth"):
        toy(breadth=3)
