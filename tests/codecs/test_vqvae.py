"""The learned code book: what it keeps of real digits, how it is learned, and that nothing else trains it."""

from __future__ import annotations

import pytest
import torch

from condiff.codecs import VectorQuantized, VQAutoencoder
from condiff.codecs.vqvae import _thinned
from condiff.data import read


def made(shape=(1, 8, 8), num=32, patch=4, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VQAutoencoder(shape, num, patch, **options)


def learned(data, **options):
    codec = made(tuple(data.shape[1:]), **options)
    codec.learn(lambda: [(data, None)])
    return codec


def error(codec, data):
    return float((codec.decode(codec.encode(data)) - data).square().mean())


@pytest.fixture(scope="module")
def digits():
    return read("digits8")


@pytest.fixture(scope="module")
def codec(digits):
    return learned(digits.train.data, steps=400)


def test_held_out_digits_come_back_better_than_by_patches_of_as_many_entries(digits, codec):
    """At 4 tokens of 32 entries; measured 0.0295 against 0.0350."""
    test = digits.test.data
    ids = codec.encode(test)
    assert ids.shape == (len(test), 4) == (len(test), codec.length)
    assert ids.dtype == torch.int64
    assert torch.equal(ids.unique(), torch.arange(32))  # no entry is left unused
    patches = VectorQuantized.fit(digits.train.data, 32, 4)
    assert error(codec, test) < 0.9 * error(patches, test)


def test_what_comes_back_is_kept_when_it_goes_again(digits, codec):
    """There and back again: pictures that the codec made lose far less than those it did not make."""
    once = codec.decode(codec.encode(digits.test.data))
    assert once.shape == digits.test.data.shape
    assert float(once.min()) >= -1.0
    assert float(once.max()) <= 1.0
    assert error(codec, once) < 0.5 * error(codec, digits.test.data)


def test_rows_are_coded_alone_and_masks_that_are_left_are_the_first_entry(digits, codec):
    some = digits.test.data[:5]
    ids = codec.encode(some)
    assert torch.equal(torch.cat([codec.encode(row[None]) for row in some]), ids)
    masked = ids.clone()
    masked[:, 3] = codec.num
    ids[:, 3] = 0
    assert torch.equal(codec.decode(masked), codec.decode(ids))


def test_weights_are_buffers_and_the_same_data_teach_the_same(digits, codec):
    assert not list(codec.parameters())
    state = torch.random.get_rng_state()
    one, other = (learned(digits.train.data[:300], steps=12) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.buffers(), made(steps=12).buffers(), strict=True))
    third = made(seed=1, steps=12)
    third.load_state_dict(one.state_dict())
    assert torch.equal(third.encode(digits.test.data), one.encode(digits.test.data))


def test_an_entry_that_nothing_falls_to_moves(digits):
    """With the first book made of one far point, all entries but those that moved would stay there."""
    codec = made(num=8, steps=40)
    data = digits.train.data[:500]
    from condiff.codecs import vqvae

    def far(cells, num, **more):
        return torch.full((num, cells.shape[1]), 50.0)

    was, vqvae.k_means = vqvae.k_means, far
    try:
        codec.learn(lambda: [(data, None)])
    finally:
        vqvae.k_means = was
    assert len(codec.encode(digits.test.data).unique()) > 4
    assert float(codec.book.abs().max()) < 50.0


def test_fewer_cells_than_entries_do_not_fail():
    data = torch.zeros(2, 3, 4, 4)
    data[0] = 1.0
    codec = learned(data, num=16, patch=4, steps=8)
    assert codec.encode(data).shape == (2, 1)
    assert bool(codec.book.isfinite().all())


def test_many_pictures_are_thinned_evenly_though_they_are_sorted():
    rows = torch.arange(1000.0)
    kept = _thinned([(part, None) for part in rows.split(64)], 100)
    assert 50 <= len(kept) <= 164
    shares = torch.histc(kept, 4, 0, 1000) / len(kept)
    assert float(shares.min()) > 0.15


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 6, 8), {"patch": 4}, "cells of 4 do not divide pictures of 6x8"),
        ((1, 8, 8), {"num": 1}, "num >= 2"),
        ((1, 8, 8), {"steps": 0}, "positive numbers"),
    ],
)
def test_impossible_sizes_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        made(shape, **options)
