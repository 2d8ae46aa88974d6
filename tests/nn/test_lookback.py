"""Lags of a window: from before it, from what is given of it, and from nowhere else."""

from __future__ import annotations

import pytest
import torch
from nn.nets import normal, scrambled

from condiff.core import Condition
from condiff.core.condition import Picture
from condiff.nn import DiT, DiTSize, Grid, LookBack, look_back


def test_lags_look_before_the_window_and_then_into_it():
    given = torch.tensor([[[1.0, 2, 0, 4, 5, 0, 0, 0]]])
    older = torch.tensor([[[-6.0, -5, -4, -3, -2, -1]]])
    lags = look_back(given, older, (2, 6))[0]
    assert lags[0].tolist() == [-2, -1, 1, 2, 0, 4, 5, 0]
    assert lags[1].tolist() == [-6, -5, -4, -3, -2, -1, 1, 2]
    for wrong in ((7,), (0,)):
        with pytest.raises(ValueError, match="lags must be 1 to 6 steps"):
            look_back(given, older, wrong)


def test_what_is_absent_reaches_no_output():
    schema = {"given": Picture(2), "lags": Picture(4)}
    net = LookBack(
        scrambled(DiT(Grid(1, 1), DiTSize(16, 1, head_width=8), patch=2, schema=schema)), (1, 5), unread=("measured",)
    )
    x, t = normal(2, 1, 8), torch.tensor(0.5)
    values = {"given": normal(2, 2, 8, seed=3), "older": normal(2, 2, 5, seed=4), "measured": torch.ones(2, 1, 8)}
    present = {name: torch.tensor([True, name == "measured"]) for name in values}
    one = net(x, t, Condition(values, present))
    blind = {name: torch.where(present[name][:, None, None], value, torch.nan) for name, value in values.items()}
    torch.testing.assert_close(net(x, t, Condition(blind, present)), one, atol=0, rtol=0)
    assert not torch.allclose(net(x, t, Condition({**values, "older": -values["older"]}, present))[0], one[0])
    other = net(x, t, Condition({**values, "measured": torch.zeros(2, 1, 8)}, present))
    torch.testing.assert_close(other, one, atol=0, rtol=0)
    assert net(x, t, None).shape == x.shape
