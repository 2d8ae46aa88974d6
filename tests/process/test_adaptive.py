"""Times learned from losses: a law for the batch, and a map for every position."""

from __future__ import annotations

import pytest
import torch

from condiff.core import RowRng, instant
from condiff.process import AdaptiveTimes, Data, Flow, Gaussian, LossAware, Positionwise

PROCESS = Gaussian(Flow())


def taught(function, *, length=2, bins=20, **options):
    """A map that has met, in the middle of every bin, a loss that is a function of time and position."""
    times = AdaptiveTimes(length, bins=bins, **options)
    at = ((torch.arange(bins, dtype=torch.float64) + 0.5) / bins)[:, None].expand(bins, length)
    times.note(at, function(at, torch.arange(length, dtype=torch.float64)))
    return times


def test_a_loss_that_grows_evenly_leaves_the_map_as_it_is():
    times = taught(lambda t, place: 0.3 + (2.0 + place) * t)
    before = times.table.clone()
    times.change()
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    torch.testing.assert_close(times(t, 11), t[:, None].expand(11, 2), rtol=0, atol=2e-6)
    assert float((times.table - before).abs().max()) / 2**40 < 2e-6


def test_every_position_gets_where_its_own_loss_lies():
    times = taught(lambda t, place: torch.where(place == 0, t.square(), 2.0 * t - t.square()), bins=50)
    times.change()
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    made = times(t, 3)
    # From the means of 50 bins, straight between their middles.
    torch.testing.assert_close(made[:, 0], t.sqrt(), rtol=0, atol=0.01)
    torch.testing.assert_close(made[:, 1], 1.0 - (1.0 - t).sqrt(), rtol=0, atol=0.01)
    assert float(times.total.abs().sum()) == 0.0
    assert float(times.count.sum()) == 0.0


def test_output_stays_monotone_whatever_the_losses():
    generator = torch.Generator().manual_seed(0)
    times = taught(lambda t, place: torch.rand(t.shape, generator=generator, dtype=torch.float64), length=5)
    times.change()
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    made = times(t, 101)
    assert bool((made.diff(dim=0) > 0).all())
    assert torch.equal(made[0], torch.zeros(5).double())
    assert torch.equal(made[-1], torch.ones(5).double())
    flat = taught(lambda t, place: torch.ones_like(t))
    flat.change()
    torch.testing.assert_close(flat(t, 101)[:, 0], t, rtol=0, atol=2e-6)


def test_positions_held_still_or_without_losses_wait():
    times = taught(lambda t, place: t.square(), still=(0,))
    times.change()
    t = torch.tensor([0.25], dtype=torch.float64)
    made = times(t, 1)[0]
    assert float(made[0]) == pytest.approx(0.25)
    assert float(made[1]) == pytest.approx(0.5, abs=0.02)
    few = AdaptiveTimes(1, bins=4)
    few.note(torch.tensor([[0.1], [0.9]], dtype=torch.float64), torch.tensor([[1.0], [5.0]]))
    few.change()
    assert float(few(t, 1)) == pytest.approx(0.25)
    assert float(few.count.sum()) == 2.0


def test_the_map_changes_at_its_steps_and_is_saved_whole():
    times = AdaptiveTimes(1, bins=2, every=2, after=3)
    at, loss = torch.tensor([[0.2], [0.7]], dtype=torch.float64), torch.tensor([[0.0], [1.0]])
    changed = []
    for _ in range(6):
        before = float(times.count.sum())
        times.note(at, loss)
        changed.append(float(times.count.sum()) < before)
    assert changed == [False, False, True, False, True, False]
    assert not times.table.is_floating_point()  # an average of weights copies what is no float
    fresh = AdaptiveTimes(1, bins=2)
    fresh.load_state_dict(times.state_dict())
    assert torch.equal(fresh(torch.tensor([0.3]), 1), times(torch.tensor([0.3]), 1))
    with pytest.raises(ValueError, match="AdaptiveTimes needs"):
        AdaptiveTimes(0)


def test_positions_move_on_their_own_times():
    times = taught(lambda t, place: torch.where(place == 0, t, t.square()))
    times.change()
    process = Positionwise(PROCESS, times)
    data, rng = torch.zeros(3, 2, 4, dtype=torch.float64), RowRng(0, range(3), dtype=torch.float64)
    noise = torch.ones_like(data)
    draw = process.draw(data, torch.tensor([0.25, 0.0, 1.0]), rng=rng, noise=noise)
    expected = times(torch.tensor([0.25, 0.0, 1.0]), 3)
    torch.testing.assert_close(draw.x, expected[..., None].expand(3, 2, 4))
    torch.testing.assert_close(draw.t, expected)
    est = process.infer(draw.x, torch.tensor([0.25, 0.5, 1.0]), data + 0.5, Data())
    torch.testing.assert_close(est.parts["data"], data + 0.5)
    moved = process.reverse(
        draw.x, instant(0.25), instant(0.0), process.infer(draw.x, instant(0.25), data, Data()), eta=0.0, rng=rng
    )
    torch.testing.assert_close(moved, data)
    plain = Positionwise(PROCESS, AdaptiveTimes(2))
    out = [
        one.reverse(
            draw.x,
            instant(0.5),
            instant(0.25),
            one.infer(draw.x, instant(0.5), data + 0.1, Data()),
            eta=1.0,
            rng=RowRng(1, range(3), dtype=torch.float64),
        )
        for one in (plain, PROCESS)
    ]
    torch.testing.assert_close(*out)


def test_times_are_drawn_where_the_loss_is_large():
    law = LossAware(4, memory=2, even=0.2)
    middle = (torch.arange(4) + 0.5) / 4
    law.note(middle, torch.tensor([100.0, 100.0, 100.0, 100.0]))
    u = torch.linspace(0.0, 0.999, 1000)
    assert law.weight(u) is None  # one loss a bin is not two
    torch.testing.assert_close(law.quantile(u, Flow()), u.double())
    law.note(middle, torch.tensor([3.0, 0.0, 0.0, 0.0]))
    law.note(middle, torch.tensor([4.0, 0.0, 0.0, 0.0]))  # forgets the first
    assert not law.losses[1:].any()
    law.note(middle, torch.tensor([3.0, 1.0, 1.0, 1.0]))
    law.note(middle, torch.tensor([4.0, 1.0, 1.0, 1.0]))
    rms = torch.tensor([12.5**0.5, 1.0, 1.0, 1.0], dtype=torch.float64)
    share = 0.8 * rms / rms.sum() + 0.05
    t = law.quantile((torch.arange(100_000) + 0.5) / 100_000, Flow())
    torch.testing.assert_close(torch.histc(t, 4, 0, 1) / 100_000, share, atol=1e-4, rtol=0)
    torch.testing.assert_close(law.weight(middle), 0.25 / share)
    # Weighted, any mean is the uniform one.
    assert float((law.weight(t) * t.square()).mean()) == pytest.approx(1 / 3, rel=1e-3)
    with pytest.raises(ValueError, match="LossAware needs"):
        LossAware(0)
