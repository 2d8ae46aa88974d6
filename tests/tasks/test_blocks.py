"""Writing in blocks: to any length, with stop rules, a window, policies and prompts, each text as it is alone."""

from __future__ import annotations

import pytest
import torch

from condiff.core.condition import Condition, TokenIds, schema_to_json
from condiff.recipes import ctrldiff, radd
from condiff.tasks.blocks import _aligned, _entropy, write_blocks
from condiff.tasks.partition import EntropySize, FixedSize, LearnedSize
from condiff.tasks.text import joined, write


@pytest.fixture(scope="module")
def system():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ctrldiff(width=32, depth=1, length=16, block=4)
        for weight in made.denoiser.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return made


def texts(system, **kw):
    return [torch.cat(parts).tolist() for parts in zip(*write_blocks(system, **kw), strict=True)]


def test_texts_have_the_length_asked_for_and_are_the_same_alone(system):
    many = texts(system, num_samples=3, length=37, seed=2)
    assert all(len(text) == 37 or text == text[:37] for text in many)
    for b in range(3):
        assert texts(system, num_samples=1, first=b, length=37, seed=2) == [many[b]]
    assert texts(system, num_samples=3, length=37, seed=3) != many


def test_blocks_have_the_policys_size_and_calls_are_as_many_as_asked(system):
    pieces = list(write_blocks(system, num_samples=1, length=11, policy=FixedSize(4)))
    assert [len(new[0]) for new in pieces] == [4, 4, 3]
    calls = []

    def around(denoiser, texts):
        def counted(x, t, cond):
            calls.append((x.shape[1], texts.shape[1]))
            return denoiser(x, t, cond)

        return counted

    list(write_blocks(system, num_samples=1, length=8, policy=FixedSize(4), num_steps=2, around=around))
    assert calls == [(4, 0)] * 2 + [(4, 4)] * 2


@pytest.mark.parametrize("policy", [EntropySize((1, 2, 4), (5.0, 2.0)), None])
def test_rows_of_unequal_blocks_are_each_right(system, policy):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        policy = policy or LearnedSize(2 * 32, (1, 2, 4))
    many = texts(system, num_samples=3, length=9, policy=policy)
    assert [texts(system, num_samples=1, first=b, length=9, policy=policy)[0] for b in range(3)] == many


def test_a_text_ends_at_the_end_token(system):
    with torch.no_grad():
        before = system.denoiser.net.body.out.bias.clone()
        system.denoiser.net.body.out.bias[256] = 50.0
    try:
        assert texts(system, num_samples=2, length=30) == [[], []]
    finally:
        with torch.no_grad():
            system.denoiser.net.body.out.bias.copy_(before)


def test_a_text_that_repeats_itself_stops_if_asked_to():
    assert _entropy(torch.zeros(256, dtype=torch.int64)) == 0.0
    assert _entropy(torch.zeros(255, dtype=torch.int64)) == float("inf")
    assert _entropy(torch.arange(256)) == pytest.approx(5.545, abs=1e-3)


def test_the_window_forgets_what_is_older(system):
    near, far = (list(write_blocks(system, num_samples=1, length=32, window=n)) for n in (4, 1000))
    assert torch.equal(near[0][0], far[0][0])
    assert [len(new[0]) for new in near] == [len(new[0]) for new in far]
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(near, far, strict=True))


def test_prompts_are_continued_block_by_block(system):
    pieces = list(write(system, num_samples=2, prompt="In the", length=14))
    assert pieces[0] == ["In the"] * 2
    assert len(pieces) == 3
    whole = joined(write(system, num_samples=2, prompt="In the", length=14))
    assert all(text.startswith("In the") for text in whole)
    other = joined(write(system, num_samples=2, prompt="On the", length=14))
    assert [text[6:] for text in other] != [text[6:] for text in whole]


def test_pieces_join_to_the_decoded_bytes(system):
    """Random bytes are cut within characters all the time; nothing may be lost or shown too soon."""
    parts = texts(system, num_samples=3, length=60, seed=2)
    whole = joined(write(system, num_samples=3, length=60, seed=2))
    assert whole == [bytes(part).decode("utf-8", "replace") for part in parts]


def test_what_blocks_cannot_do_is_said(system):
    with pytest.raises(ValueError, match="left to right"):
        list(write(system, infill="a__b"))
    with pytest.raises(ValueError, match="nothing to write"):
        list(write(system, prompt="too long", length=8))
    with pytest.raises(ValueError, match="does not write in blocks"):
        list(write_blocks(radd(width=32, depth=1, length=8)))


def test_texts_of_a_group_are_aligned_at_their_ends():
    assert _aligned([torch.tensor([1]), torch.tensor([2, 3, 4])], 9).tolist() == [[9, 9, 1], [2, 3, 4]]


def test_a_condition_is_kept_while_blocks_are_remembered():
    schema = schema_to_json({"input": TokenIds(6, 257)})
    made = ctrldiff(width=32, depth=1, length=8, conditions=schema, guidance=2.0)
    with torch.no_grad():
        for weight in made.denoiser.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    net, words = made.denoiser, torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    one, other = (Condition.of(input=row[None]) for row in words)
    assert len(texts(made, num_samples=1, length=8, cond=one)[0]) <= 8
    block, hidden, t = torch.full((1, 4), 7), torch.full((1, 4), 257), torch.ones((), dtype=torch.float64)
    after = [net(hidden, t, net.remember(cond, block)).logits for cond in (one, other)]
    assert not torch.allclose(*after)
