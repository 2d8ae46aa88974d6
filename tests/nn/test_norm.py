from __future__ import annotations

import pytest
import torch
from nn.nets import normal

from condiff.nn import group_norm, modulate, rms_norm
from condiff.nn.norm import gate


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 1), (16, 1), (32, 2), (48, 3), (100, 5), (1024, 32)])
def test_groups_divide_the_channels_and_hold_at_least_sixteen(channels, groups):
    layer = group_norm(channels)
    assert layer.num_groups == groups
    out = layer(3 + 2 * normal(2, channels, 5))
    grouped = out.reshape(2, groups, -1)
    torch.testing.assert_close(grouped.mean(-1), torch.zeros(2, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(grouped.var(-1, unbiased=False), torch.ones(2, groups), atol=1e-3, rtol=0)


def test_modulation_and_gate_are_their_equations_in_the_type_of_the_state():
    x, a, b = normal(2, 3, 4), normal(2, 1, 4, seed=2), normal(2, 1, 4, seed=3)
    torch.testing.assert_close(modulate(x, a, b), x * (1 + a) + b)
    torch.testing.assert_close(gate(x, a, normal(2, 3, 4, seed=4)), x + a * normal(2, 3, 4, seed=4))
    assert modulate(x.bfloat16(), a, b).dtype == gate(x.bfloat16(), a, x).dtype == torch.bfloat16


def test_rms_norm_makes_the_mean_square_one():
    torch.testing.assert_close(rms_norm(5 * normal(3, 8)).square().mean(-1), torch.ones(3))
