"""Couplings against closed forms, enumeration and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from laws.cases import COUPLINGS, DTYPE, labels, rng
from scipy import stats

from condiff.core import Condition, RowRng, SharedRng
from condiff.process import Gibbs, Independent, MinibatchOT, PerClass, Sinkhorn, pair_cost

MEAN = torch.tensor([0.5, -1.0], dtype=DTYPE)
COV = torch.tensor([[1.2, 0.5], [0.5, 0.7]], dtype=DTYPE)
SPREADS = torch.tensor([3.6, 0.8, 0.2], dtype=DTYPE)  # variances of the three-feature example, trace 4.6


def gaussian_joint(mean, cov, eps):
    """Mean and covariance of (noise, data) under exp(-|noise - data|^2 / eps) N(noise; 0, I) N(data; mean, cov)."""
    n = len(mean)
    eye, pull = torch.eye(n, dtype=DTYPE), 2.0 / eps
    inverse = torch.linalg.inv(cov)
    precision = torch.cat(
        [torch.cat([(1 + pull) * eye, -pull * eye], 1), torch.cat([-pull * eye, inverse + pull * eye], 1)]
    )
    joint = torch.linalg.inv(precision)
    return joint @ torch.cat([torch.zeros(n, dtype=DTYPE), inverse @ mean]), joint


def test_the_gaussian_closed_form():
    """Weighted moments and the weighted regression of noise - data on x_t are those of the joint, and far from w = 1."""
    eps, t, count = 3.0, 0.4, 300_000
    source = SharedRng(0, dtype=DTYPE)
    data = MEAN + source.normal((count, 2)) @ torch.linalg.cholesky(COV).T
    noise, weight = Gibbs(eps, power=2.0).couple(data, source.normal((count, 2)), None, rng=source)
    both = torch.cat([noise, data], 1)
    mean, cov = gaussian_joint(MEAN, COV, eps)
    share = weight / weight.sum()
    found = share @ both
    centred = both - found
    torch.testing.assert_close(found, mean, atol=0.01, rtol=0.0)
    torch.testing.assert_close((centred * share[:, None]).T @ centred, cov, atol=0.01, rtol=0.0)

    # x_t = A z and u = B z of z = (noise, data): the marginal velocity is affine with matrix B C A^T (A C A^T)^-1.
    eye = torch.eye(2, dtype=DTYPE)
    a, b = torch.cat([t * eye, (1 - t) * eye], 1), torch.cat([eye, -eye], 1)
    exact = b @ cov @ a.T @ torch.linalg.inv(a @ cov @ a.T)
    design = torch.cat([both @ a.T, torch.ones(count, 1, dtype=DTYPE)], 1)
    weighted = torch.linalg.solve((design * weight[:, None]).T @ design, (design * weight[:, None]).T @ (both @ b.T))
    torch.testing.assert_close(weighted[:2].T, exact, atol=0.01, rtol=0.0)
    plain = torch.linalg.solve(design.T @ design, design.T @ (both @ b.T))
    assert float((plain[:2].T - exact).abs().max()) > 0.2


def test_cross_covariances_stand_in_order_and_the_data_law_shrinks():
    """independent 0 < W-CFM 0.91 < entropic 1.83 < exact 3.25 (d = 3, eps = 3); trace of the data law 4.6 -> 2.3."""
    eps, count = 3.0, 1500
    _, cov = gaussian_joint(torch.zeros(3, dtype=DTYPE), SPREADS.diag(), eps)
    weighted, tilted = float(cov[:3, 3:].trace()), float(cov[3:, 3:].trace())
    entropic = float((-eps / 4 + (eps**2 / 16 + SPREADS).sqrt()).sum())  # root of c^2 + eps c / 2 = s
    exact = float(SPREADS.sqrt().sum())
    assert (weighted, entropic, exact, tilted) == pytest.approx((0.91, 1.83, 3.25, 2.27), abs=0.02)

    source = SharedRng(4, dtype=DTYPE)
    data, noise = source.normal((count, 3)) * SPREADS.sqrt(), source.normal((count, 3))
    _, weight = Gibbs(eps, power=2.0).couple(data, noise, None, rng=source)
    assert float((weight * (data * noise).sum(1)).mean()) == pytest.approx(weighted, abs=0.25)
    assert float((weight * data.square().sum(1)).mean()) == pytest.approx(tilted, abs=0.3)
    plan = Sinkhorn(eps, chunk=None).plan(data, noise)
    # 1,500 points overestimate it by about 0.1.
    assert float((plan * (data @ noise.T)).sum()) == pytest.approx(entropic, abs=0.25)
    paired = noise[MinibatchOT(500).order(data, noise)]
    assert float((data * paired).sum(1).mean()) == pytest.approx(exact, abs=0.25)


def test_scaling_all_weights_leaves_the_minimiser_and_normalised_weights_even_the_loss():
    data, noise = rng(*range(6)).normal((6, 4)), rng(*range(6), seed=1).normal((6, 4))
    weights = {ref: Gibbs(0.7, reference=ref).couple(data, noise, None, rng=rng(0))[1] for ref in (None, 0.0, 1.4)}
    torch.testing.assert_close(weights[1.4], weights[0.0] * math.exp(2.0))
    torch.testing.assert_close(weights[None], weights[0.0] / weights[0.0].mean())
    torch.testing.assert_close(weights[0.0], torch.exp(-(noise - data).norm(dim=1) / 0.7))
    far = 1e4 + data  # raw weights are 0 in any precision
    assert float(Gibbs(0.7).couple(far, noise, None, rng=rng(0))[1].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("inner", [1.0, 2.0])
def test_constant_norm_is_not_tilted_and_two_radii_are(inner):
    """Two classes at radius 2, or at 1 and 2: their weighted frequencies, by chi-square, and the closed-form factor."""
    eps, count = 3.0, 40_000
    source = SharedRng(1, dtype=DTYPE)
    kind = torch.arange(count) % 2
    data = source.normal((count, 3))
    data = data / data.norm(dim=1, keepdim=True) * torch.where(kind == 0, inner, 2.0)[:, None]
    gibbs = Gibbs(eps, power=2.0)
    _, weight = gibbs.couple(data, source.normal((count, 3)), None, rng=source)
    picked = kind[torch.multinomial(weight, 4000, replacement=True, generator=torch.Generator().manual_seed(0))]
    counts = torch.bincount(picked, minlength=2).double()
    factor = torch.exp(gibbs.log_tilt(data[:2]))
    expected = (factor / factor.sum() * 4000).numpy()
    assert stats.chisquare(counts.numpy(), expected).pvalue > 0.01
    even = stats.chisquare(counts.numpy(), [2000, 2000]).pvalue
    assert even > 0.01 if inner == 2.0 else even < 1e-9
    assert float(factor[0] / factor[1]) == pytest.approx(math.exp((4.0 - inner**2) / (eps + 2.0)))


def test_the_tilt_factor_is_the_mean_weight():
    data, eps = torch.tensor([[0.5, -1.0, 0.3]], dtype=DTYPE), 2.0
    noise = SharedRng(0, dtype=DTYPE).normal((400_000, 3))
    mean = torch.exp(-Gibbs(eps, 2.0).cost(data.expand_as(noise), noise) / eps).mean()
    assert float(mean) == pytest.approx(math.exp(float(Gibbs(eps, 2.0).log_tilt(data))), rel=0.01)
    with pytest.raises(ValueError, match="power 2 only"):
        Gibbs(eps).log_tilt(data)


def test_eps_scales_with_the_root_of_the_features():
    assert Gibbs.scaled(0.3, 64) == Gibbs(2.4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_the_permutation_is_the_best_of_all(count):
    for seed in range(4):
        data, noise = (rng(*range(count), seed=s).normal((count, 2)) for s in (seed, seed + 50))
        order = MinibatchOT().order(data, noise)
        costs = {p: float(pair_cost(data, noise[list(p)]).sum()) for p in itertools.permutations(range(count))}
        assert costs[tuple(order.tolist())] == pytest.approx(min(costs.values()))


def test_marginals_are_kept_exactly():
    """Every noise is used once: nothing is drawn with replacement, in any chunk."""
    data, noise = rng(*range(50)).normal((50, 3)), rng(*range(50), seed=1).normal((50, 3))
    for chunk, rounds in ((None, 1), (7, 1), (7, 3), (50, 2), (64, 2)):
        order = MinibatchOT(chunk, rounds).order(data, noise)
        assert order.sort().values.tolist() == list(range(50))
        if (chunk, rounds) == (7, 1):
            assert torch.equal(order // 7, torch.arange(50) // 7)
    paired, weight = MinibatchOT().couple(data, noise, None, rng=rng(0))
    assert weight is None
    assert torch.equal(paired.sort(0).values, noise.sort(0).values)


def test_chunks_stand_between_the_whole_batch_and_none_and_rounds_improve_them():
    data, noise = rng(*range(256)).normal((256, 8)), rng(*range(256), seed=1).normal((256, 8))
    settings = [(None, 1), (32, 8), (32, 2), (32, 1), (4, 1)]
    costs = [float(pair_cost(data, noise[MinibatchOT(*s).order(data, noise)]).mean()) for s in settings]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    plain = float(pair_cost(data, noise).mean())
    assert costs[-1] < plain
    kept = [(plain - cost) / (plain - costs[0]) for cost in costs]
    assert kept[2] > kept[3] + 0.05


def test_good_potentials_do_not_change_the_assignment():
    from scipy.optimize import linear_sum_assignment

    for features, apart in ((2, 0.0), (2, 5.0), (64, 2.0)):  # spread out, and in tight clusters
        data = apart * torch.randn(4, features, generator=torch.Generator().manual_seed(0))[torch.arange(200) % 4]
        data = data + 0.3 * rng(*range(200)).normal((200, features)).float()
        noise = rng(*range(200), seed=1).normal((200, features)).float()
        plain = linear_sum_assignment(torch.cdist(data.double(), noise.double()).square().numpy())[1]
        ours = MinibatchOT(None).order(data, noise)
        costs = [float(pair_cost(data, noise[order]).sum()) for order in (ours, torch.from_numpy(plain))]
        assert costs[0] == pytest.approx(costs[1], rel=1e-6)


def test_the_entropic_plan_has_its_marginals_and_its_limits():
    data, noise = rng(*range(12)).normal((12, 2)), rng(*range(12), seed=1).normal((12, 2))
    plan = Sinkhorn(0.5, num_iterations=2000).plan(data, noise)
    for axis in (0, 1):
        torch.testing.assert_close(plan.sum(axis), torch.full((12,), 1 / 12, dtype=DTYPE), rtol=2e-3, atol=0.0)
    # plan = diag(u) exp(-c / reg) diag(v): every 2 x 2 cross ratio is that of the kernel.
    kernel = -torch.cdist(data, noise).square() / 0.5
    cross = plan.log() - kernel
    torch.testing.assert_close(
        cross - cross[:1] - cross[:, :1] + cross[0, 0], torch.zeros_like(cross), atol=1e-9, rtol=0.0
    )
    torch.testing.assert_close(Sinkhorn(1e6).plan(data, noise), torch.full_like(plan, 1 / 144), rtol=1e-3, atol=0.0)
    sharp = Sinkhorn(0.01, num_iterations=20_000).plan(data, noise)
    assert torch.equal(sharp.argmax(1), MinibatchOT().order(data, noise))


def test_noise_is_drawn_from_the_rows_of_the_plan():
    data, noise = rng(0, 1, 2).normal((3, 2)), rng(0, 1, 2, seed=1).normal((3, 2))
    plan, count = Sinkhorn(4.0).plan(data, noise), 500
    # copies of one batch of three, in chunks of three
    paired, _ = Sinkhorn(4.0, chunk=3).couple(data.repeat(count, 1), noise.repeat(count, 1), None, rng=_Repeated())
    which = (paired[:, None] - noise).square().sum(2).argmin(1).reshape(count, 3)
    for row in range(3):
        seen = torch.bincount(which[:, row], minlength=3).numpy()
        assert stats.chisquare(seen, (plan[row] / plan[row].sum() * count).numpy()).pvalue > 1e-3


class _Repeated:
    """One stream for chunks of any size."""

    def __init__(self):
        self.inner = SharedRng(0)

    def categorical(self, logits):
        return self.inner.categorical(logits)


@pytest.mark.parametrize("inner", [MinibatchOT(), Gibbs(0.5), Sinkhorn(0.5)], ids=["OT", "Gibbs", "Sinkhorn"])
def test_classes_are_coupled_apart_and_rows_without_one_too(inner):
    data, noise = rng(*range(9)).normal((9, 3)), rng(*range(9), seed=1).normal((9, 3))
    cond = labels(0, 1, 2, 0, 1, 0, 2, 1, 0)
    cond = Condition(cond.values, {"label": torch.tensor([True] * 6 + [False] * 3)})
    groups = [[0, 3, 5], [1, 4], [2], [6, 7, 8]]
    paired, weight = PerClass(inner, "label").couple(data, noise, cond, rng=RowRng(0, range(9), dtype=DTYPE))
    for rows in groups:
        gaps = torch.cdist(paired[rows], noise[rows]).min(1)
        assert float(gaps.values.max()) == 0.0, "noise came from another class"
        if isinstance(inner, MinibatchOT):
            assert gaps.indices.sort().values.tolist() == list(range(len(rows)))
            assert torch.equal(paired[rows], noise[rows][inner.order(data[rows], noise[rows])])
        if isinstance(inner, Gibbs):
            assert float(weight[rows].mean()) == pytest.approx(1.0)


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'label'"):
        PerClass(MinibatchOT(), "label").couple(torch.zeros(2, 1), torch.zeros(2, 1), None, rng=rng(0, 1))


@pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS)
def test_every_coupling_keeps_shapes_and_only_hands_out_noise_that_is_there(coupling):
    data, noise = rng(*range(7)).normal((7, 1, 2, 3)), rng(*range(7), seed=1).normal((7, 1, 2, 3))
    cond = labels(0, 1, 2, 0, 1, 0, 2)
    source = RowRng(0, range(7), dtype=DTYPE)
    paired, weight = coupling.couple(data, noise, cond, rng=_Repeated() if isinstance(coupling, Sinkhorn) else source)
    assert (paired.shape, paired.dtype) == (noise.shape, noise.dtype)
    assert float(torch.cdist(paired.flatten(1), noise.flatten(1)).min(1).values.max()) < 1e-6
    assert weight is None or (weight.shape == (7,) and bool((weight >= 0).all()))
    assert isinstance(coupling, Independent) <= torch.equal(paired, noise)


def test_bad_numbers_are_refused():
    for make in (lambda: Gibbs(0.0), lambda: Gibbs(1.0, power=-1.0), lambda: MinibatchOT(1), lambda: MinibatchOT(8, 0), lambda: Sinkhorn(0.0),
                 lambda: Sinkhorn(1.0, chunk=1), lambda: Sinkhorn(1.0, num_iterations=0)):  # fmt: skip
        with pytest.raises(ValueError, match="needs"):
            make()
