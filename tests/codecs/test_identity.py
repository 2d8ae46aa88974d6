"""Codecs return what they were given."""

from __future__ import annotations

import pytest
import torch

from condiff.codecs import Flatten, Identity, Standardize

X = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 5.0])[:, None] + 3.0


@pytest.mark.parametrize("codec", [Identity(), Standardize((3.0, 1.0), (2.0, 5.0)), Standardize((3.0,), (2.0,)),
                                   Standardize.fit(X), Flatten((2, 3))], ids=repr)  # fmt: skip
def test_decode_undoes_encode(codec):
    torch.testing.assert_close(codec.decode(codec.encode(X)), X)
    assert codec.decode(codec.encode(X.double())).dtype == torch.float64


def test_standardised_data_have_mean_0_and_deviation_1_a_channel():
    z = Standardize.fit(X).encode(X).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(2), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(2))


def test_a_constant_channel_is_only_shifted():
    x = X.clone()
    x[:, 1] = 7.0
    codec = Standardize.fit(x)
    assert codec.std[1] == 1.0
    assert float(codec.encode(x)[:, 1].abs().max()) == 0.0


def test_flatten_makes_vectors():
    z = Flatten((2, 3)).encode(X)
    assert z.shape == (50, 6)
    assert torch.equal(z[:, 4], X[:, 1, 1])


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((1.0,), (0.0,)), ((1.0, 2.0), (1.0,)), ((1.0,), (-1.0,))])
def test_what_cannot_be_undone_is_refused(mean, std):
    with pytest.raises(ValueError, match="std > 0"):
        Standardize(mean, std)
