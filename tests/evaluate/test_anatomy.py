"""Anatomy of scores and paths on laws whose answers are known in closed form."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE

from condiff.core import SharedRng
from condiff.evaluate import commitment, explained_variance, span_energy, trajectory_spectrum
from condiff.oracles import DataSetIdeal, GaussianData
from condiff.process import VP, Gaussian, LogLinear

LAM = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.01, 0.0, 0.0, 0.0, 0.0], dtype=DTYPE)


def paths(variances, process=None, count=300, nodes=101):
    """Exact trajectories of centred Gaussian data, their times and their closed form."""
    process = process or Gaussian(VP())
    dims = len(variances)
    basis = torch.linalg.qr(SharedRng(5, dtype=DTYPE).normal((dims, dims))).Q
    oracle = GaussianData(process, torch.zeros(dims, dtype=DTYPE), basis, variances)
    times = torch.linspace(1.0, 0.0, nodes, dtype=DTYPE)
    x = process.start((count, dims), rng=SharedRng(0, dtype=DTYPE))
    return torch.stack([oracle.flow(x, times[0], t) for t in times]), times, oracle


def rotated(states, times, process):
    """x_t ~ alpha x_0 + sqrt(1 - alpha^2) x_T."""
    alpha, sigma = process.schedule(times)
    return alpha[:, None, None] * states[-1] + sigma[:, None, None] * states[0]


def test_energy_of_trajectories_in_the_span_of_their_ends():
    """At least what Wang and Vastola's law says of such a spectrum: mean .993, minimum .978."""
    states, _, _ = paths(LAM)
    energy = span_energy(states)
    assert energy.shape == (300,)
    assert 0.993 <= float(energy.mean()) < 1.0
    assert float(energy.min()) >= 0.978
    assert float(trajectory_spectrum(states)[:, 1].min()) > 0.99


def test_a_path_off_the_plane_is_seen():
    states = torch.zeros(3, 1, 3, dtype=DTYPE)
    states[0, 0, 0], states[1, 0, 2], states[2, 0, 1] = 1.0, 2.0, 1.0
    assert float(span_energy(states)[0]) == pytest.approx(2.0 / 6.0)
    line = torch.linspace(0.0, 1.0, 5, dtype=DTYPE)[:, None, None] * torch.ones(1, 1, 3, dtype=DTYPE)
    torch.testing.assert_close(trajectory_spectrum(line)[0], torch.ones(3, dtype=DTYPE))


def test_rotation_is_a_law_of_large_and_of_no_variance_only():
    """Exact where the variance is 0, near where it is 0 or large, and wrong by about a seventh on a mixed spectrum."""
    process = Gaussian(VP())

    def error(variances):
        states, times, _ = paths(variances, process)
        return float(((rotated(states, times, process) - states).norm(dim=2) / states.norm(dim=2)).mean())

    states, times, oracle = paths(LAM, process)
    off = ((rotated(states, times, process) - states) @ oracle.basis)[..., 8:]
    # exact up to alpha(1)^2 = 4e-5 of data left at t = 1, of which sigma(1) makes half
    assert float(off.abs().max()) < 1e-4
    assert 0.1 < error(LAM) < 0.2
    assert error(torch.tensor([400.0, 0.0, 0.0, 0.0], dtype=DTYPE)) < error(torch.tensor([9.0, 1.0, 0.5, 0.1]).double())


def test_features_commit_at_the_kappa_of_their_deviation():
    process = Gaussian(LogLinear(0.001, 200.0))
    variances = torch.tensor([25.0, 4.0, 1.0, 0.04], dtype=DTYPE)
    states, times, oracle = paths(variances, process, nodes=801)
    estimates = torch.stack([oracle(x, t, None).parts["data"] for x, t in zip(states, times, strict=True)])
    found = commitment(estimates, process.schedule(times)[1], oracle.basis, oracle.mean)
    torch.testing.assert_close(found, variances.sqrt(), atol=0.0, rtol=2e-3)
    noisy = estimates.clone()
    noisy[:200, :, :] += 10.0  # errors long before the crossings do not count
    torch.testing.assert_close(commitment(noisy, process.schedule(times)[1], oracle.basis, oracle.mean), found)
    late = commitment(estimates[400:], process.schedule(times)[1][400:], oracle.basis, oracle.mean)
    assert float(late[0]) == pytest.approx(float(process.schedule(times[400])[1]))  # decided before the first node


def test_a_law_explains_itself_and_the_gaussian_more_where_noise_is_high():
    process = Gaussian(LogLinear.edm())
    data = torch.where(torch.arange(200)[:, None] % 2 == 0, -2.0, 2.0) + 0.3 * SharedRng(1).normal((200, 3))
    ideal, law = DataSetIdeal(process, data), GaussianData.fit(process, data)
    levels = [0.3, 1.0, 3.0, 10.0, 40.0]
    itself = explained_variance(ideal, ideal, process, data, levels, rng=SharedRng(2))
    assert [(row.score, row.data) for row in itself] == [(1.0, 1.0)] * 5
    curve = explained_variance(ideal, law, process, data, levels, rng=SharedRng(2))
    assert [row.kappa for row in curve] == levels
    scores = [row.score for row in curve]
    assert scores == sorted(scores)
    assert scores[0] < 0.9
    assert scores[-1] > 0.9999
    assert all(row.data < row.score for row in curve[2:])
    wrong = GaussianData(process, law.mean, law.basis, 4.0 * law.variances)  # statistics of another scale
    assert explained_variance(ideal, wrong, process, data, [3.0], rng=SharedRng(2))[0].score < scores[2]


def test_explained_variance_is_the_ratio_it_says():
    process = Gaussian(LogLinear.edm())
    data = SharedRng(0).normal((50, 2))
    a, b = (GaussianData(process, torch.zeros(2), torch.eye(2), torch.full((2,), v)) for v in (1.0, 3.0))
    # noise estimates are sigma x / (v + sigma^2): the ratio is one number, whatever x
    (row,) = explained_variance(a, b, process, data, [2.0], rng=SharedRng(1))
    assert row.score == pytest.approx(1.0 - (1.0 - 5.0 / 7.0) ** 2, rel=1e-5)
