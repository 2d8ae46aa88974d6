"""Alphabets: every text comes back, what is unknown has one rule, and JSON holds all of it."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from condiff.data import BytePairs, Bytes, Characters, read, read_like
from condiff.data.alphabet import raw, restored, settled, surcharge, text, texts

PROSE = "In the beginning God created the heaven and the earth. And the earth was without form, and void; " * 20
PIECES = BytePairs.fit([PROSE], 300)
LETTERS = Characters.fit([PROSE])


def unicode_text(alphabet=None):
    return st.text(alphabet or st.characters(exclude_categories=["Cs"]), max_size=40)


@given(unicode_text())
@example("naïve — 東京 🙂\n\t  two  spaces ")
@settings(deadline=None, max_examples=30)
def test_bytes_and_pieces_bring_every_text_back(given_text):
    for alphabet in (Bytes(), PIECES):
        row = alphabet.encode(given_text)
        assert row.dtype == np.int16
        assert text(row, alphabet) == given_text
        assert raw(row, alphabet) == given_text.encode()
        assert not len(row) or 0 <= row.min() <= row.max() < alphabet.end
        assert alphabet.unknown(given_text) == ""


@given(unicode_text())
@settings(deadline=None, max_examples=30)
def test_characters_are_one_token_each_and_unknown_ones_are_shown_as_such(given_text):
    row = LETTERS.encode(given_text)
    assert len(row) == len(given_text)
    shown = "".join(letter if letter in LETTERS.characters else "\ufffd" for letter in given_text)
    assert text(row, LETTERS) == shown
    assert LETTERS.unknown(given_text) == "".join(sorted({c for c in given_text if c not in LETTERS.characters}))


@pytest.mark.parametrize("alphabet", [Bytes(), LETTERS, PIECES], ids=["bytes", "characters", "bpe"])
def test_json_holds_all_of_it(alphabet):
    again = restored(json.loads(json.dumps(alphabet.to_json())))
    assert again == alphabet
    assert again.encode(PROSE[:200]).tolist() == alphabet.encode(PROSE[:200]).tolist()
    assert len(alphabet.spelling) == alphabet.end


def test_the_end_ends_a_text_and_cuts_a_row():
    row = np.array([72, 105, 256, 33, 256, 256])
    assert text(row, Bytes()) == "Hi"
    assert texts(row, Bytes()) == ["Hi", "!"]
    assert texts(row[:2], Bytes()) == ["Hi"]
    assert text(np.array([72, 257, 33]), Bytes()) == "H"  # a mask that is left ends it too


def test_pieces_by_hand():
    """Pairs of "ab ab ab abc": ab comes four times, then " ab" three times; abc never crosses a space."""
    made = BytePairs.fit(["ab ab ab abc"], 259)
    assert made.merges == "a b\nĠ ab"
    assert made.end == 258
    assert made.spelling[256:] == (b"ab", b" ab")
    assert made.encode("ab abc").tolist() == [256, 257, ord("c")]
    assert made.encode("é").tolist() == list("é".encode())
    assert made.stem("ab ") == "ab"
    assert made.stem("ab") == made.stem("") == ""
    assert Bytes().stem("ab ") == "ab "


def test_pieces_get_longer_and_learning_repeats():
    assert BytePairs.fit([PROSE], 300) == PIECES
    lengths = [len(BytePairs.fit([PROSE], size).encode(PROSE)) for size in (257, 280, 320)]
    assert lengths[0] == len(PROSE.encode())
    assert all(more > fewer for more, fewer in pairwise(lengths))


def test_characters_keep_the_most_frequent():
    made = Characters.fit(["aaabbc"], 4)
    assert made.characters == "ab"
    assert made.end == 3
    assert made.encode("abcz").tolist() == [0, 1, 2, 2]
    assert surcharge(made)[:2].tolist() == [0.0, 0.0]
    assert surcharge(made)[2] == pytest.approx(np.log2(1_112_064 - 2))  # which of Unicode's others it is
    assert not surcharge(PIECES).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Characters(""), "different characters"),
        (lambda: Characters("aa"), "different characters"),
        (lambda: Characters.fit(["a"], 2), "must be 3 to 32,000, got 2"),
        (lambda: BytePairs.fit(["a"], 256), "must be 257 to 32,000, got 256"),
        (lambda: restored({"kind": "runes"}), "kind 'runes' are unknown"),
    ],
)
def test_what_cannot_be_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_the_library_bytes_and_ids_still_work(monkeypatch):
    import sys

    stored = restored(PIECES.to_json())
    row = PIECES.encode("the heaven")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert text(row, stored) == "the heaven"
    with pytest.raises(ValueError, match=r"extra \[text\]"):
        stored.encode("the")
    with pytest.raises(ValueError, match=r"extra \[text\]"):
        BytePairs.fit(["the"])


def test_what_checkpoints_held_before_is_bytes():
    assert restored("utf-8 bytes") == restored(None) == settled(None, ["x"]) == Bytes()
    assert settled(PIECES, ["other"]) is PIECES


@pytest.mark.parametrize("learn", [Characters.fit, partial(BytePairs.fit, size=280)], ids=["characters", "bpe"])
def test_a_file_is_read_with_an_alphabet_of_its_training_part_and_read_again_with_the_same(tmp_path, learn):
    path = tmp_path / "a.txt"
    path.write_text(PROSE * 4 + "ZZQ" * 150)  # letters that only the last part has
    splits = read(path, length=16, tokens=learn)
    alphabet = restored(splits.train.meta["tokens"])
    assert text(splits.train.data[0].numpy(), alphabet) == PROSE[: len(text(splits.train.data[0].numpy(), alphabet))]
    assert splits.train.meta["vocabulary"] == alphabet.end + 1
    assert int(splits.test.data.max()) < alphabet.end
    if isinstance(alphabet, Characters):
        assert "Z" not in alphabet.characters
        assert set(text(splits.test.data[-1].numpy(), alphabet)) == {"\ufffd"}
    path.write_text(PROSE[::-1] * 5)  # another text, in the tokens of the first
    again = read_like({"kind": "text", "meta": splits.train.meta}, path)
    assert again.train.meta["tokens"] == splits.train.meta["tokens"]
    assert again.train.data.shape[1] == 16


def test_pairs_share_one_alphabet(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("\n".join(f"xyz {n}\tabc {n}" for n in range(60)))
    train = read(path, length=8, tokens=Characters.fit).train
    alphabet = restored(train.meta["tokens"])
    assert set("xyzabc") < set(alphabet.characters)
    given_texts = [text(row.numpy(), alphabet) for row in train.conditions["input"]]
    assert all(t.startswith("xyz ") for t in given_texts)
    assert train.meta["conditions"]["input"]["tokens"] == train.meta["tokens"]


def test_bundled_verses_in_pieces(monkeypatch):
    from condiff.data import verses

    some = verses.table()[::100]
    monkeypatch.setattr(verses, "table", lambda: some)
    first = verses.verses(48, partial(BytePairs.fit, size=400)).train
    assert text(first.data[0].numpy(), restored(first.meta["tokens"])) == some[0].bbe
    assert text(first.conditions["input"][0].numpy(), restored(first.meta["tokens"])) == some[0].kjv
    running = verses.passages(32, "kjv", tokens=Characters.fit).train
    assert text(running.data[0].numpy(), restored(running.meta["tokens"])) == some[0].kjv[:32]


def test_tokens_are_for_text():
    with pytest.raises(ValueError, match="tokens and packing are for text"):
        read("mocap", tokens=Bytes())


@pytest.mark.parametrize(
    "text",
    [
        "In the beginning, we'll say: it's they're we've 12 cats\n\nA new line  with two \t spaces. ",
        "起初神创造天地。地是空虚混沌。渊面黑暗。神的灵运行在水面上。",
        "größer müßig 'quoted' x_y 3.14 (so) -- !' l'",
    ],
)
@pytest.mark.parametrize("size", [280, 600])
def test_the_stem_of_a_text_stays_as_it_is_however_the_text_goes_on(text, size):
    """Every beginning of a text: the tokens of its stem are the first ones of the whole text, and of other ends."""
    made = BytePairs.fit([text * 20], size)
    shorter = 0
    for k in range(len(text) + 1):
        stem = made.stem(text[:k])
        assert text[:k].startswith(stem)
        sure = made.encode(stem).tolist()
        for end in (text[k:], text[k:] + "ll", "", "x", "'ll", " ", "ll", "\n"):
            assert made.encode(text[:k] + end).tolist()[: len(sure)] == sure, (text[:k], end)
        shorter += len(stem) < k
        assert len(made.encode(text[:k])) - len(sure) <= 12 or size == 280
    assert shorter > len(text) // 2
