"""What a network may see of a window, and what it is scored on."""

from __future__ import annotations

import pytest
import torch
from laws.cases import rng

from condiff.core import Condition, Moments
from condiff.objectives import SCENARIOS, Denoising, Hiding, Measured, Revealing, hiding
from condiff.process import Flow, Gaussian, Velocity

PROCESS = Gaussian(Flow())
PLAIN = Denoising(PROCESS, Velocity())
COUNTING = Denoising(PROCESS, Velocity(), cells="counted")


def window(rows: int = 3, length: int = 8):
    data = torch.arange(rows * length, dtype=torch.float64).reshape(rows, 1, length) + 1
    measured = torch.ones_like(data)
    measured[:, :, 2] = 0
    return data * measured, Condition.of(measured=measured)


def silent(x, t, c):
    return Moments({"data": x, "noise": x})


def test_what_is_hidden_reaches_nothing_the_network_sees():
    data, cond = window(rows=64)
    seen = []

    def net(x, t, c):
        seen.append(c)
        return silent(x, t, c)

    objective = Revealing(COUNTING, 3, future=0.4)
    objective(net, data, cond, rng=rng(*range(64)))
    shown = objective.shown(data, rng=rng(*range(64)))
    other = torch.where(shown * cond.values["measured"] > 0, data, data + 1e6)
    objective(net, other, cond, rng=rng(*range(64)))
    assert set(seen[0].values) == {"given", "measured"}
    assert torch.equal(seen[0].values["given"], seen[1].values["given"])
    assert torch.equal(seen[0].values["given"][:, :1], data * shown * cond.values["measured"])
    assert torch.equal(seen[0].values["given"][:, 1:], shown * cond.values["measured"])


def test_masks_are_the_end_single_steps_or_a_stretch():
    data = torch.zeros(4000, 1, 12)
    shown = Revealing(PLAIN, 4, future=0.5).shown(data, rng=rng(*range(4000)))[:, 0]
    future = (shown == (torch.arange(12) < 8)).all(1)
    assert 0.47 < float(future.float().mean()) < 0.55
    rest = shown[~future]
    runs = (rest.diff(dim=1) != 0).sum(1) <= 2  # at most one stretch
    assert 0.5 < float(runs.float().mean()) < 0.72
    assert 0.4 < float(rest.mean()) < 0.6
    always = Revealing(PLAIN, 4, future=1.0).shown(data[:2], rng=rng(0, 1))
    assert torch.equal(always[0, 0], (torch.arange(12) < 8).float())


def test_only_what_was_measured_and_hidden_is_scored():
    data, cond = window()

    def net(x, t, c):
        # off by 3 where it counts (steps 3 to 7; step 2 was not measured), by a million where it does not
        off = torch.where(torch.arange(8) >= 3, 3.0, 1e6) + torch.zeros_like(x)
        scale = PROCESS.row(Velocity(), t)["data"].reshape(-1, 1, 1)
        return Moments({"data": draw.latents["data"] + off / scale, "noise": draw.latents["noise"]})

    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    draw = PROCESS.draw(data, t, rng=rng(0, 1, 2))
    loss = Revealing(COUNTING, 6)(net, data, cond, rng=rng(0, 1, 2), draw=draw)
    torch.testing.assert_close(loss.rows, torch.full((3,), 9.0, dtype=torch.float64))


def test_a_row_with_nothing_to_score_has_no_loss():
    data = torch.zeros(2, 1, 4)
    cond = Condition.of(measured=torch.zeros(2, 1, 4))
    assert Revealing(COUNTING, 2)(silent, data, cond, rng=rng(0, 1)).rows.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="need a condition 'measured'"):
        Revealing(COUNTING, 2)(silent, data, None, rng=rng(0, 1))
    with pytest.raises(ValueError, match=r"future in \[0, 1\]"):
        Revealing(PLAIN, 2, future=1.5)


def test_scenarios_hide_their_part_of_a_context():
    """Works with half of a context missing: single steps, a block at the begin, a block before the future."""
    u = rng(*range(50)).uniform((50, 8))
    assert hiding("begin", u, 3)[0].tolist() == [False] * 3 + [True] * 5
    assert hiding("end", u, 3)[0].tolist() == [True] * 5 + [False] * 3
    random = hiding("random", u, 3)
    assert random.sum(1).tolist() == [5] * 50
    assert bool((u[~random].reshape(50, 3).max(1).values < u[random].reshape(50, 5).min(1).values).all())
    for scenario, count in (("middle", 3), ("end", 9), ("begin", -1)):
        with pytest.raises(ValueError, match="can hide 0 to 8 steps"):
            hiding(scenario, u, count)


@pytest.mark.parametrize("scenario", ["", *SCENARIOS])
def test_hiding_zeroes_what_the_network_is_given(scenario):
    data, cond = window(rows=5)
    given = torch.cat([data, cond.values["measured"]], 1)
    given[:, :, 6:] = 0
    seen = []

    def net(x, t, c):
        seen.append(c.values["given"])
        return silent(x, t, c)

    Hiding(PLAIN, 2, scenario)(net, data, cond.adding(given=given), rng=rng(*range(5)))
    lost = (seen[0] != given).any(1)
    assert bool(((seen[0] == 0) | (seen[0] == given)).all())
    assert bool((lost.sum(1) <= 3).all())
    assert bool(lost.any()) == (scenario != "")
    assert float(seen[0][:, :, 6:].abs().max()) == 0.0


def test_loss_counts_what_was_measured_lags_included():
    data, cond = window(rows=2, length=4)
    older = torch.ones(2, 2, 2, dtype=data.dtype)
    older[1, 1, 0] = 0
    cond = cond.adding(older=older)
    lagged = torch.cat([data, data], 1)
    counts = []

    class Keep:
        def __call__(self, denoiser, data, cond, *, rng, draw=None):
            counts.append(cond.values["counted"])
            return PLAIN(denoiser, data, None, rng=rng, draw=draw)

    Measured(Keep(), (2,))(silent, lagged, cond, rng=rng(0, 1))
    assert counts[0].tolist() == [[[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 1, 0, 1], [0, 1, 1, 1]]]
    with pytest.raises(ValueError, match="measured"):
        Measured(COUNTING)(silent, data, None, rng=rng(0, 1))
