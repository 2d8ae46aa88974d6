from __future__ import annotations

import pytest
import torch
from nn.nets import UNET, make, normal, scrambled

from condiff.nn import Frames, Grid, UNet, UNetSize


def test_the_digit_size_is_the_documented_one():
    count = sum(p.numel() for p in UNet(Grid(1, 2), UNetSize.digits()).parameters())
    assert 500_000 < count < 700_000


def test_every_cell_sees_every_other_through_the_middle():
    net = scrambled(UNet(Grid(1, 2), UNetSize((8, 8, 8), embed_width=8, head_width=8)))
    x = normal(1, 1, 17, 13)
    other = x.clone()
    other[..., 0, 0] += 3
    assert (net(other, torch.tensor(0.5)) - net(x, torch.tensor(0.5)))[..., -1, -1].abs() > 1e-6


def test_frames_are_never_merged_but_do_see_each_other():
    net, x = make("unet frames")
    strides = {module.stride for module in net.modules() if isinstance(module, torch.nn.Conv3d)}
    assert strides == {(1, 1, 1), (1, 2, 2)}
    other = x.clone()
    other[:, 0] += 1
    change = (net(other, torch.tensor(0.5)) - net(x, torch.tensor(0.5))).abs().flatten(2).amax(-1)
    assert change.min() > 1e-4
    assert net(x[:, :1], torch.rand(3, 1)).shape == (3, 1, 2, 5, 6)


def test_attention_levels_add_attention_to_every_block_of_theirs():
    def count(size):
        return sum(type(module).__name__ == "SelfAttention" for module in UNet(Frames(1), size).modules())

    assert count(UNetSize((8, 16), embed_width=8, head_width=8)) == 1
    assert count(UNetSize((8, 16), num_blocks=2, attention=(1,), embed_width=8, head_width=8)) == 5


def test_impossible_sizes_are_refused():
    for wrong in ((), (8, 0)):
        with pytest.raises(ValueError, match="positive widths"):
            UNetSize(wrong)
    with pytest.raises(ValueError, match="within the 2 levels"):
        UNetSize((8, 16), attention=(2,))


def test_one_volume_equals_the_same_volume_in_a_batch_with_and_without_gradients():
    net = scrambled(UNet(Grid(1, 3), UNET))
    x, t = normal(2, 1, 5, 6, 7), torch.tensor([0.2, 0.7])
    both = net(x, t)
    torch.testing.assert_close(net(x[1:], t[1:]), both[1:], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(x[1:], t[1:]), both[1:], atol=1e-5, rtol=1e-5)
