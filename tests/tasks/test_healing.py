"""Prompts that end within a token: the law of what goes on from their characters, exact models first."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tasks.test_text import with_alphabet

from condiff import recipes
from condiff.core.condition import TokenIds, schema_to_json
from condiff.data import BytePairs
from condiff.recipes import ctrldiff, diffusia, radd
from condiff.tasks.generate import condition_of
from condiff.tasks.healing import Covers, covered, following, spelled
from condiff.tasks.text import ids, joined, words, write

SPELLING = (b"a", b"b", b"ab", b"ba", b"abb", b"bab", b"")
"""The last one is a token that no text holds."""


def law():
    """A model whose next token depends on all before it: log p of every id after ids (R, d)."""

    def after(more):
        out = []
        for row in more.tolist():
            generator = torch.Generator().manual_seed(sum((k + 1) * 17**n for n, k in enumerate(row, 1)))
            out.append(torch.log_softmax(torch.randn(len(SPELLING) + 1, generator=generator), -1))
        return torch.stack(out)

    return after


@pytest.mark.parametrize("rest", [b"a", b"ab", b"abba", b"babab"])
def test_covers_are_all_ways_to_spell_a_rest_with_their_probabilities(rest):
    """Against every sequence of tokens there is, cut where it reaches the end of the rest."""
    after = law()
    found = Covers.of(rest, SPELLING, after, 6)
    expected = {}
    for size in range(1, len(rest) + 1):
        for ids_ in product(range(6), repeat=size):
            whole, before = (b"".join(SPELLING[k] for k in part) for part in (ids_, ids_[:-1]))
            if whole.startswith(rest) and len(before) < len(rest):
                log_p = 0.0
                for n, k in enumerate(ids_):
                    log_p += float(after(torch.tensor([ids_[:n]], dtype=torch.int64).reshape(1, n))[0, k])
                expected[ids_] = log_p
    assert dict(zip(found.tokens, found.log_p.tolist(), strict=True)) == pytest.approx(expected)
    assert found.log_p.tolist() == sorted(expected.values(), reverse=True)


def test_covers_have_no_more_tokens_than_there_is_room_for():
    assert max(map(len, Covers.of(b"babab", SPELLING, law(), 2).tokens)) == 2
    with pytest.raises(ValueError, match="no 1 tokens spell b'babab'"):
        Covers.of(b"babab", SPELLING, law(), 1)


def test_covers_are_drawn_by_their_probability_and_without_the_tail_if_asked():
    found = Covers.of(b"a", SPELLING, law(), 1)
    u = (torch.arange(4000) + 0.5) / 4000
    share = torch.tensor([found.draw(u).count(torch.tensor(ids_)) for ids_ in found.tokens]) / 4000
    assert torch.allclose(share.double(), torch.softmax(found.log_p, 0), atol=1e-3)
    likely = float(torch.softmax(found.log_p, 0)[0])
    assert {tuple(one.tolist()) for one in found.draw(u, likely * 0.9)} == {found.tokens[0]}


def test_a_model_for_which_nothing_is_possible_still_spells():
    never = lambda more: torch.full((len(more), 8), -torch.inf)  # noqa: E731
    assert Covers.of(b"ab", SPELLING, never, 3).draw(torch.tensor([0.5]))


TEXTS = ["the quick fox ran", "the quiet day ran", "the queen ran"]


@pytest.fixture(scope="module")
def pieces():
    return BytePairs.fit([". ".join(TEXTS) * 9], 300)


def test_a_prompt_that_ends_within_a_word_goes_on_as_the_texts_that_begin_so(pieces):
    """An exact model of three texts. As it is cut when typed, "the qui" begins none of them."""
    system = with_alphabet(pieces, TEXTS, 8)
    assert not any(
        ids(text, pieces).tolist()[: len(ids("the qui", pieces))] == ids("the qui", pieces).tolist() for text in TEXTS
    )
    found = joined(write(system, num_samples=200, prompt="the qui"))
    assert set(found) == set(TEXTS[:2])
    assert 70 <= found.count(TEXTS[0]) <= 130  # 100 and 4 spreads
    assert joined(write(system, num_samples=3, first=50, prompt="the qui")) == found[50:53]
    for cut in range(1, len(TEXTS[2])):
        begun = TEXTS[2][:cut]
        assert all(
            text.startswith(begun) and text in TEXTS for text in joined(write(system, num_samples=4, prompt=begun))
        )


def test_what_goes_beyond_the_prompt_comes_after_it(pieces):
    shown = list(write(with_alphabet(pieces, TEXTS, 8), num_samples=2, prompt="the quee"))
    assert shown == [["the quee"] * 2, ["n"] * 2, [" ran"] * 2]


def test_a_space_before_a_gap_begins_the_gap(pieces):
    """The model would rather go on without a space: what was typed decides."""
    system = with_alphabet(pieces, ["the, quick", "the queen ran"], 6)
    assert joined(write(system, num_samples=20, infill="the __")) == ["the queen ran"] * 20
    assert set(joined(write(system, num_samples=40, infill="the__"))) == {"the, quick", "the queen ran"}


ODD = ["th", "the ", "the  ", "the qui", " ", "\n", "the quick fox, q", "we'l", "né", "日本", "the\t"]


def random(system):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for weight in system.denoiser.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return system


def made(recipe, pieces, length=16, **more):
    about = {"kind": "text", "meta": {"tokens": pieces.to_json()}}
    return random(recipe(length=length, vocabulary=pieces.end + 1, width=32, depth=1, about=about, **more))


@pytest.mark.parametrize("recipe", [radd, ctrldiff, diffusia], ids=lambda r: r.name)
@pytest.mark.parametrize("prompt", ODD)
def test_a_text_begins_with_exactly_what_was_typed(recipe, prompt, pieces):
    system = made(recipe, pieces, length=24)
    found = joined(write(system, num_samples=3, prompt=prompt, num_steps=4, length=24))
    assert all(text.startswith(prompt) for text in found)
    alone = joined(write(system, num_samples=1, first=2, prompt=prompt, num_steps=4, length=24))
    assert alone == found[2:]


def test_mask_and_replace_is_mended_too(pieces):
    about = {"kind": "text", "meta": {"tokens": pieces.to_json()}}
    system = random(
        recipes.cdcd(length=24, vocabulary=pieces.end + 1, shape=None, size="transformer", width=32, about=about)
    )
    for prompt in ("the qui", "the "):
        texts = joined(write(system, num_samples=3, prompt=prompt, num_steps=4))
        assert all(text.startswith(prompt) for text in texts)
    assert all(text.startswith("the ") for text in joined(write(system, num_samples=3, infill="the __", num_steps=4)))


@pytest.mark.parametrize("recipe", [radd, ctrldiff], ids=lambda r: r.name)
def test_prompts_of_any_length_go_on(recipe, pieces):
    """Around the window of 16, where the stem is cut and the room for covers with it."""
    system, cycle = made(recipe, pieces), "the quick fox, we'll say"
    for size in range(1, 90, 4):
        prompt = (cycle * 5)[:size]
        count = len(ids(prompt, pieces))
        text = joined(write(system, num_samples=2, prompt=prompt, num_steps=2, length=count + 3))
        assert all(one.startswith(prompt) for one in text), prompt


def test_in_blocks_and_windows_the_next_token_has_the_law_of_the_model(pieces):
    """`following` in blocks is the network after all tokens before; within a window, the one that sees only masks after."""
    system, stem, more = made(ctrldiff, pieces), torch.tensor([5, 6, 7]), torch.tensor([[8, 9], [1, 2]])
    net, one = system.denoiser, torch.ones((), dtype=torch.float64)
    mask = system.process.mask
    for row, log_p in zip(more, following(system, stem)(more), strict=True):
        memory = net.remember(None, torch.cat([stem, row])[None])
        assert torch.allclose(log_p.float(), net(torch.tensor([[mask]]), one, memory).logits[0, 0], atol=1e-5)
    first = following(system, torch.empty(0, dtype=torch.int64))(torch.empty(1, 0, dtype=torch.int64))
    assert torch.allclose(first[0].float(), net(torch.tensor([[mask]]), one, None).logits[0, 0], atol=1e-5)
    system = made(radd, pieces)
    x = torch.full((2, 16), mask)
    x[:, :3], x[:, 3:5] = stem, more
    assert torch.allclose(following(system, stem)(more).float(), system.denoiser(x, one, None).logits[:, 5], atol=1e-5)


def test_every_sample_is_asked_under_its_own_condition(pieces):
    schema = schema_to_json({"input": TokenIds(4, pieces.end + 1)})
    system = made(recipes.text, pieces, conditions=schema)
    asked = {"input": [[1, 2, 3, 4], [40, 3, 2, 1]]}
    stem = ids("the", pieces)
    drawn = covered(system, stem, b" qu", pieces.spelling, rows=range(6), most=5, cond=asked)
    apart = [
        covered(system, stem, b" qu", pieces.spelling, rows=range(k, k + 1), most=5, cond=asked)[0] for k in range(6)
    ]
    assert all(torch.equal(one, other) for one, other in zip(drawn, apart, strict=True))
    both = condition_of(system, asked, range(2))
    laws = [following(system, stem, both.rows(torch.tensor([k])))(torch.empty(1, 0).long()) for k in range(2)]
    assert not torch.allclose(*laws)


def test_a_place_is_drawn_among_the_tokens_that_begin_as_asked(pieces):
    system = made(radd, pieces)
    x = torch.full((300, 16), system.process.mask)
    drawn = spelled(system, x, 4, b" q", pieces.spelling, rows=range(300))
    assert {words(one[None], pieces)[:2] for one in drawn} == {" q"}
    log_p = torch.log_softmax(system.denoiser(x[:1], torch.ones(()).double(), None).logits[0, 4].double(), -1)
    fits = [k for k, token in enumerate(pieces.spelling) if token.startswith(b" q")]
    share = torch.bincount(drawn, minlength=len(log_p))[fits] / 300
    assert torch.allclose(share.double(), torch.softmax(log_p[fits], 0), atol=0.1)
