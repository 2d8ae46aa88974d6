"""The spiral experiment: its verdict on rows made by hand, its data, and a run of two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from condiff.claims import Row, diffusia
from condiff.data import corpus

GOOD = {
    "vowels, gain of spiral: one step at t = 0.8": 0.012,
    "vowels, gain of spiral: samples": -0.01,
    "vowels, spiral: samples": 0.5,
    "vowels, encdec: samples": 0.51,
    "vowels, copy: samples": 0.3,
    "verses, spiral: BLEU, chosen": 0.295,
    "verses, encdec: BLEU, chosen": 0.3,
    "verses, joint: BLEU, chosen": 0.2,
    "verses, copy: BLEU, chosen": 0.29,
}


def rows(changes):
    return [Row(name, value, "", 10, (value, value)) for name, value in {**GOOD, **changes}.items()]


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"vowels, gain of spiral: one step at t = 0.8": 0.009}, False),
        (
            {"vowels, gain of spiral: one step at t = 0.8": 0.0, "vowels, gain of spiral: samples": 0.011},
            True,
        ),
        ({"vowels, encdec: samples": 0.49}, False),
        ({"vowels, spiral: samples": 0.49}, False),
        ({"verses, encdec: BLEU, chosen": 0.31}, False),
        ({"verses, joint: BLEU, chosen": 0.31}, False),
        ({"verses, copy: BLEU, chosen": 0.3}, False),
    ],
)
def test_every_part_of_the_claim_decides(changes, holds):
    assert diffusia.verdict(rows(changes)) is holds


def test_vowels_are_left_out_and_words_come_back():
    test = diffusia.vowels().test
    given, data = (corpus.text(part[3].numpy()) for part in (test.conditions["input"], test.data))
    assert given == "".join(c for c in data if c not in "aeiouAEIOU")
    assert len(data) == diffusia.WINDOW
    splits, book = diffusia.simplified()
    assert len(splits.train) == 4993
    assert splits.train.meta["vocabulary"] == len(book) + 1
    row = splits.test.data[0]
    assert int((row == len(book)).nonzero()[0]) == len(diffusia._pairs(2)[1][0])
    told = [book[k] for k in row[row < len(book)].tolist()]
    assert all(a in (b, diffusia.UNKNOWN) for a, b in zip(told, diffusia._pairs(2)[1][0], strict=True))
    # No verse of a held-out book teaches a word.
    taught = {word for side in diffusia._pairs(0) for cut in side for word in cut}
    assert set(book[1:]) <= taught


def test_one_step_counts_tokens_that_are_no_end():
    """A system that always answers token 3 is right where the data have one."""
    from condiff.claims.lab import built
    from condiff.recipes import diffusia as recipe

    splits = diffusia.vowels()
    data = replace(splits.test.take(2), data=torch.tensor([[3, 3, 5, 256], [256, 3, 256, 256]]))
    system = built(recipe, splits, seed=0, **{**diffusia.SMALL, "width": 32, "depth": 1})
    with torch.no_grad():
        system.denoiser.net.out.bias.copy_(10.0 * system.denoiser.space.table.weight[3])
    assert diffusia.one_step(system, data, 0.5, 256) == 0.75


def test_two_steps_from_end_to_end(monkeypatch, tmp_path):
    monkeypatch.setattr(diffusia, "QUICK", diffusia.Budget(1, 2, 2, 6, 6, 2, 1))
    small = replace(diffusia.diffusia.training, batch_size=8)
    monkeypatch.setattr(diffusia, "diffusia", replace(diffusia.diffusia, training=small))
    heard = []
    result = diffusia.run(quick=True, seed=0, out=tmp_path, talk=heard.append)
    value = {row.name: row.value for row in result.rows}
    assert len(heard) == 6
    assert not result.holds
    assert result.calls == 20 * 2 * 6
    cross = 2 * (4 * 64 * 64 + 4 * 64)  # the cross-attention of two source layers
    assert value["spiral over encdec: parameters"] == pytest.approx(1 + cross / value["encdec: parameters"])
    assert value["verses, copy: BLEU, chosen"] > 0.2
    assert value["verses, spiral: BLEU, chosen"] < 0.02
    assert (tmp_path / "texts.txt").read_text().count("\n") == 3 * 6 + 3 * 6
