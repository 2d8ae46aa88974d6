from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.nets import DIT, FLAT, make, normal, scrambled

from condiff.core import Condition
from condiff.nn import DiT, DiTSize, Frames, Grid, Tokens
from condiff.nn.dit import _patchify, _unpatchify


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3), patch=st.integers(1, 4))
def test_patches_can_be_put_together_again(sizes, patch):
    x, patches = normal(2, 3, *sizes), (patch,) * len(sizes)
    cut, cells = _patchify(x, patches)
    assert cells == [-(-n // patch) for n in sizes]
    assert cut.shape == (2, torch.Size(cells).numel(), 3 * patch ** len(sizes))
    assert torch.equal(_unpatchify(cut, patches, x.shape[2:]), x)


def test_a_patch_holds_neighbours():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert _patchify(x, (2, 2))[0][0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("frames", [False, True])
def test_the_future_does_not_reach_the_past(block, frames):
    net = scrambled(DiT(Frames(2) if frames else Tokens(2), DIT, patch=2, block=block))
    x = normal(2, 6, 2, 3, 4) if frames else normal(2, 6, 2)
    other = x.clone()
    other[:, 4] += 1
    t = torch.rand(2, 6)
    change = (net(other, t) - net(x, t)).abs().flatten(2).amax((0, 2))
    first = 4 - 4 % block
    assert change[:first].max() == 0
    assert change[first:].min() > 1e-4


@pytest.mark.parametrize(("frames", "rotary"), [(False, False), (True, False), (False, True)])
def test_remembered_blocks_equal_the_whole_sequence(frames, rotary):
    layout = Frames(2) if frames else Tokens(2)
    net = scrambled(DiT(layout, DIT, patch=2, block=2, schema=FLAT, rotary=rotary)).double()
    x = normal(3, 8, 2, 3, 5) if frames else normal(3, 8, 2)
    x = x.double()
    cond = Condition.of(label=torch.tensor([0, 2, 1]))
    t = torch.cat([torch.zeros(3, 6), torch.rand(3, 2, generator=torch.Generator().manual_seed(1))], 1)
    whole = net(x, t, cond)
    grown = net.remember(net.remember(cond, x[:, :4]), x[:, 4:6])
    assert grown.values["context.length"].tolist() == grown.values["context.position"].tolist() == [6, 6, 6]
    torch.testing.assert_close(net(x[:, 6:], t[:, 6:], grown), whole[:, 6:], atol=1e-10, rtol=1e-10)
    # The context does not know the time of what follows: this is what lets all steps share it.
    assert not torch.allclose(net(x[:, 6:], t[:, 6:] / 2, grown), whole[:, 6:], atol=1e-4)
    assert not torch.allclose(net(x[:, 6:], t[:, 6:], cond), whole[:, 6:], atol=1e-4)


def test_rows_with_contexts_of_unequal_length_are_each_right_and_filler_is_unseen():
    net = scrambled(DiT(Tokens(2), DIT, block=1)).double()
    x = normal(2, 7, 2).double()
    long, short = net.remember(None, x[:1, :5]), net.remember(None, x[1:, :3])
    pad = torch.full((1, 2, 16), torch.nan, dtype=torch.float64)
    padded = Condition.of(**{k: torch.cat([v, pad], 1) if v.ndim == 3 else v for k, v in short.values.items()})
    both = long.cat(padded)
    new = torch.stack([x[0, 5:7], x[1, 3:5]])
    out = net(new, torch.tensor(0.5), both)
    t = torch.tensor([[0.0] * 5 + [0.5] * 2])
    torch.testing.assert_close(out[:1], net(x[:1], t)[:, 5:], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(out[1:], net(x[1:, :5], t[:, 2:])[:, 3:], atol=1e-10, rtol=1e-10)
    # Growing it again puts the new keys right behind the old ones of each row.
    longer = net.remember(both, new[:, :1])
    assert longer.values["context.length"].tolist() == [6, 4]
    again = net(new[:, 1:], torch.tensor(0.5), longer)
    one = torch.tensor([[0.0] * 4 + [0.5]])
    torch.testing.assert_close(again[1:], net(x[1:, :5], one)[:, 4:], atol=1e-10, rtol=1e-10)


def test_an_absent_context_is_no_context():
    net, x = make("dit causal")
    cond = net.remember(None, x)
    plain = net(x, torch.tensor(0.5))
    none = net(x, torch.tensor(0.5), cond.null())
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-5)
    spoiled = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v + 9 for k, v in cond.values.items()}
    dirty = Condition(spoiled, cond.null().present)
    torch.testing.assert_close(net(x, torch.tensor(0.5), dirty), none, atol=0.0, rtol=0.0)
    grown = net.remember(cond.null(), x)
    assert grown.values["context.length"].tolist() == [6] * 3
    torch.testing.assert_close(grown.values["context.1.k"][:, :6], net.remember(None, x).values["context.1.k"])


def test_a_context_cut_at_the_front_keeps_its_place():
    # One layer, so that what is kept does not depend on what was cut.
    net = scrambled(DiT(Tokens(2), DiTSize(16, 1, head_width=8), block=1)).double()
    x = normal(1, 6, 2).double()
    cond = net.remember(None, x[:, :5])
    cut = {k: v[:, 3:] if v.ndim == 3 else v for k, v in cond.values.items()}
    cut["context.length"] = cond.values["context.length"] - 3
    out = net(x[:, 5:], torch.tensor(0.5), Condition.of(**cut))
    full = net(x[:, 5:], torch.tensor(0.5), cond)
    assert not torch.allclose(out, full, atol=1e-4)
    moved = Condition.of(**{**cut, "context.position": torch.tensor([2])})
    assert not torch.allclose(net(x[:, 5:], torch.tensor(0.5), moved), out, atol=1e-4)


def test_rotary_attention_needs_no_place_of_its_own_and_tells_orders_apart():
    """A window and the same window 50 tokens later are one to it; the same tokens in another order are not."""
    net = scrambled(DiT(Tokens(2), DiTSize(16, 2, head_width=8), block=1, rotary=True)).double()
    x, t = normal(1, 6, 2).double(), torch.tensor(0.5)
    cond = net.remember(None, x[:, :3])
    late = Condition.of(**{**cond.values, "context.position": cond.values["context.position"]})
    out = net(x[:, 3:], t, late)
    assert not torch.allclose(net(x[:, 3:].flip(1), t, late).flip(1), out, atol=1e-3)
    moved = {k: v for k, v in cond.values.items()}
    moved["context.length"], moved["context.position"] = torch.tensor([0]), torch.tensor([50])
    torch.testing.assert_close(net(x[:, 3:], t, Condition.of(**moved)), net(x[:, 3:], t), atol=1e-4, rtol=1e-4)


def test_a_local_convolution_mixes_neighbours_where_attention_does_not():
    net = DiT(Tokens(2), DiTSize(16, 1, head_width=8), local=3, rotary=True)
    with torch.no_grad():
        net.out.weight.normal_()
        net.blocks[0].attention.out.weight.zero_()
    x, t = normal(1, 7, 2), torch.tensor(0.5)
    other = x.clone()
    other[:, 3] += 1
    # Gates are closed, so all that moves between tokens is the convolution.
    changed = (net(other, t) - net(x, t)).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, True, True, False, False]


def test_open_gates_let_a_fresh_network_mix_its_tokens():
    for is_open in (False, True):
        torch.manual_seed(0)
        net = DiT(Tokens(2), DIT, open=is_open)
        gates = net.film.bias.view(-1, DIT.width)
        expected = torch.zeros(len(gates))
        expected[[k for i in range(DIT.depth) for k in (6 * i + 2, 6 * i + 5)]] = float(is_open)
        assert torch.equal(gates.mean(1), expected)
        assert torch.equal(gates.var(1), torch.zeros(len(gates)))


def test_what_is_for_sequences_is_refused_elsewhere():
    for wrong in ({"rotary": True}, {"local": 3}):
        with pytest.raises(ValueError, match="are for sequences"):
            DiT(Grid(2, 2), DIT, **wrong)
    for wrong in ({"local": 2}, {"local": -1}, {"local": 3, "block": 2}):
        with pytest.raises(ValueError, match="local must be odd"):
            DiT(Tokens(2), DIT, **wrong)


def test_what_cannot_be_remembered_is_refused():
    net, x = make("dit tokens")
    with pytest.raises(ValueError, match="without causal blocks cannot remember"):
        net.remember(None, x)
    causal, _ = make("dit causal")
    broken = {k: v for k, v in causal.remember(None, x).values.items() if k != "context.1.v"}
    with pytest.raises(ValueError, match=r"'context\.1\.v' is missing"):
        causal(x, torch.tensor(0.5), Condition.of(**broken))
    with pytest.raises(ValueError, match="need a layout with a time axis"):
        DiT(Grid(2, 2), DIT, block=1)
    with pytest.raises(ValueError, match="patch=0"):
        DiT(Grid(2, 2), DIT, patch=0)
    with pytest.raises(ValueError, match="not a multiple of head_width"):
        DiTSize(20, 1, head_width=8)
