"""Random features."""

from __future__ import annotations

import pytest
import torch

from condiff.evaluate import RandomFeatures, flat


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_small_data_is_standardised_by_channel() -> None:
    x = rows(200, 2, 5) * torch.tensor([3.0, 0.01])[None, :, None] + torch.arange(5.0)
    out = RandomFeatures.fit(x)(x).reshape(200, 2, 5)
    torch.testing.assert_close(out.mean(0), torch.zeros(2, 5).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.square().mean((0, 2)), torch.ones(2).double(), atol=1e-6, rtol=0)


def test_projection_keeps_distances_on_average_and_depends_on_the_seed() -> None:
    x = rows(50, 1, 20, 20)
    fitted = RandomFeatures.fit(x, size=64, seed=3)
    out = fitted(x)
    assert out.shape == (50, 64)
    # Columns of length about 1: each feature of white data has variance about 1.
    assert out.var(0).mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(out, RandomFeatures.fit(x, size=64, seed=3)(x))
    assert not torch.equal(out, RandomFeatures.fit(x, size=64, seed=4)(x))
    assert "seed 3" in fitted.definition
    torch.testing.assert_close(fitted(x[7:8]), out[7:8])


def test_numbers_that_hardly_vary_are_not_blown_up() -> None:
    x = rows(100, 1, 10)
    x[:, :, 0] *= 1e-4
    x[:, :, 1] = 5.0
    moved = x.clone()
    moved[:, :, :2] += 0.5
    fitted = RandomFeatures.fit(x)
    assert float((fitted(moved) - fitted(x)).abs().max()) < 1.0


def test_constant_channels_are_finite_and_visible() -> None:
    x = torch.cat([rows(30, 1, 4), torch.full((30, 1, 4), 2.0)], 1)
    fitted = RandomFeatures.fit(x)
    torch.testing.assert_close(fitted(x)[:, 4:], torch.zeros(30, 4).double())
    torch.testing.assert_close(fitted(x + 1)[:, 4:], torch.ones(30, 4).double())


def test_wrong_data_is_refused() -> None:
    with pytest.raises(TypeError, match="token numbers"):
        RandomFeatures.fit(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 finite rows"):
        RandomFeatures.fit(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match=r"rows of shape \(3,\)"):
        RandomFeatures.fit(rows(4, 3))(rows(4, 2))
    assert flat(rows(4, 3, 2)).shape == (4, 6)
