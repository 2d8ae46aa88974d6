"""A source read for some rows only: theirs are the numbers they draw alone, and the others' streams stand still."""

from __future__ import annotations

import torch

from condiff.core import RowRng, SharedRng
from condiff.core.rng import SomeRows


def test_some_rows_draw_as_they_would_alone_and_the_others_wait():
    some = torch.tensor([True, False, True])
    source = RowRng(5, [10, 11, 12])
    part = SomeRows(source, some)
    logits = torch.zeros(3, 4)
    drawn = [part.normal((3, 2)), part.uniform((3,)), part.gamma(2.0, (3, 2)), part.categorical(logits)]
    alone = RowRng(5, [10, 12])
    expected = [alone.normal((2, 2)), alone.uniform((2,)), alone.gamma(2.0, (2, 2)), alone.categorical(logits[:2])]
    for numbers, own in zip(drawn, expected, strict=True):
        assert torch.equal(numbers[some], own)
        assert float(numbers[~some].abs().sum()) == 0.0
        assert numbers.dtype == own.dtype
    assert source.counters == [4, 0, 4]
    assert torch.equal(source.normal((3, 2))[1], RowRng(5, [11]).normal((1, 2))[0])


def test_a_source_without_rows_is_read_for_all():
    some = torch.tensor([True, False])
    assert torch.equal(SomeRows(SharedRng(1), some).normal((2, 3)), SharedRng(1).normal((2, 3)))
    logits = torch.zeros(2, 5)
    assert torch.equal(SomeRows(SharedRng(1), some).categorical(logits), SharedRng(1).categorical(logits))
