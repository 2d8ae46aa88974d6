"""Pseudo-labels fill what is missing, leave what is there, and come before dropping."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, FLOW

from condiff.core import Condition, Loss, SharedRng
from condiff.nn import Ridge
from condiff.objectives import Denoising, Dropping, PseudoLabels
from condiff.process import Velocity


class Seen:
    def __call__(self, denoiser, data, cond, *, rng, draw=None):
        self.cond = cond
        return Loss(torch.zeros(len(data)))


def made(noise):
    model = Ridge(2).double()
    model.theta.copy_(torch.tensor([1.0, -1.0]))
    model.bias.fill_(5.0)
    seen = Seen()
    return PseudoLabels(seen, model, "reward", noise), seen


def test_missing_labels_are_predicted_and_given_ones_stay():
    objective, seen = made(1e-9)
    data = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]], dtype=DTYPE)
    value, present = torch.tensor([[9.0], [9.0], [9.0]], dtype=DTYPE), torch.tensor([True, False, False])
    objective(None, data, Condition({"reward": value}, {"reward": present}), rng=SharedRng(0))
    torch.testing.assert_close(seen.cond.values["reward"][:, 0], torch.tensor([9.0, 7.0, 5.0], dtype=DTYPE))
    assert bool(seen.cond.present["reward"].all())


def test_the_noise_has_its_size_and_is_fresh():
    objective, seen = made(0.5)
    data = torch.zeros(4000, 2, dtype=DTYPE)
    cond = Condition({"reward": torch.zeros(4000, 1, dtype=DTYPE)}, {"reward": torch.zeros(4000, dtype=torch.bool)})
    drawn = []
    for seed in range(2):
        objective(None, data, cond, rng=SharedRng(seed))
        drawn.append(seen.cond.values["reward"][:, 0] - 5.0)
    assert float(drawn[0].std()) == pytest.approx(0.5, abs=4 * 0.5 / 8000**0.5)
    assert float(torch.corrcoef(torch.stack(drawn))[0, 1]) == pytest.approx(0.0, abs=4 / 4000**0.5)


def test_a_dropped_label_stays_dropped():
    seen = Seen()
    objective = PseudoLabels(Dropping(seen, {"reward": 0.999999}), Ridge(2), "reward", 0.1)
    cond = Condition({"reward": torch.zeros(3, 1)}, {"reward": torch.tensor([True, False, True])})
    objective(None, torch.zeros(3, 2), cond, rng=SharedRng(0))
    assert not bool(seen.cond.present["reward"].any())


def test_it_is_checked():
    with pytest.raises(ValueError, match="noise > 0"):
        PseudoLabels(Denoising(FLOW, Velocity()), Ridge(2), "reward", 0.0)
    objective, _ = made(0.1)
    with pytest.raises(ValueError, match="need it in the condition"):
        objective(None, torch.zeros(2, 2), None, rng=SharedRng(0))
