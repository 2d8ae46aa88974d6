from __future__ import annotations

import math

import pytest
import torch
from nn.nets import normal, scrambled

from condiff.core import Condition
from condiff.core.condition import ClassLabel, Embeddings, Picture, Series, TokenIds, Vector
from condiff.nn import Conditions, Grid, TimeEmbedding
from condiff.nn.embed import frequencies, grid_positions, sinusoids


def test_frequencies_fall_from_high_to_low_in_equal_ratios():
    assert frequencies(4, 0.1, 100.0).tolist() == pytest.approx([100, 10, 1, 0.1], rel=1e-6)
    assert frequencies(1, 0.1, 100.0).tolist() == [100]
    values = sinusoids(torch.tensor([0.5]), frequencies(2, 1.0, 3.0))[0].tolist()
    assert values == pytest.approx([math.cos(1.5), math.cos(0.5), math.sin(1.5), math.sin(0.5)], rel=1e-6)


def test_casting_a_network_does_not_cast_the_frequencies_of_time():
    fine, coarse = (scrambled(TimeEmbedding(8)) for _ in range(2))
    t = torch.linspace(0, 1, 50)
    coarse.bfloat16()
    assert coarse.frequencies.dtype == torch.float32
    assert (coarse(t).float() - fine(t)).abs().max() < 0.05
    # In float64 the embedding is smooth enough for a difference quotient.
    fine.double()
    here, h = torch.tensor([0.4], dtype=torch.float64, requires_grad=True), 1e-6
    (rate,) = torch.autograd.grad(fine(here)[0, 0], here)
    assert (fine(here + h) - fine(here - h))[0, 0].item() / (2 * h) == pytest.approx(rate.item(), rel=1e-5)


def test_the_highest_frequency_bounds_the_rate_of_change():
    slow, fast = (scrambled(TimeEmbedding(8, max_frequency=f, min_frequency=0.05)) for f in (5.0, 1000.0))
    t = torch.linspace(0, 1, 1001)
    change = [(net(t)[1:] - net(t)[:-1]).abs().max().item() for net in (slow, fast)]
    assert change[0] < 0.05 < 0.2 < change[1]
    with pytest.raises(ValueError, match=r"min 2\.0, max 1\.0"):
        TimeEmbedding(8, max_frequency=1.0, min_frequency=2.0)


def test_positions_of_a_grid_are_distinct_and_split_by_axis():
    both = grid_positions([torch.arange(3), torch.arange(4)], 18)
    assert both.shape == (12, 18)
    assert torch.cdist(both, both)[~torch.eye(12, dtype=torch.bool)].min() > 0.1
    assert both[:, 16:].count_nonzero() == 0
    grid = both.reshape(3, 4, 18)
    assert torch.equal(grid[0, :, 8:16], grid[2, :, 8:16])
    assert torch.equal(grid[:, 0, :8], grid[:, 3, :8])
    torch.testing.assert_close(grid[:, 0, 0], torch.arange(3).float().cos())
    rows = grid_positions([torch.stack([torch.arange(3), torch.arange(3) + 2]), torch.arange(4).expand(2, -1)], 18)
    torch.testing.assert_close(rows[0], both)
    torch.testing.assert_close(rows[1], grid_positions([torch.arange(2, 5), torch.arange(4)], 18))


def test_tokens_know_their_place_and_a_set_has_none():
    text = scrambled(Conditions({"text": TokenIds(4, 9)}, width=8, context_width=8))
    series = scrambled(Conditions({"past": Series(2, 4)}, width=8, context_width=8))
    items = scrambled(Conditions({"set": Embeddings(4, 2)}, width=8, context_width=8))
    same = {
        "text": text(Condition.of(text=torch.tensor([[5, 5]]))),
        "past": series(Condition.of(past=torch.ones(1, 2, 2))),
        "set": items(Condition.of(set=torch.ones(1, 2, 2))),
    }
    for name, said in same.items():
        assert said.vector is None
        assert said.tokens.shape == (1, 3, 8)
        assert said.visible.tolist() == [[False, True, True]]
        assert torch.equal(said.tokens[0, 1], said.tokens[0, 2]) == (name == "set")


def test_a_row_sees_either_the_null_or_its_tokens():
    net = scrambled(Conditions({"a": Embeddings(3, 2), "b": Series(1, 2)}, width=8, context_width=8))
    cond = Condition.of(a=normal(2, 3, 2), b=normal(2, 1, 2))
    said = net(Condition(cond.values, {"a": torch.tensor([True, False]), "b": torch.tensor([False, True])}))
    assert said.visible.int().tolist() == [[0, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 1, 1]]
    assert net(None).tokens.shape == (1, 2, 8)
    torch.testing.assert_close(net(None).tokens[0], said.tokens[0, [0, 4]])


def test_classes_and_vectors_are_added_up():
    net = scrambled(Conditions({"label": ClassLabel(3), "size": Vector(2)}, width=8, context_width=8))
    label, size = torch.tensor([2, 0]), normal(2, 2)
    both = net(Condition.of(label=label, size=size)).vector
    one, two = net(Condition.of(label=label)).vector, net(Condition.of(size=size)).vector
    torch.testing.assert_close(both, one + two - net(None).vector)


def test_pictures_are_appended_with_a_constant_where_absent():
    net = scrambled(Conditions({"low": Picture(2)}, width=8, context_width=8))
    x, low = normal(2, 1, 3, 4), normal(2, 2, 3, 4, seed=5)
    out = net.concatenate(x, Condition({"low": low}, {"low": torch.tensor([True, False])}), Grid(1, 2))
    assert torch.equal(out[:, :1], x)
    assert torch.equal(out[0, 1:], low[0])
    fill = net.pictures["on_low"].fill
    assert torch.equal(out[1, 1:], fill[:, None, None].expand(2, 3, 4))
    with pytest.raises(ValueError, match=r"grid of x, \(3, 4\), got \(3, 5\)"):
        net.concatenate(x, Condition.of(low=normal(2, 2, 3, 5)), Grid(1, 2))


@pytest.mark.parametrize(("kind", "value", "message"), [
    (Vector(3), torch.zeros(2, 4), r"shape \(B, 3\), got \(2, 4\)"),
    (ClassLabel(3), torch.zeros(2, 1, dtype=torch.int64), "integer tensor"),
    (TokenIds(3, 5), torch.zeros(2, 4, dtype=torch.int64), r"\(B, 1 to 3\)"),
    (TokenIds(3, 5), torch.zeros(2, 3), "integers"),
    (Embeddings(3, 5), torch.zeros(2, 4, 5), "allows 3 tokens, got 4"),
    (Embeddings(3, 5), torch.zeros(2, 0, 5), "L >= 1"),
    (Series(3, 5), torch.zeros(2, 5, 3), r"\(B, 3, L\)"),
])  # fmt: skip
def test_values_of_the_wrong_shape_are_refused(kind, value, message):
    net = Conditions({"name": kind}, width=8, context_width=8)
    with pytest.raises(ValueError, match=message):
        net(Condition.of(name=value))


def test_names_that_modules_use_themselves_are_free():
    net = Conditions({"type": ClassLabel(2), "values": Vector(1), "forward": Picture(1)}, width=8, context_width=8)
    assert net(Condition.of(type=torch.tensor([1]))).vector.shape == (1, 8)
    with pytest.raises(ValueError, match=r"identifier, got 'a\.b'"):
        Conditions({"a.b": ClassLabel(2)}, width=8, context_width=8)
