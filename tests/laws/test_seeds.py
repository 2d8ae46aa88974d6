"""The seed promise: sample i of a seed does not depend on batch, order, split or thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import condiff
from condiff.codecs import Identity
from condiff.core import ClassLabel, RowRng, SharedRng, System, key
from condiff.objectives import Denoising
from condiff.process import Flow, Gaussian, Preconditioned, Times, Uniform, Velocity
from condiff.solvers import Adams, Jump


class Pull(nn.Module):
    """A row-wise net over states of any shape that reads its class."""

    def forward(self, x, t, cond):
        shift = 0.0
        if cond is not None:
            shift = (cond.values["label"] * cond.present["label"]).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return torch.sin(3.0 * x) + 0.1 * shift


def system(shape, solver=None):
    process = Gaussian(Flow())
    return System(
        process, Preconditioned(Pull(), process, Velocity()), Denoising(process, Velocity()), solver or Jump(1.0),
        Identity(), Times(Uniform(), process.schedule), shape, {"label": ClassLabel(3)}, num_steps=4,
    )  # fmt: skip


SHAPES = [(17, 2), (24, 7), (1, 8, 8), (5,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_of_a_row_is_its_own(shape):
    whole = RowRng(3, range(16)).normal((16, *shape))
    for row in (0, 7, 15):
        assert torch.equal(RowRng(3, [row]).normal((1, *shape))[0], whole[row])
    order = [5, 0, 15]
    assert torch.equal(RowRng(3, order).normal((3, *shape)), whole[order])
    assert not torch.equal(RowRng(4, [0]).normal((1, *shape))[0], whole[0])
    joined = RowRng(3, range(8)).cat(RowRng(3, range(8, 16)))
    assert torch.equal(joined.normal((16, *shape)), whole)
    first = joined.rows([2])
    again = RowRng(3, [2])
    again.normal((1, *shape))
    assert torch.equal(first.normal((1, *shape)), again.normal((1, *shape)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_i_is_the_same_in_any_batch(shape):
    made = system(shape)
    whole = condiff.sample(made, num_samples=16, seed=5, batch_size=16)
    for kwargs in ({"batch_size": 1}, {"batch_size": 5}):
        torch.testing.assert_close(condiff.sample(made, num_samples=16, seed=5, **kwargs), whole, atol=1e-6, rtol=1e-6)
    halves = [condiff.sample(made, num_samples=8, first=first, seed=5, batch_size=8) for first in (0, 8)]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-6, rtol=1e-6)
    assert torch.equal(condiff.sample(made, num_samples=16, seed=5, batch_size=16), whole)
    assert not torch.allclose(condiff.sample(made, num_samples=16, seed=6, batch_size=16), whole)


def test_the_noise_does_not_depend_on_the_type():
    a, b = RowRng(0, [1], dtype=torch.float32).normal((1, 9)), RowRng(0, [1], dtype=torch.float64).normal((1, 9))
    assert torch.equal(a.double(), b)


def test_streams_are_pinned():
    """The numbers of a seed are part of the promise: if this fails, every stored recipe replays differently."""
    assert key(0, 1, 2) == 6144801338459264829
    pinned = torch.tensor([[-1.7961877584457397, -0.06914173066616058]])
    torch.testing.assert_close(RowRng(0, [0]).normal((1, 2)), pinned)
    assert key(0, "train", 3) != key(0, "train", 4)
    assert key(1, 11) != key(11, 1)


def test_a_part_draws_what_the_whole_draws():
    whole = SharedRng(0, "train", 3)
    parts = [SharedRng(0, "train", 3, part=(first, 12)) for first in (0, 4, 8)]
    for method in ("normal", "uniform"):
        expected = getattr(whole, method)((12, 3))
        assert torch.equal(torch.cat([getattr(part, method)((4, 3)) for part in parts]), expected)
    expected = whole.gamma(1.7, (12,))
    assert torch.equal(torch.cat([part.gamma(1.7, (4,)) for part in parts]), expected)


@pytest.mark.parametrize("concentration", [0.5, 1.0, 3.7])
def test_gamma_has_its_moments(concentration):
    drawn = SharedRng(1).gamma(concentration, (20000,)).double()
    assert float(drawn.mean()) == pytest.approx(concentration, abs=4 * (concentration / 20000) ** 0.5)
    # Fourth central moment of a gamma: 3 a^2 + 6 a.
    spread = ((2 * concentration**2 + 6 * concentration) / 20000) ** 0.5
    assert float(drawn.var()) == pytest.approx(concentration, abs=4 * spread)


def test_strata_of_rows_are_even_and_a_row_keeps_its_own():
    whole = RowRng(3, range(16)).strata((16, 2))
    for block in (slice(0, 16), slice(8, 16), slice(4, 8)):
        count = block.stop - block.start
        for column in whole[block].T:
            assert sorted((column * count).long().tolist()) == list(range(count))
    assert torch.equal(RowRng(3, [9, 4]).strata((2, 2)), whole[[9, 4]])
    rng = RowRng(3, range(16))
    again = rng.strata((16, 2))
    assert torch.equal(again, whole)
    offset = torch.remainder(rng.strata((16, 2)) - whole, 1.0)  # the next draw has another offset, for all rows
    torch.testing.assert_close(offset, offset[:1].expand(16, 2), atol=1e-12, rtol=0.0)
    assert float(offset.min()) > 1e-6


def test_uniforms_stay_below_one_whatever_the_type():
    assert RowRng(0, [0], dtype=torch.float32).uniform((1, 100_000)).dtype == torch.float64
    assert float(SharedRng(0).uniform((100_000,)).max()) < 1.0


@pytest.mark.parametrize("solver", [Jump(1.0), Adams(3)], ids=["DDPM", "Adams3"])
def test_sixteen_threads_equal_one_after_another(solver):
    made = system((17, 2), solver)
    seeds = range(16)
    serial = [condiff.sample(made, num_samples=4, seed=s, guidance_scale=2.0) for s in seeds]
    with ThreadPoolExecutor(16) as pool:
        threaded = list(pool.map(lambda s: condiff.sample(made, num_samples=4, seed=s, guidance_scale=2.0), seeds))
    assert all(torch.equal(a, b) for a, b in zip(serial, threaded, strict=True))


def test_a_wrong_number_of_rows_is_an_error():
    with pytest.raises(ValueError, match="3 rows"):
        RowRng(0, range(3)).normal((4, 2))
    with pytest.raises(ValueError, match="seeds"):
        RowRng(0, [0]).cat(RowRng(1, [0]))
