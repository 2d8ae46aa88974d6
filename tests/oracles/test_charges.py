"""Point charges: the exact field of a few data points under Student noise, which PFGM++ learns."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, rng
from scipy import stats

from condiff.core import SharedRng, instant, sample, trajectory
from condiff.oracles import DataSetIdeal
from condiff.process import Gaussian, Karras, LogLinear, Normal, Offset, Ratio, Student
from condiff.solvers import Heun

CLOCK = LogLinear(0.01, 50.0)
LINE = torch.tensor([[-1.3], [0.2], [0.9]], dtype=DTYPE)
PLANE = torch.tensor([[1.0, 0.0], [-0.4, 0.9], [-0.8, -0.5], [0.3, -1.0], [0.6, 0.7]], dtype=DTYPE)


def at(sigma):
    return instant(CLOCK.time(-2.0 * math.log(sigma)))


def log_density(points, df, x, sigma):
    """log p(x; sigma) of equal charges up to a constant, straight from the paper's kernel at r = sigma sqrt(D)."""
    features = points.shape[1]
    square = (x[:, None] - points).square().sum(-1)
    kernel = -0.5 * (features + df) * torch.log(square + df * sigma**2)
    # The kernel's normaliser grows like r^D.
    return torch.logsumexp(kernel, 1) + df * torch.log(sigma)


@pytest.mark.parametrize("df", [1.0, 3.0, 50.0])
def test_the_continuity_equation_holds(df):
    """d log p / d sigma + u d log p / dx + du / dx = 0 with u = (x - E[data | x]) / sigma, to 1e-8."""
    oracle = DataSetIdeal(Gaussian(CLOCK, Student(df)), LINE)
    x = torch.linspace(-3.0, 3.0, 13, dtype=DTYPE)[:, None].requires_grad_()
    for value in (0.3, 1.0, 4.0):
        sigma = torch.tensor(value, dtype=DTYPE, requires_grad=True)
        log_p = log_density(LINE, df, x, sigma)
        (by_x,) = torch.autograd.grad(log_p.sum(), x, retain_graph=True)
        by_sigma = torch.stack(
            [torch.autograd.grad(log_p[k], sigma, retain_graph=True)[0] for k in range(len(x))]
        )  # fmt: skip
        u = oracle(x, at(value), None).parts["noise"]
        (spread,) = torch.autograd.grad(u.sum(), x)
        assert float((by_sigma + (u * by_x + spread)[:, 0]).detach().abs().max()) < 1e-8


def test_one_extra_dimension_is_the_field_of_coulomb():
    """D = 1: (x - E[data | x]) / r is E_x / E_r of charges in N + 1 dimensions, seen from height r over their plane."""
    process = Gaussian(CLOCK, Student(1.0))
    x = rng(0, 1, 2).normal((3, 2))
    for sigma in (0.2, 1.0, 3.0):
        offset = torch.cat([x[:, None] - PLANE, torch.full((3, len(PLANE), 1), sigma, dtype=DTYPE)], -1)
        field = (offset / offset.square().sum(-1, keepdim=True) ** 1.5).sum(1)  # r / |r|^(N + 1), N = 2
        ours = DataSetIdeal(process, PLANE)(x, at(sigma), None).parts["noise"]
        torch.testing.assert_close(ours, field[:, :2] / field[:, 2:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("df", [1.0, 4.0, 128.0])
def test_the_ideal_denoiser_is_a_softmax_of_the_kernel(df):
    x, sigma = rng(0, 1, 2).normal((3, 2)), 0.7
    logits = -0.5 * (2 + df) * torch.log((x[:, None] - PLANE).square().sum(-1) + df * sigma**2)
    ours = DataSetIdeal(Gaussian(CLOCK, Student(df)), PLANE)(x, at(sigma), None).parts["data"]
    torch.testing.assert_close(ours, torch.softmax(logits, 1) @ PLANE, atol=1e-12, rtol=1e-12)


def test_the_limit_is_the_normal_denoiser():
    x, t = rng(0, 1, 2).normal((3, 2)), at(0.7)
    normal = DataSetIdeal(Gaussian(CLOCK), PLANE)(x, t, None).parts["data"]
    limit = DataSetIdeal(Gaussian(CLOCK, Student(math.inf)), PLANE)(x, t, None).parts["data"]
    large = DataSetIdeal(Gaussian(CLOCK, Student(1e7)), PLANE)(x, t, None).parts["data"]
    assert torch.equal(limit, normal)
    torch.testing.assert_close(large, normal, atol=1e-6, rtol=1e-6)


def test_a_law_without_a_radius_is_refused():
    with pytest.raises(TypeError, match="length alone"):
        DataSetIdeal(Gaussian(CLOCK, Offset()), PLANE)


def test_the_naive_score_is_wrong():
    """-(x - E[data | x]) / sigma^2 is not d log p / dx below infinity: off by several units at three charges."""
    x = torch.linspace(-3.0, 3.0, 61, dtype=DTYPE)[:, None].requires_grad_()
    sigma = torch.tensor(0.3, dtype=DTYPE)
    gaps = {}
    for df in (1.0, 3.0, 1e7):
        (score,) = torch.autograd.grad(log_density(LINE, df, x, sigma).sum(), x)
        naive = -DataSetIdeal(Gaussian(CLOCK, Student(df)), LINE)(x, at(0.3), None).parts["noise"] / sigma
        gaps[df] = float((score - naive).detach().abs().max())
    assert gaps[1.0] > 4.0
    assert gaps[3.0] > 4.0
    assert gaps[1e7] < 1e-3  # the gap closes like 1 / D: 1.1e-4 seen


def moved(law, start_law, count, seed):
    """Projection of the flow's end at sigma 0.5 from y + 2 n at sigma 2, and of fresh y + 0.5 n."""
    process = Gaussian(CLOCK, law)
    source = SharedRng(seed, dtype=DTYPE)
    which = source.uniform((2, count)).mul(len(PLANE)).long()
    x = PLANE[which[0]] + 2.0 * start_law.draw((count, 2), source)
    grid = CLOCK.time(-2.0 * torch.linspace(math.log(2.0), math.log(0.5), 61, dtype=DTYPE))
    for state in trajectory(process, DataSetIdeal(process, PLANE), Heun(Ratio()), x, grid, rng=source):
        x = state.x
    fresh = PLANE[which[1]] + 0.5 * law.draw((count, 2), source)
    axis = torch.tensor([0.6, 0.8], dtype=DTYPE)
    return (x @ axis).numpy(), (fresh @ axis).numpy()


@pytest.mark.parametrize(("df", "wrong"), [(1.0, 1e-60), (4.0, 1e-5), (16.0, None), (64.0, None)])
def test_the_flow_transports_its_law(df, wrong):
    """From y + 2 n to the law of y + 0.5 n; a normal start ends elsewhere, the more so the heavier the tails."""
    ours, fresh = moved(Student(df), Student(df), 20_000, 1)
    assert stats.ks_2samp(ours, fresh).pvalue > 0.01
    if wrong is not None:  # at D = 16 the file saw p = .03: too near to assert
        ours, fresh = moved(Student(df), Normal(), 20_000, 1)
        assert stats.ks_2samp(ours, fresh).pvalue < wrong


@pytest.mark.parametrize(("df", "stragglers"), [(1.0, 0.05), (4.0, 0.0), (64.0, 0.0)])
def test_a_full_run_ends_at_the_points(df, stragglers):
    """80 to 0 in 18 steps: every sample within 0.02 of a point; the heavy tail of D = 1 leaves about one in a hundred."""
    process = Gaussian(LogLinear.edm(), Student(df))
    grid = Karras()(process.schedule, 18)
    count = 2000
    x = sample(process, DataSetIdeal(process, PLANE), Heun(Ratio()), (count, 2), grid, rng=SharedRng(0, dtype=DTYPE))
    far = float(((x[:, None] - PLANE).square().sum(-1).min(1).values.sqrt() > 0.02).double().mean())
    assert far <= stragglers
    assert (far > 0.0) == (stragglers > 0.0)
