"""Weights of few bits lie on their levels, and are the nearest there."""

from __future__ import annotations

import pytest
import torch

from condiff.nn import MLP, rounded


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_weights_are_the_nearest_of_few_levels(bits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP(4, 16, 1)
        for weight in net.parameters():
            torch.nn.init.normal_(weight)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    made = {name: weight.detach() for name, weight in rounded(net, bits).named_parameters()}
    for name, weight in before.items():
        assert torch.equal(weight, dict(net.named_parameters())[name]), "the network itself was changed"
        if weight.ndim < 2:
            assert torch.equal(made[name], weight)
            continue
        step = float(weight.abs().max()) / (2 ** (bits - 1) - 1)
        assert len((made[name] / step).round().unique()) <= 2**bits - 1
        torch.testing.assert_close(made[name] / step, (made[name] / step).round(), atol=1e-4, rtol=0.0)
        assert float((made[name] - weight).abs().max()) <= step / 2 * (1 + 1e-5)
        assert float((made[name] - weight).abs().max()) > step / 4


def test_one_bit_is_refused():
    with pytest.raises(ValueError, match="at least 2 bits"):
        rounded(torch.nn.Linear(2, 2), 1)
