"""The network around which a recipe puts its process: the right kind for the data, heads on axis 1."""

from __future__ import annotations

import pytest
import torch

from condiff.core import ClassLabel, Condition
from condiff.data import read
from condiff.nn import MLP, UNet
from condiff.recipes.body import body, measured


@pytest.mark.parametrize(
    ("shape", "size", "kind", "inner"),
    [
        ((5,), "flat", MLP, (5,)),
        ((15, 3), "flat", MLP, (45,)),
        ((1, 8, 8), "flat", MLP, (64,)),
        ((1, 8, 8), "tiny", UNet, (1, 8, 8)),
        ((2, 4, 4, 4), "tiny", UNet, (2, 4, 4, 4)),
    ],
)
def test_states_go_through_codec_and_network(shape, size, kind, inner):
    made = body(shape, size, schema={"label": ClassLabel(3)}, heads=2)
    assert (type(made.net), made.shape) == (kind, inner)
    data = torch.randn(2, *shape)
    x = made.codec.encode(data)
    assert x.shape[1:] == inner
    assert torch.equal(made.codec.decode(x), data)
    out = made.net(x, torch.tensor(0.5), Condition.of(label=torch.tensor([0, 2])))
    assert out.shape == (2, 2 * inner[0], *inner[1:])


def test_frequencies_reach_the_time_embedding():
    for size in ("flat", "tiny"):
        found = body((1, 4, 4), size, frequencies=(0.05, 5.0)).net.time.frequencies
        assert (float(found.min()), float(found.max())) == (pytest.approx(0.05), pytest.approx(5.0))


@pytest.mark.parametrize(("shape", "size"), [((5,), "tiny"), ((1, 8, 8), "huge")])
def test_what_does_not_fit_is_refused(shape, size):
    with pytest.raises(ValueError, match="no body of size"):
        body(shape, size)


@pytest.mark.parametrize(("name", "size"), [("digits8", "flat"), ("digits", "digits"), ("mocap", "flat")])
def test_data_choose_the_size(name, size):
    splits = read(name)
    facts = measured(splits)
    assert facts["size"] == size
    assert facts["shape"] == list(splits.train.data.shape[1:])
    assert facts["std"] == pytest.approx(float(splits.train.data[:2000].std()), abs=1e-3)
    assert body(facts["shape"], facts["size"]).codec.encode(splits.test.data[:2]).shape[0] == 2


def test_text_is_refused_by_name():
    with pytest.raises(ValueError, match="verses holds text"):
        measured(read("verses"))
