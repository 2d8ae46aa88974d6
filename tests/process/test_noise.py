"""Student noise is PFGM++'s kernel: its length, its moments, its limit, and the transfer r = sigma sqrt(D)."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, rng
from scipy import stats

from condiff.core import RowRng, SharedRng, instant
from condiff.process import EDM, Flow, Gaussian, LogLinear, Normal, Offset, Score, Student


@pytest.mark.parametrize(("features", "df"), [(64, 1.0), (64, 16.0), (64, 128.0), (3072, 128.0), (3072, 2048.0)])
def test_radius(features, df):
    """|n|^2 / N is F(N, D); one length a row, so a law with one chi2 a pixel fails too."""
    count = 2000
    noise = Student(df).draw((count, features), SharedRng(7, features, dtype=torch.float64))
    square = noise.square().sum(1) / features
    assert stats.kstest(square.numpy(), stats.f(features, df).cdf).pvalue > 0.01
    # The published sampler clips its Beta draws in training, which this test can tell: 20 % of the mass at D = 1.
    if df == 1.0:
        b = torch.from_numpy(stats.beta(features / 2, df / 2).rvs(count, random_state=0)).clamp(1e-3, 1 - 1e-3)
        clipped = (df * b / (1 - b) / features).numpy()
        assert stats.kstest(clipped, stats.f(features, df).cdf).pvalue < 1e-6


@pytest.mark.parametrize("df", [16.0, 128.0])
def test_the_published_sampler_at_r_is_this_law_at_sigma(df):
    """R = r sqrt(b / (1 - b)), b ~ Beta(N / 2, D / 2), at the aligned r = sigma sqrt(D), against the draw of a process."""
    features, count, t = 64, 4000, instant(0.6)
    process = Gaussian(LogLinear.edm(), Student(df))
    sigma = float(process.coefficients(t)[1])
    r = sigma * math.sqrt(df)
    b = stats.beta(features / 2, df / 2).rvs(count, random_state=1)
    published = r * (b / (1 - b)) ** 0.5
    draw = process.draw(torch.ones(count, features, dtype=DTYPE), t, rng=SharedRng(3, dtype=torch.float64))
    ours = (draw.x - 1.0).square().sum(1).sqrt().numpy()
    assert stats.ks_2samp(ours, published).pvalue > 0.01
    # A wrong alignment r = sigma D or r = sigma is far off.
    assert stats.ks_2samp(ours, published / math.sqrt(df)).pvalue < 1e-9


@pytest.mark.parametrize(("df", "count", "features"), [(4.0, 400_000, 2), (16.0, 40_000, 8), (128.0, 40_000, 8)])
def test_moments(df, count, features):
    """The variance of a feature is D / (D - 2): 2.0, 1.143, 1.0159. At D = 4 the fourth moment is infinite."""
    noise = Student(df).draw((count, features), SharedRng(0, dtype=torch.float64))
    expected = df / (df - 2)
    assert float(noise.square().mean()) == pytest.approx(expected, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(Student(df).covary(torch.ones(()))) == pytest.approx(expected)


@pytest.mark.parametrize(("df", "spread"), [(1e2, 0.27), (1e4, 5e-3), (1e6, 5e-5)])
def test_the_log_kernel_becomes_normal(df, spread):
    """The log-ratio to the normal kernel is a constant in the limit: its spread over normal draws falls like 1 / D."""
    square = SharedRng(0, dtype=torch.float64).normal((20_000, 64)).square().sum(1)
    ratio = Student(df).log_kernel(square, 64) - Normal().log_kernel(square, 64)
    assert float(ratio.std()) == pytest.approx(spread, rel=0.15)


def test_infinity_is_the_normal_law_bit_for_bit():
    limit, normal = Student(math.inf), Normal()
    for source in (lambda: rng(0, 1, 2), lambda: SharedRng(5)):
        one, other = source(), source()
        for _ in range(2):  # the second draw too: no extra number may be taken from the stream
            assert torch.equal(limit.draw((3, 4, 5), one), normal.draw((3, 4, 5), other))
    x = rng(0).normal((1, 4))
    assert torch.equal(limit.covary(x), normal.covary(x))
    assert torch.equal(limit.log_kernel(x, 4), normal.log_kernel(x, 4))
    assert (limit.additive, limit.standard) == (normal.additive, normal.standard) == (True, True)
    process, plain = Gaussian(Flow(), limit), Gaussian(Flow())
    assert process.row(Score(), instant(0.5)) == plain.row(Score(), instant(0.5))
    assert torch.equal(process.log_prior(x), plain.log_prior(x))


def test_a_kernel_is_the_density_of_its_law():
    """Against the densities of scipy, up to one constant."""
    noise = rng(0, 1, 2, 3).normal((4, 3))
    square = noise.square().sum(1)
    for law, exact in (
        (Student(5.0), stats.multivariate_t(loc=[0] * 3, shape=1.0, df=5.0).logpdf(noise.numpy())),
        (Normal(), stats.multivariate_normal(mean=[0] * 3).logpdf(noise.numpy())),
    ):
        gap = law.log_kernel(square, 3) - torch.from_numpy(exact)
        assert float(gap.max() - gap.min()) < 1e-12


def test_a_finite_law_has_no_score():
    process = Gaussian(LogLinear.edm(), Student(128.0))
    with pytest.raises(TypeError, match="Score needs Normal noise"):
        process.row(Score(), instant(0.5))
    with pytest.raises(TypeError, match="likelihood"):
        process.log_prior(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="not additive"):
        process.reverse(
            torch.zeros(1, 2), instant(0.5), instant(0.4),
            process.infer(torch.zeros(1, 2), instant(0.5), torch.zeros(1, 2), EDM()), eta=0.5, rng=RowRng(0, [0]),
        )  # fmt: skip
    assert not Offset(0.1).standard
    assert Offset(0.0).standard


@pytest.mark.parametrize("df", [0.0, -1.0, math.nan])
def test_degrees_of_freedom_are_checked(df):
    with pytest.raises(ValueError, match="df > 0"):
        Student(df)
