"""Class agreement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condiff.evaluate import agreement, wilson


def read(x: Tensor) -> Tensor:
    return x[:, 0].long()


def test_agreement_counts_by_class() -> None:
    samples = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0])[:, None]
    asked = torch.tensor([0, 1, 1, 2, 2])
    got = agreement(samples, asked, classify=read, definition="first number")
    assert got.value == 0.8
    assert got.interval == wilson(4, 5)
    assert got.details == {"class 0": 1.0, "class 1": 0.5, "class 2": 1.0}
    assert "first number" in got.definition
    assert got.seed is None


def test_agreement_refuses_what_would_broadcast() -> None:
    samples = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="asked for"):
        agreement(samples, torch.zeros(1, dtype=torch.int64), classify=read, definition="")
    with pytest.raises(ValueError, match="asked for"):
        agreement(samples, torch.zeros(3), classify=read, definition="")
    with pytest.raises(ValueError, match="read by the classifier"):
        agreement(samples, torch.zeros(3, dtype=torch.int64), classify=lambda x: x, definition="")
    with pytest.raises(ValueError, match="no samples"):
        agreement(samples[:0], torch.zeros(0, dtype=torch.int64), classify=read, definition="")
