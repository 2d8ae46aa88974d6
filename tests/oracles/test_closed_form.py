"""The Gaussian's whole trajectory in closed form, against integration and against itself (Wang and Vastola 2023)."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, rng

from condiff.core import SharedRng, instant
from condiff.oracles import DataSetIdeal, GaussianData, MixtureData, Spectrum, clusters
from condiff.process import VP, Cosine, Flow, Gaussian, LogLinear, Trig

PATHS = {"VP": (VP(), 0.95, 0.05), "Cosine": (Cosine(), 0.95, 0.05), "Trig": (Trig(), 0.95, 0.05),
         "Flow": (Flow(), 0.95, 0.05), "EDM": (LogLinear(0.02, 20.0), 1.0, 0.0)}  # fmt: skip
LAM = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.01, 0.0, 0.0, 0.0, 0.0], dtype=DTYPE)


def at(t):
    return torch.tensor(t, dtype=DTYPE)  # a float32 time is off by 1e-8 of a clock


def law(process, variances=LAM, seed=0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=generator, dtype=DTYPE)).Q
    mean = torch.randn(len(variances), generator=generator, dtype=DTYPE)
    kept = len(variances) if rank is None else rank
    return GaussianData(process, mean, basis[:, :kept].contiguous(), variances[:kept])


def rk4(process, oracle, x, start, end, steps):
    def slope(x, t):
        now = instant(t)
        return process.velocity(x, now, oracle(x, now, None))

    h = (end - start) / steps
    for n in range(steps):
        t = start + n * h
        a = slope(x, t)
        b = slope(x + 0.5 * h * a, t + 0.5 * h)
        c = slope(x + 0.5 * h * b, t + 0.5 * h)
        d = slope(x + h * c, t + h)
        x = x + h / 6.0 * (a + 2 * b + 2 * c + d)
    return x


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_closed_form_equals_runge_kutta(path):
    """12 dimensions, 4 of no variance. Halving the step divides the gap by 16: it is the integrator's, not ours."""
    schedule, start, end = path
    process = Gaussian(schedule)
    oracle = law(process)
    x = rng(0, 1).normal((2, 12)) * schedule(start)[1]
    exact = oracle.flow(x, at(start), at(end))
    gaps = [float((rk4(process, oracle, x, start, end, steps) - exact).abs().max()) for steps in (150, 300)]
    assert gaps[1] < 2e-7
    assert gaps[0] / gaps[1] == pytest.approx(16.0, rel=0.25)


def test_closed_form_equals_runge_kutta_to_rounding():
    process = Gaussian(Trig())
    oracle, x = law(process), rng(0).normal((1, 12))
    exact = oracle.flow(x, at(0.95), at(0.05))
    assert float((rk4(process, oracle, x, 0.95, 0.05, 2000) - exact).abs().max()) < 6e-12


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_end_point_estimate_along_the_trajectory(path):
    """data_hat(t) = mean + sum xi_k c_k u_k with xi a sigmoid in log-SNR, c_k fixed by where the trajectory starts."""
    schedule, start, end = path
    process = Gaussian(schedule)
    oracle, x = law(process), rng(0, 1).normal((2, 12)) * schedule(start)[1]
    alpha_t, sigma_t = schedule(start)
    c = (x - alpha_t * oracle.mean) @ oracle.basis
    for t in torch.linspace(start, end, 5, dtype=DTYPE):
        alpha, sigma = schedule(float(t))
        spread = (alpha**2 * LAM + sigma**2) * (alpha_t**2 * LAM + sigma_t**2)
        expected = oracle.mean + (alpha * LAM / spread.sqrt() * c) @ oracle.basis.T
        state = oracle.flow(x, at(start), t)
        torch.testing.assert_close(oracle(state, t, None).parts["data"], expected, atol=6e-12, rtol=0.0)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_flow_is_a_semigroup(path):
    schedule, start, end = path
    oracle = law(Gaussian(schedule))
    x = rng(0, 1).normal((2, 12)) * schedule(start)[1]
    a, b, c = at(start), at(0.4), at(end)
    whole = oracle.flow(x, a, c)
    # 9e-16 of the size of the state, which is up to 60 here
    assert float((oracle.flow(oracle.flow(x, a, b), b, c) - whole).abs().max()) < 9e-16 * 16 * float(x.abs().max())
    torch.testing.assert_close(oracle.flow(whole, c, a), x, atol=1e-11 * float(x.abs().max()), rtol=0.0)


def test_the_low_rank_form_is_the_full_form():
    for schedule, start, end in PATHS.values():
        process = Gaussian(schedule)
        full, low = law(process), law(process, rank=8)
        x = rng(0, 1).normal((2, 12)) * schedule(start)[1]
        t, s = at(start), at(end)
        near = 2e-15 * 16 * float(x.abs().max())
        torch.testing.assert_close(low.flow(x, t, s), full.flow(x, t, s), atol=near, rtol=0.0)
        for name in ("data", "noise"):
            torch.testing.assert_close(low(x, t, None).parts[name], full(x, t, None).parts[name], atol=near, rtol=0.0)


def test_a_residual_variance_stands_for_what_was_cut_off():
    """Equal small variances outside the basis: estimate, flow, density, samples and marginals are the full form's."""
    variances = torch.tensor([4.0, 1.0, 0.3, 0.3, 0.3], dtype=DTYPE)
    for schedule in (VP(), Flow(), LogLinear.edm()):
        process = Gaussian(schedule)
        full = law(process, variances)
        low = GaussianData(process, full.mean, full.basis[:, :2], variances[:2], rest=0.3)
        x, t, s = rng(0, 1).normal((2, 5)), at(0.7), torch.tensor([0.0, 0.4], dtype=DTYPE)
        for name in ("data", "noise"):
            torch.testing.assert_close(low(x, t, None).parts[name], full(x, t, None).parts[name])
        torch.testing.assert_close(low.flow(x, t, s), full.flow(x, t, s))
        torch.testing.assert_close(low.flow(x, at(0.0), s), full.flow(x, at(0.0), s))
        torch.testing.assert_close(low.log_density(x, t), full.log_density(x, t))
        drawn = low.sample(4000, rng=SharedRng(0, dtype=DTYPE))
        covariance = full.basis @ torch.diag(variances) @ full.basis.T
        torch.testing.assert_close(torch.cov(drawn.T), covariance, atol=6 * 4.0 / 4000**0.5, rtol=0.0)
        states = low.marginal((4000, 5), at(0.3), rng=SharedRng(1, dtype=DTYPE))
        alpha, sigma = schedule(0.3)
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(5, dtype=DTYPE)
        torch.testing.assert_close(torch.cov(states.T), noisy, atol=6 * float(noisy.max()) / 4000**0.5, rtol=0.0)


def test_a_kick_ends_multiplied_by_its_gain():
    """Along directions of variance above 1 a kick at the noise end grows up to sqrt(v), below it shrinks, off it dies."""
    process = Gaussian(VP())
    oracle, x = law(process), rng(0).normal((1, 12))
    t, s = at(0.7), at(0.0)
    gain = oracle.gain(t, s)
    alpha, sigma = process.schedule(0.7)
    for k in range(12):
        kick = 0.1 * oracle.basis[:, k]
        moved = (oracle.flow(x + kick, t, s) - oracle.flow(x, t, s))[0]
        expected = math.sqrt(LAM[k] / (sigma**2 + alpha**2 * LAM[k]))
        torch.testing.assert_close(moved, expected * kick, atol=1e-13, rtol=0.0)
        assert float(gain[k]) == pytest.approx(expected, abs=1e-14)
    early = oracle.gain(torch.tensor(1.0, dtype=DTYPE), s)
    torch.testing.assert_close(early, LAM.sqrt(), atol=2e-3, rtol=0.0)
    assert bool((early[:3] > 1.0).all())
    assert bool((early[-4:] == 0.0).all())
    integrated = rk4(process, oracle, torch.cat([x, x + 0.1 * oracle.basis[:, 0]]), 0.7, 0.02, 400)
    grown = float((integrated[1] - integrated[0]).norm() / 0.1)
    assert grown == pytest.approx(float(oracle.gain(t, at(0.02))[0]), abs=1e-6)


def test_mapped_noise_reproduces_the_covariance():
    """Exactly, by the map's own matrix; no Monte Carlo. Flow has alpha = 0 at t = 1, so noise is all there is."""
    oracle = law(Gaussian(Flow()))
    x = torch.cat([torch.zeros(1, 12, dtype=DTYPE), torch.eye(12, dtype=DTYPE)])
    ends = oracle.flow(x, at(1.0), at(0.0))
    matrix = ends[1:] - ends[0]
    torch.testing.assert_close(ends[0], oracle.mean)
    torch.testing.assert_close(matrix.T @ matrix, oracle.basis @ torch.diag(LAM) @ oracle.basis.T)


def test_a_mixture_of_one_component_is_the_gaussian():
    process = Gaussian(VP())
    oracle = law(process)
    one = MixtureData(process, torch.ones(1, dtype=DTYPE), (oracle,))
    x, t = rng(0, 1).normal((2, 12)), torch.tensor([0.3, 0.9], dtype=DTYPE)
    for name in ("data", "noise"):
        torch.testing.assert_close(one(x, t, None).parts[name], oracle(x, t, None).parts[name], atol=0.0, rtol=1e-14)
    # atol 0 above: the one responsibility is exactly 1


def test_a_mixture_of_points_is_the_ideal_of_the_data_set():
    process = Gaussian(LogLinear.edm())
    data = rng(*range(6)).normal((6, 3))
    points = MixtureData.isotropic(process, torch.ones(6, dtype=DTYPE), data, 1e-7)
    ideal = DataSetIdeal(process, data)
    x, t = rng(7, 8).normal((2, 3)), torch.tensor([0.5, 0.7], dtype=DTYPE)
    for name in ("data", "noise"):
        torch.testing.assert_close(points(x, t, None).parts[name], ideal(x, t, None).parts[name], atol=1e-9, rtol=0.0)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_feature_emerges_at_kappa_of_its_deviation(path):
    """The squared projection of the estimate is at half of its final value where sigma / alpha = sqrt(v_k)."""
    schedule, start, _ = path
    process = Gaussian(schedule)
    oracle, x = law(process, LAM[:8]), rng(0).normal((1, 8)) * schedule(start)[1]
    for k, kappa in enumerate(oracle.emergence().tolist()):
        t = torch.as_tensor(schedule.time(-2.0 * math.log(kappa)), dtype=DTYPE)
        if not 0.05 < float(t) < start:
            continue

        def power(t, k=k):
            state = oracle.flow(x, at(start), t)
            return float(((oracle(state, t, None).parts["data"] - oracle.mean) @ oracle.basis[:, k]) ** 2)

        # the end of the data: sigma_min > 0 on EDM's clock, so the final value is written out
        alpha, sigma = schedule(start)
        c = float((x - alpha * oracle.mean) @ oracle.basis[:, k])
        final = LAM[k] * c**2 / (alpha**2 * LAM[k] + sigma**2)
        assert power(t) == pytest.approx(0.5 * float(final), rel=1e-9)


def test_fit_in_batches_is_fit_at_once():
    data = rng(*range(50)).normal((50, 2, 3)) * torch.tensor([3.0, 1.0, 0.1], dtype=DTYPE) + 5.0
    process = Gaussian(Flow())
    whole = GaussianData.fit(process, data)
    parts = GaussianData.fit(process, lambda: torch.split(data, 7))
    torch.testing.assert_close(whole.variances, parts.variances)
    torch.testing.assert_close(whole.mean, parts.mean)
    exact = torch.linalg.eigvalsh(torch.cov(data.flatten(1).T, correction=0)).flip(0)
    torch.testing.assert_close(whole.variances, exact)
    low = GaussianData.fit(process, data, rank=2)
    assert low.basis.shape == (6, 2)
    assert low.rest == pytest.approx(float(exact[2:].mean()))


def test_large_spaces_are_fitted_by_randomised_iterations(monkeypatch):
    """The same answer as the whole covariance, without making it; the trace keeps what was cut off exact."""
    scale = torch.cat([torch.tensor([5.0, 3.0, 2.0]), torch.full((97,), 0.1)]).double()
    data = SharedRng(0, dtype=DTYPE).normal((400, 100)) * scale
    exact = Spectrum.fit(data, 3)
    monkeypatch.setattr("condiff.oracles.spectrum.LARGEST", 50)
    found = Spectrum.fit(lambda: torch.split(data, 64), 3)
    torch.testing.assert_close(found.variances, exact.variances, atol=0.0, rtol=1e-10)
    torch.testing.assert_close((found.basis.T @ exact.basis).abs(), torch.eye(3, dtype=DTYPE), atol=1e-6, rtol=0.0)
    assert found.rest == pytest.approx(exact.rest, rel=1e-10)
    assert Spectrum.fit(data[:5], 8).basis.shape == (100, 5)  # no more directions than rows
    with pytest.raises(ValueError, match="give a rank"):
        Spectrum.fit(data)


def test_the_spectrum_is_checked():
    with pytest.raises(ValueError, match="at least 2 rows"):
        Spectrum.fit(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least 1"):
        Spectrum.fit(torch.zeros(3, 3), 0)


def test_clusters_find_groups_and_leave_none_empty():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=DTYPE)
    truth = torch.arange(60) % 3
    data = centres[truth] + 0.1 * rng(*range(60)).normal((60, 2))
    labels = clusters(data, 3, rng=SharedRng(0))
    assert all(len(set(labels[truth == k].tolist())) == 1 for k in range(3))
    assert set(labels.tolist()) == {0, 1, 2}
    assert set(clusters(torch.zeros(5, 2), 3, rng=SharedRng(0)).tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="cannot make 6 groups of 5"):
        clusters(torch.zeros(5, 2), 6, rng=SharedRng(0))


def test_a_mixture_fitted_by_class_answers_by_class():
    from laws.cases import labels

    process = Gaussian(Flow())
    truth = torch.arange(40) % 2
    data = rng(*range(40)).normal((40, 3)) * (1.0 + truth[:, None]) + 4.0 * truth[:, None]
    made = MixtureData.fit(process, data, truth, name="label")
    x, t = rng(0, 1).normal((2, 3)), at(0.4)
    for k in range(2):
        alone = GaussianData.fit(process, data[truth == k])
        torch.testing.assert_close(made(x, t, labels(k, k)).parts["data"], alone(x, t, None).parts["data"])
    with pytest.raises(ValueError, match="at least 2 rows"):
        MixtureData.fit(process, data, torch.cat([torch.zeros(39), torch.ones(1)]).long())
