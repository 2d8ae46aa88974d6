"""Writing text: prompts, gaps and long texts, with an exact model of two sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from condiff.data import BytePairs, Bytes
from condiff.oracles import TokenTable
from condiff.process import Absorbing
from condiff.recipes import text
from condiff.solvers import Ordered
from condiff.tasks.generate import sample
from condiff.tasks.text import ids, joined, words, write

TEXTS = ("the cat sat down", "a dog ran far on")


@pytest.fixture
def system():
    made = text(length=16, width=32, depth=1)
    process = Absorbing(257)
    table = TokenTable(process, torch.stack([ids(t) for t in TEXTS]), torch.tensor([0.5, 0.5]))
    return replace(made, process=process, denoiser=table, num_steps=16, data={"kind": "text"})


def test_bytes_go_round():
    for given in ("plain", "naïve — 東京", "a\nb\t c"):
        assert words(ids(given)) == given
    assert words(torch.tensor([72, 105, 256, 33])) == "Hi"  # 256 ends a text


def test_a_prompt_is_continued_and_kept(system):
    found = joined(write(system, num_samples=3, prompt="a d"))
    assert found == [TEXTS[1]] * 3


def test_gaps_are_filled_by_what_surrounds_them(system):
    assert joined(write(system, num_samples=2, infill="the ___ sat ____")) == [TEXTS[0]] * 2
    assert joined(write(system, num_samples=1, infill="a ___ ran")) == ["a dog ran"]  # shorter than it was trained for


def test_free_texts_are_both_and_named_by_their_number(system):
    found = joined(write(system, num_samples=20, seed=3))
    assert set(found) == set(TEXTS)
    assert joined(write(system, num_samples=5, first=10, seed=3, batch_size=2)) == found[10:15]


def test_a_long_text_is_written_in_windows_after_its_own_end():
    """A table of windows of one cyclic text: whatever was written, the next window has only one continuation."""
    cycle = "abcdefghijklmnopqrst"
    every = [(cycle * 3)[k : k + 16] for k in range(len(cycle))]
    process = Absorbing(257)
    made = text(length=16, width=32, depth=1)
    table = TokenTable(process, torch.stack([ids(t) for t in every]), torch.full((20,), 0.05))
    system = replace(made, process=process, denoiser=table, num_steps=16, data={"kind": "text"})
    pieces = list(write(system, num_samples=2, prompt="ab", length=50))
    assert pieces[0] == ["ab", "ab"]
    assert len(pieces) > 3  # it comes piece by piece
    assert ["".join(p) for p in zip(*pieces, strict=True)] == [(cycle * 3)[:50]] * 2
    long = (cycle * 3)[3:33]
    assert joined(write(system, num_samples=1, prompt=long, length=41)) == [(cycle * 3)[3:44]]
    assert joined(write(system, num_samples=1, prompt="abc", length=9)) == ["abcdefghi"]


def test_the_end_of_a_text_ends_it():
    process = Absorbing(257)
    row = torch.cat([ids("short"), torch.full((11,), 256)])
    made = text(length=16, width=32, depth=1)
    system = replace(
        made, process=process, denoiser=TokenTable(process, row[None], torch.ones(1)), solver=Ordered(), num_steps=4,
        data={"kind": "text"},
    )  # fmt: skip
    assert list(write(system, num_samples=2, length=100)) == [["short", "short"]]


def with_alphabet(alphabet, texts, length):
    """An exact model of a few texts in the tokens of an alphabet."""
    process = Absorbing(alphabet.end + 1)
    rows = torch.full((len(texts), length), alphabet.end)
    for row, one in zip(rows, texts, strict=True):
        row[: len(ids(one, alphabet))] = ids(one, alphabet)
    table = TokenTable(process, rows, torch.full((len(texts),), 1.0 / len(texts)))
    made = text(length=length, width=32, depth=1)
    meta = {"tokens": alphabet.to_json()}
    return replace(made, process=process, denoiser=table, num_steps=length, data={"kind": "text", "meta": meta})


def test_pieces_are_prompted_and_fill_gaps_that_take_the_space_along():
    pieces = BytePairs.fit(["the cat sat down on the mat, a dog ran"] * 9, 300)
    system = with_alphabet(pieces, ["the cat sat down", "a dog ran"], 8)
    assert len(ids("the cat sat down", pieces)) == 4
    assert joined(write(system, num_samples=2, prompt="the cat")) == ["the cat sat down"] * 2
    assert joined(write(system, num_samples=2, prompt="the cat ")) == ["the cat sat down"] * 2
    assert joined(write(system, num_samples=2, infill="the _ sat _")) == ["the cat sat down"] * 2
    assert joined(write(system, num_samples=2, infill="a dog ran____")) == ["a dog ran"] * 2  # the gap is all ends


def test_a_character_that_two_pieces_share_arrives_whole():
    """An exact model of bytes in windows of three: two-byte letters lie across their borders."""
    found = joined(write(with_alphabet(Bytes(), ["éaéa"[:3]], 5), num_samples=1))
    assert found == ["éaé"]
    cycle = "aéaéaéaéaé".encode()
    rows = torch.tensor([list(cycle[k : k + 4]) for k in range(3)])
    process = Absorbing(257)
    made = replace(
        text(length=4, width=32, depth=1), process=process, denoiser=TokenTable(process, rows, torch.full((3,), 1 / 3)),
        num_steps=4, data={"kind": "text"},
    )  # fmt: skip
    pieces = list(write(made, num_samples=1, prompt="a", length=8))
    assert "".join(piece[0] for piece in pieces) == "aéaéa\ufffd"  # 8 bytes end within a letter


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"prompt": "a", "infill": "b_"}, "not both"),
        ({"infill": "no gap here"}, "has no gap"),
        ({"infill": "_" * 17}, "17 bytes, but this system reads 16"),
        ({"infill": "a_", "length": 7}, "keeps its own length"),
        ({"prompt": "long", "length": 4}, "leaves nothing to write"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(system, wanted, message):
    with pytest.raises(ValueError, match=message):
        list(write(system, **wanted))


def test_other_systems_write_no_text():
    from condiff.recipes import vectors

    with pytest.raises(ValueError, match="for text"):
        list(write(vectors(), prompt="a"))


def test_mask_and_replace_writes_text_as_absorbing_does():
    """A cdcd run on text is prompted and filled like any other; what is given stays."""
    from condiff.core import Vector
    from condiff.core.condition import schema_to_json
    from condiff.recipes import cdcd

    schema = schema_to_json({"digit": Vector(2)})
    made = cdcd(length=12, vocabulary=257, shape=None, size="transformer", width=32, conditions=schema)
    texts = joined(write(made, num_samples=2, prompt="seven", cond={"digit": [[0.0, 1.0]]}, num_steps=4))
    assert all(text.startswith("seven") for text in texts)


def test_more_steps_than_tokens_ask_the_network_once_a_token_at_most():
    """And write what they would have written."""
    torch.manual_seed(0)
    made = text(length=16, width=32, depth=1, about={"kind": "text"})
    calls = []
    hidden = made.denoiser.net.net.hidden
    made.denoiser.net.net.hidden = lambda x, t, cond: calls.append(len(x)) or hidden(x, t, cond)
    blank = torch.full((2, 16), made.process.mask)
    plain = sample(made, num_samples=2, num_steps=200, seed=1, source=blank)
    assert len(calls) >= 200
    calls.clear()
    found = joined(write(made, num_samples=2, num_steps=200, seed=1))
    assert len(calls) <= 2 * 16
    assert found == [words(row) for row in plain]
