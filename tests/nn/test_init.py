from __future__ import annotations

import pytest
import torch
from torch import nn

from condiff.nn import initialise


def test_weights_keep_the_size_of_what_passes_and_chosen_layers_are_silent():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 400), nn.Conv2d(30, 40, 3), nn.Embedding(300, 40), nn.Linear(40, 4))
    initialise(net, zero=[net[3]])
    assert net[0].weight.std().item() == pytest.approx(300**-0.5, rel=0.02)
    assert net[1].weight.std().item() == pytest.approx(270**-0.5, rel=0.02)
    assert net[0].weight.abs().max() <= 2 * 300**-0.5 / 0.879
    assert net[2].weight.std().item() == pytest.approx(1, rel=0.02)
    for silent in (net[0].bias, net[1].bias, net[3].weight, net[3].bias):
        assert silent.count_nonzero() == 0
