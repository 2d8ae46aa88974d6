"""Lags of a window: from before it, from what is given of it, and from nowhere else."""

from __future__ import annotations

import pytest
import torch
from nn.nets import normal, scrambled

from condiff.core import Condition
from condiff.core.condition import Picture
from condiff.nn import DiT, DiTSize, Grid, LookBack, Observing, Waves, look_back


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


def test_what_is_observed_is_handed_on_and_not_read():
    """Channel j is observed where the window before it, or what is given of it, has a value lags[j - 1] steps back."""
    given = torch.tensor([[[1.0, 2, 0, 4, 0, 0], [1, 1, 0, 1, 0, 0]]])
    older = torch.tensor([[[-3.0, -2, 0], [1, 1, 0]]])
    cond = Condition.of(given=given, older=older, level=torch.tensor([[0.25]]), measured=torch.ones(1, 1, 6))
    net = Observing(scrambled(Waves(3, 8, 1)), (1, 3), unread=("measured",))
    x, t = normal(1, 3, 6), torch.tensor(0.5)
    out, aux = net(x, t, cond)
    assert aux["observed"][0].tolist() == [[1, 2, 0, 4, 0, 0], [0, 1, 2, 0, 4, 0], [-3, -2, 0, 1, 2, 0]]
    assert aux["flags"][0].tolist() == [[1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0], [1, 1, 0, 1, 1, 0]]
    assert aux["level"].tolist() == [[0.25]]
    torch.testing.assert_close(out, net.inner(x, t, None), atol=0, rtol=0)
    absent = Condition(cond.values, {**cond.present, "given": torch.tensor([False])})
    assert net(x, t, absent)[1]["flags"][0, 0].tolist() == [0] * 6
    assert net(x, t, None)[1] == {}
    assert net(x, t, cond.without("older"))[1] == {}
