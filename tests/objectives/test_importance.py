"""Times by the loss: the same mean with other draws, for all that the inner objective adds up."""

from __future__ import annotations

import pytest
import torch

from condiff.core import Categorical, Condition, Loss, SharedRng
from condiff.objectives import Contrastive, ImportanceSampled, InfoNCE, OtherRows, StepBound, StepNats
from condiff.process import LossAware, MaskAndReplace

STEPS = 8
PROCESS = MaskAndReplace(3, STEPS, replaced=0.0)


class Steep:
    """An objective whose loss is known at every time."""

    def __init__(self):
        self.times = []

    def __call__(self, denoiser, data, cond, *, rng, draw=None):
        self.times.append(draw.t)
        return Loss((1.0 + 10.0 * draw.t**4).float(), {"seen": torch.tensor(3.0)})


def sampled(law, inner=None, num_steps=STEPS):
    return ImportanceSampled(inner or Steep(), PROCESS, law, num_steps)


def run(objective, rows=64, seed=0):
    return objective(None, torch.zeros(rows, 2, dtype=torch.int64), None, rng=SharedRng(seed))


def ready(density):
    law = LossAware(len(density), memory=1)
    law.note((torch.arange(len(density)) + 0.5) / len(density), torch.tensor(density))
    return law


def test_until_every_bin_has_its_losses_it_is_the_inner_objective_at_even_times():
    law = LossAware(STEPS)
    objective = sampled(law)
    loss = run(objective, 16)
    t = objective.inner.times[0]
    assert torch.equal(t.unique(), (torch.arange(STEPS) + 1.0).double() / STEPS)
    assert torch.equal(loss.rows, (1.0 + 10.0 * t**4).float())
    assert float(loss.terms["seen"]) == 3.0
    assert law.seen.tolist() == [2] * STEPS
    torch.testing.assert_close(law.losses[:, 0], (1.0 + 10.0 * ((torch.arange(STEPS) + 1.0) / STEPS) ** 4).float())


@pytest.mark.parametrize(
    "density", [[1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 3.0], [8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
)
def test_the_mean_is_that_of_even_times_whatever_the_law(density):
    even = float((1.0 + 10.0 * ((torch.arange(STEPS) + 1.0) / STEPS) ** 4).mean())
    with torch.no_grad():
        assert float(run(sampled(ready(density)), 20_000).rows.mean()) == pytest.approx(even, rel=2e-3)


def test_the_law_that_the_losses_make_varies_less_than_even_times():
    law = LossAware(STEPS, memory=4)
    objective = sampled(law)
    for seed in range(8):
        run(objective, 32, seed)
    assert law.ready
    with torch.no_grad():
        rows, plain = (run(sampled(one), 4000).rows for one in (law, LossAware(STEPS)))
    assert float(rows.std()) < 0.05 * float(plain.std())


def test_weights_are_those_of_the_density_that_was_drawn_from():
    """The law that was told this batch's losses would give others."""
    law = ready([1.0] * 7 + [9.0])
    objective = sampled(law)
    before = law.law
    rows = run(objective, 32).rows
    t = objective.inner.times[0]
    torch.testing.assert_close(rows, ((1.0 + 10.0 * t**4) * before.weight(t - 0.5 / STEPS)).float())
    assert law.law != before


def test_without_gradients_nothing_is_learned_and_an_injected_draw_is_left_alone():
    law = ready([1.0] * STEPS)
    seen = law.seen.clone()
    objective = sampled(law)
    with torch.no_grad():
        run(objective)
    assert torch.equal(law.seen, seen)
    draw = PROCESS.draw(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([0.5, 1.0]), rng=SharedRng(0))
    rows = objective(None, draw.x, None, rng=SharedRng(0), draw=draw).rows
    assert torch.equal(rows, (1.0 + 10.0 * draw.t**4).float())
    assert torch.equal(law.seen, seen)


def test_times_that_are_no_steps_are_left_as_they_are():
    objective = sampled(LossAware(4), num_steps=None)
    run(objective, 32)
    assert len(objective.inner.times[0].unique()) == 32


def test_a_contrast_is_divided_too():
    """Its weight would otherwise follow the law: the mean of the whole loss is that of even steps."""
    table = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    data = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]]).repeat(1000, 1)
    cond = Condition.of(label=torch.tensor([0, 1, 2, 3]).repeat(1000))
    inner = Contrastive(StepBound(PROCESS), StepNats(PROCESS, STEPS), OtherRows("label", 2), InfoNCE(), 2.0)

    def denoiser(x, t, cond):
        return Categorical(torch.log_softmax(table, -1).expand(len(x), 2, 3))

    with torch.no_grad():
        mine, even = (
            float(torch.stack([one(denoiser, data, cond, rng=SharedRng(k)).rows.mean() for k in range(10)]).mean())
            for one in (sampled(ready([9.0] + [1.0] * 7), inner), inner)
        )
    assert mine == pytest.approx(even, rel=0.01)
