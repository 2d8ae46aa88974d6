from __future__ import annotations

import math

import pytest
import torch
from nn.nets import normal, scrambled
from torch.autograd import forward_ad

from condiff.nn import CrossAttention, SelfAttention, attend, block_causal
from condiff.nn.attention import rotary, rotate


def reference(q, k, v, mask):
    scores = torch.einsum("bhnd,bhkd->bhnk", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, -torch.inf).exp()
    return torch.einsum("bhnk,bhkd->bhnd", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [4, 600])
@pytest.mark.parametrize("masked", [False, True])
def test_every_route_is_softmax_attention(dtype, keys, masked):
    q, k, v = (normal(2, 3, n, 8, seed=n, dtype=torch.float64) for n in (5, keys, keys))
    mask = (torch.arange(keys) % 2 == 0).expand(2, 1, 5, keys) if masked else torch.ones(1, dtype=torch.bool)
    out = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask if masked else None)
    assert out.dtype == dtype
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    assert (out.double() - reference(q, k, v, mask)).abs().max() < bound


def test_rows_taken_a_few_at_a_time_are_the_same(monkeypatch):
    q, k, v = (normal(5, 2, n, 8, seed=n).bfloat16() for n in (6, 7, 7))
    with torch.no_grad():
        whole = attend(q, k, v)
        monkeypatch.setattr("condiff.nn.attention._CACHE", 2 * 2 * 2 * 6 * 7)  # two rows
        torch.testing.assert_close(attend(q, k, v), whole, atol=0.0, rtol=0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own forward mode
def test_attention_has_a_forward_derivative():
    q, k, v = (normal(1, 2, 5, 4, seed=n, dtype=torch.float64) for n in range(3))
    step = normal(1, 2, 5, 4, seed=7, dtype=torch.float64)
    with forward_ad.dual_level():
        rate = forward_ad.unpack_dual(attend(forward_ad.make_dual(q, step), k, v)).tangent
    numeric = (attend(q + 1e-6 * step, k, v) - attend(q - 1e-6 * step, k, v)) / 2e-6
    torch.testing.assert_close(rate, numeric, atol=1e-8, rtol=1e-6)


def test_blocks_see_themselves_and_what_was_before():
    assert block_causal(3, 1, torch.device("cpu")).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert block_causal(3, 2, torch.device("cpu")).tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    offset = block_causal(3, 2, torch.device("cpu"), torch.tensor([0, 1]))
    assert offset[1].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]


def test_keys_of_earlier_tokens_replace_the_tokens():
    layer = scrambled(SelfAttention(16, head_width=8))
    x = normal(2, 6, 16)
    mask = block_causal(6, 1, x.device)
    whole, _ = layer(x, mask=mask)
    first, past = layer(x[:, :4], mask=mask[:4, :4])
    rest, (keys, _) = layer(x[:, 4:], mask=mask[4:], past=past)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=1e-5, rtol=1e-5)
    assert keys.shape == (2, 2, 16)


def test_cross_attention_reads_visible_tokens_only_and_in_no_order():
    layer = scrambled(CrossAttention(16, 6, head_width=8))
    x, context = normal(2, 3, 16), normal(2, 5, 6, seed=2)
    visible = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    out = layer(x, context, visible)
    torch.testing.assert_close(layer(x[:1], context[:1, [3, 0, 1]], visible[:1, [3, 0, 1]]), out[:1])
    hidden = torch.where(visible[..., None], context, 100.0)
    torch.testing.assert_close(layer(x, hidden, visible), out)
    assert not torch.allclose(layer(x, context, torch.ones_like(visible)), out)


def test_a_width_without_heads_is_refused():
    with pytest.raises(ValueError, match="does not divide into 2 heads"):
        SelfAttention(17, head_width=8)


def test_rotary_scores_depend_on_the_distance_alone_and_keep_lengths():
    """<R(p) q, R(p + d) k> is one number for every p, another for every d, and |R q| = |q|."""
    g = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 1, 8, generator=g).expand(1, 6, 8) for _ in range(2))
    for start in (0, 1000):
        cos, sin = rotary(torch.arange(start, start + 6), 8)
        turned, keys = rotate(q, 1, cos, sin), rotate(k, 1, cos, sin)
        scores = turned[0] @ keys[0].T
        for distance in range(-5, 6):
            line = scores.diagonal(distance)
            torch.testing.assert_close(line, line[:1].expand_as(line), atol=2e-4, rtol=0.0)
        assert len({round(float(scores.diagonal(d)[0]), 3) for d in range(-5, 6)}) == 11
        torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))


def test_rotary_turns_each_head_by_its_own_features():
    """By definition: (a, b) -> (a cos - b sin, a sin + b cos) with a and b the halves of a head."""
    x = torch.arange(16.0).reshape(1, 2, 8)
    cos, sin = rotary(torch.tensor([0, 2]), 4)
    out = rotate(x, 2, cos, sin)
    torch.testing.assert_close(out[:, 0], x[:, 0])
    for head in range(2):
        for i, f in enumerate((3.0, 3e-3)):
            a, b = float(x[0, 1, 4 * head + i]), float(x[0, 1, 4 * head + 2 + i])
            c, s = math.cos(2 * f), math.sin(2 * f)
            assert float(out[0, 1, 4 * head + i]) == pytest.approx(a * c - b * s, rel=1e-5)
            assert float(out[0, 1, 4 * head + 2 + i]) == pytest.approx(a * s + b * c, rel=1e-5)


def test_rotary_needs_an_even_head():
    with pytest.raises(ValueError, match="even width"):
        rotary(torch.arange(3), 5)
