"""What experiments share: seeds name everything, and the measure of digits tells good from bad."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
import torch

from condiff.claims import lab
from condiff.data import read
from condiff.evaluate import judge8, judge_facts
from condiff.evaluate.judge import WEIGHTS8
from condiff.recipes import vectors


def quiet(text):
    pass


def test_a_seed_names_weights_and_noise():
    splits = read("mocap")
    settings = replace(vectors.training, steps=3, batch_size=8)
    a, b, c = (
        lab.trained(vectors, splits, seed=seed, talk=quiet, settings=settings, width=16, depth=1) for seed in (1, 1, 2)
    )
    first, again, other = (lab.drawn(system, 4, seed=0, num_steps=3)[0] for system in (a, b, c))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 15, 3)
    assert lab.drawn(a, 4, seed=0, num_steps=3, solver="ddim")[1] == 3


def test_the_distance_tells_real_from_wrong():
    splits = read("digits8")
    floor = lab.floor(splits, 1000)
    ones = splits.train.data[splits.train.conditions["label"] == 1][:1000]
    noise = torch.randn(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    worse = lab.distance(lab.real(splits, 1000, skip=1000) + 0.3 * noise, lab.real(splits, 1000))
    assert floor < 0.2 * worse
    assert lab.distance(ones[:500], lab.real(splits, 500)) > 20 * floor
    assert lab.distance(splits.train.data[:500].flatten(1), lab.real(splits, 500)) == pytest.approx(0.0, abs=1e-6)
    assert lab.distance(read("digits").train.data[:50], read("digits").train.data[:50]) == pytest.approx(0.0, abs=1e-6)


def test_the_small_judge_reads_small_digits():
    test = read("digits8").test
    right = (judge8().classify(test.data) == test.conditions["label"]).double().mean().item()
    assert right >= 0.95
    assert right == pytest.approx(float(judge_facts(WEIGHTS8)["test_accuracy"]), abs=0.002)
    assert torch.equal(judge8().features(test.data[:3]), judge8().features(test.data[:3].flatten(1)))
    with pytest.raises(ValueError, match=r"\(B, 64\)"):
        judge8().features(torch.zeros(2, 1, 28, 28))


def test_pictures_and_charts_are_written_only_where_asked(tmp_path):
    digits = read("digits8").test.data[:20]
    lab.show(None, "a.png", digits, {})
    lab.plot(None, "b.png", lambda figure: 1 / 0)
    lab.show(tmp_path, "a.png", digits.flatten(1), {"made_by": "test"})
    assert (tmp_path / "a.png").stat().st_size > 100
    pytest.importorskip("matplotlib")
    lab.plot(tmp_path, "b.png", lambda figure: figure.subplots().plot([1, 2], [3, 4]))
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_jobs_side_by_side_return_in_order_and_leave_threads_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ready = [threading.Event() for _ in range(2)]

        def meet(mine):
            ready[mine].set()
            assert ready[1 - mine].wait(20)  # each waits for the other, so both run at once
            return mine, torch.get_num_threads()

        assert lab.side_by_side([partial(meet, 0), partial(meet, 1)]) == [(0, 1), (1, 1)]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            lab.side_by_side([lambda: 1 // 0, lambda: 1])
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert lab.side_by_side([threading.get_ident, torch.get_num_threads]) == [threading.get_ident(), 1]
    finally:
        torch.set_num_threads(before)
