from __future__ import annotations

import pytest
import torch
from nn.nets import make

from condiff.core.condition import Picture, TokenIds
from condiff.nn import MLP


def test_it_takes_what_has_no_grid_only():
    for kind in (Picture(1), TokenIds(3, 4)):
        with pytest.raises(TypeError, match=f"'name' is {type(kind).__name__}; use a DiT or UNet"):
            MLP(3, schema={"name": kind})
    with pytest.raises(ValueError, match="positive numbers"):
        MLP(0)


def test_the_time_and_the_state_both_change_the_answer():
    net, x = make("mlp")
    out = net(x, torch.tensor(0.5))
    assert not torch.allclose(net(x, torch.tensor(0.6)), out, atol=1e-3)
    assert not torch.allclose(net(x + 0.1, torch.tensor(0.5)), out, atol=1e-3)
