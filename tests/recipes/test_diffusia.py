"""Text from text: one batch is learned by heart, in every arrangement of the towers that the recipe names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import condiff
from condiff.core import RowRng, instant, trajectory
from condiff.core.condition import Condition
from condiff.data.batch import Dataset
from condiff.nn import EncoderDecoder, OneTower, Parallel, Spiral
from condiff.process import FixedLarge, FixedSmall, Positionwise, Recalling
from condiff.recipes import diffusia
from condiff.train import Progress, Training

PAD = 12
SCHEMA = {"input": {"kind": "TokenIds", "length": 6, "vocabulary": 13}}
SMALL = {"length": 6, "vocabulary": 13, "pad": PAD, "conditions": SCHEMA, "width": 32, "depth": 1, "features": 8}


def pairs():
    given = torch.tensor(
        [[0, 1, 2, 3, PAD, PAD], [3, 2, 1, 0, 4, PAD], [5, 6, 7, 8, 9, 10], [11, PAD, PAD, PAD, PAD, PAD]]
    )
    target = torch.tensor(
        [[7, 7, 1, 0, 2, PAD], [4, 5, PAD, PAD, PAD, PAD], [9, 8, 7, 6, 5, 4], [1, 2, 3, PAD, PAD, PAD]]
    )
    data = Dataset(target, {"input": given}, {"input": torch.ones(4, dtype=torch.bool)}, name="pairs", kind="text")
    return data, Condition.of(input=given)


@pytest.mark.parametrize(("read", "adaptive"), [("spiral", True), pytest.param("joint", False, marks=pytest.mark.slow)])
def test_one_batch_is_learned_by_heart(read, adaptive):
    """Four pairs, the ends of the texts among them, come back from noise alone."""
    data, cond = pairs()
    torch.manual_seed(0)
    system = diffusia(**SMALL, read=read, adaptive=adaptive, given=0.0)
    settings = Training(steps=140, batch_size=16, learning_rate=1e-2, ema=0.9, warmup_steps=10)
    progress = Progress.begin(system, settings)
    for _ in condiff.fit(system, data, settings=settings, progress=progress):
        pass
    made = condiff.sample(progress.averaged, num_samples=4, cond=cond, seed=1)
    assert float((made == data.data).double().mean()) > 0.95


def test_every_flag_is_the_part_it_names():
    readings = {"spiral": Spiral, "parallel": Parallel, "encdec": EncoderDecoder}
    for name, kind in readings.items():
        assert isinstance(diffusia(**SMALL, read=name).denoiser.net.read, kind)
    assert isinstance(diffusia(**SMALL, read="joint").denoiser.net, OneTower)
    told = diffusia(**SMALL)
    assert isinstance(told.process.inner, Recalling)
    assert not isinstance(diffusia(**SMALL, self_conditioning=0.0).process.inner, Recalling)
    adaptive = diffusia(**SMALL, adaptive=True)
    assert isinstance(adaptive.process.inner.inner, Positionwise)
    assert any(name.endswith("table") for name in adaptive.denoiser.state_dict())
    assert isinstance(told.process.inner.inner.fresh, FixedSmall)
    assert isinstance(diffusia(**SMALL, large=True).process.inner.inner.fresh, FixedLarge)
    assert diffusia(**SMALL, clamp=0.3).denoiser.from_time == 0.3
    assert diffusia(**SMALL, best_of=5).data["best_of"] == 5


def test_steps_of_the_sampler_recall_what_was_estimated():
    """The second half of the state is the last estimate: the published loop with prev = last prediction."""
    _, cond = pairs()
    torch.manual_seed(0)
    system = diffusia(**SMALL, eta=0.0)
    with torch.no_grad():
        torch.nn.init.normal_(system.denoiser.net.out.weight, std=0.3)
    grid = torch.linspace(1.0, 0.0, 4, dtype=torch.float64)
    x = system.process.start((4, 6), rng=RowRng(0, range(4)))
    states = list(
        trajectory(system.process, system.denoiser, system.solver, x, grid, cond=cond, rng=RowRng(0, range(4)))
    )
    assert not states[0].x[..., 8:].any()
    with torch.no_grad():
        for before, after, t in zip(states, states[1:], grid.tolist(), strict=False):
            est = system.denoiser(before.x, instant(t), cond).parts["data"]
            torch.testing.assert_close(after.x[..., 8:], est, rtol=1e-4, atol=1e-5)


def test_an_unconditional_system_learns_beginnings_from_half_of_its_rows():
    data, _ = pairs()
    splits = condiff.data.Splits(*[replace(data, conditions={}, present={}, meta={"vocabulary": 13, "pad": PAD})] * 3)
    assert diffusia.measure(splits)["given"] == 0.5
    assert diffusia(**diffusia.measure(splits)).schema == {}
