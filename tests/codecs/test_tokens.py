from __future__ import annotations

import pytest
import torch

from condiff.codecs import Levels, VectorQuantized


def test_levels_by_hand_and_there_and_back():
    codec = Levels(4, (1, 2, 2))
    x = torch.tensor([[[[-1.0, -0.4], [0.32, 1.0]]]])
    assert codec.encode(x).tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(codec.decode(codec.encode(x)), torch.tensor([[[[-1.0, -1 / 3], [1 / 3, 1.0]]]]))
    assert codec.encode(torch.full((1, 1, 2, 2), 7.0)).tolist() == [[3, 3, 3, 3]]
    assert codec.decode(torch.tensor([[4, 0, 0, 0]]))[0, 0, 0, 0] == -1.0
    with pytest.raises(ValueError, match="at least 2"):
        Levels(1, (1, 2, 2))


def test_a_picture_made_of_book_entries_comes_back_as_it_was():
    """Ids run row by row; each patch goes to its own entry."""
    book = ((-1.0, -1.0, -1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (0.0, 1.0, 0.0, 1.0))
    codec = VectorQuantized(book, 2, (1, 4, 6))
    ids = torch.tensor([[0, 1, 2, 2, 1, 0]])
    picture = codec.decode(ids)
    assert picture.shape == (1, 1, 4, 6)
    assert picture[0, 0, :2, 2:4].tolist() == [[1.0, 1.0], [-1.0, -1.0]]
    assert picture[0, 0, 2:, :2].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert torch.equal(codec.encode(picture + 0.1), ids)
    assert codec.length == 6


def test_k_means_finds_clusters_and_is_the_same_every_time():
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0] * 4, [1.0] * 4, [-1.0, 1.0, -1.0, 1.0]])
    data = centres[torch.randint(0, 3, (500,), generator=g)] + 0.01 * torch.randn(500, 4, generator=g)
    data = data.reshape(500, 1, 2, 2)
    codec = VectorQuantized.fit(data, 3, 2)
    found = torch.tensor(codec.book)
    assert torch.cdist(centres, found).min(1).values.max() < 0.01
    assert VectorQuantized.fit(data, 3, 2).book == codec.book
    assert (codec.decode(codec.encode(data)) - data).abs().max() < 0.06


def test_more_entries_lose_less_and_fewer_patches_than_entries_do_not_fail():
    data = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    errors = [
        float((codec.decode(codec.encode(data)) - data).square().mean())
        for codec in (VectorQuantized.fit(data, n, 2) for n in (2, 8, 32))
    ]
    assert errors == sorted(errors, reverse=True)
    assert len(VectorQuantized.fit(data[:1], 8, 2).book) == 4


def test_wrong_books_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        VectorQuantized(((0.0,), (1.0,)), 2, (1, 3, 4))
    with pytest.raises(ValueError, match="entries of 4 numbers"):
        VectorQuantized(((0.0,), (1.0,)), 2, (1, 4, 4))
