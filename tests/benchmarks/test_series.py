"""The network that ours is timed against computes what ours computes."""

from __future__ import annotations

import pytest
import torch
from benchmarks.series import BLOCKS, STATES, WIDTH, Plain, PlainS4

from condiff.nn import S4, Waves


@pytest.mark.parametrize("length", [9, 16])
def test_the_plain_kernel_is_the_kernel(length):
    torch.manual_seed(0)
    layer = S4(5, length, 8)
    torch.testing.assert_close(PlainS4(layer).kernels(length), torch.stack(layer.kernels(length)), atol=2e-6, rtol=1e-4)
    u = torch.randn(2, 5, length)
    torch.testing.assert_close(PlainS4(layer)(u), layer(u), atol=2e-5, rtol=1e-4)


def test_the_plain_network_has_the_shape_that_ours_has():
    """As many weights but for the embedding of time and the two halves of a gate."""
    plain, ours = Plain(3, 16), Waves(3, WIDTH, BLOCKS, lambda width: S4(width, 16, STATES))
    assert plain(torch.randn(2, 16, 3), torch.tensor([0.0, 99.0])).shape == (2, 16, 3)
    counted = [
        sum(p.numel() for name, p in net.named_parameters() if "embed" not in name and "time" not in name)
        for net in (plain, ours)
    ]
    assert counted[0] == counted[1]
