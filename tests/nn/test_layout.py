from __future__ import annotations

import pytest
import torch
from nn.nets import normal

from condiff.nn import Frames, Grid, Tokens


@pytest.mark.parametrize(("layout", "shape", "inside"), [
    (Grid(3, 1), (2, 3, 5), (2, 3, 5)),
    (Grid(3, 3), (2, 3, 5, 4, 6), (2, 3, 5, 4, 6)),
    (Frames(3), (2, 5, 3, 4, 6), (2, 3, 5, 4, 6)),
    (Tokens(3), (2, 5, 3), (2, 3, 5)),
])  # fmt: skip
def test_split_brings_channels_to_axis_one_and_merge_undoes_it(layout, shape, inside):
    x = normal(*shape)
    assert layout.split(x, 3).shape == inside
    assert torch.equal(layout.merge(layout.split(x, 3)), x)
    # Axes with their own times come first, so that a time (B, T) lines up with the first grid axis.
    assert layout.ndim == len(inside) - 2
    assert inside[2 : 2 + layout.timed] == shape[1 : 1 + layout.timed]


@pytest.mark.parametrize(("layout", "shape"), [
    (Grid(3, 2), (2, 4, 5, 5)), (Grid(3, 2), (2, 3, 5)), (Frames(3), (2, 3, 5, 4, 6)), (Tokens(3), (2, 3, 5)),
])  # fmt: skip
def test_states_of_another_layout_are_refused(layout, shape):
    with pytest.raises(ValueError, match="expected 3 channels"):
        layout.split(normal(*shape), 3)


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="ndim=4"):
        Grid(3, 4)
    for kind in (Grid, Frames, Tokens):
        with pytest.raises(ValueError, match="at least one channel"):
            kind(0)
