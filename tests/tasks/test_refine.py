"""The refiner against its closed forms on a Gaussian series, and around other forecasters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data.test_windows import made
from laws.cases import DTYPE

from condiff.core import RowRng, SharedRng
from condiff.data.windows import Window, cut, laid_out, origins, windowed_tracks
from condiff.guidance import Pinball, SquaredError
from condiff.oracles import GaussianData
from condiff.process import Gaussian, Table
from condiff.recipes import tsdiff
from condiff.tasks.baselines import SeasonalNaive
from condiff.tasks.refine import Refined, Refiner, refiner_of, representative_time

PROCESS = Gaussian(Table.linear(100, 1e-4, 0.1))
LENGTH, TAU, WEIGHT = 6, 0.34, 0.7


def oracle(length=LENGTH):
    step = torch.arange(length, dtype=DTYPE)
    cov = 0.9 ** (step[:, None] - step).abs()
    return GaussianData.of(PROCESS, torch.zeros(length, dtype=DTYPE), cov), cov


def curvature(cov):
    """abar (1 - abar) M^2 + weight I, M = (abar S + (1 - abar) I)^-1: half the Hessian of the refiner's energy."""
    alpha, sigma = (float(c) for c in PROCESS.coefficients(torch.tensor(TAU, dtype=DTYPE)))
    eye = torch.eye(len(cov), dtype=DTYPE)
    inner = torch.linalg.inv(alpha**2 * cov + sigma**2 * eye)
    return alpha**2 * sigma**2 * inner @ inner + WEIGHT * eye


def rng(rows, seed=0):
    return RowRng(seed, range(rows), dtype=DTYPE)


def test_fixed_point_of_the_most_likely():
    """Works when 6, MAP: (abar (1 - abar) M^2 + weight I)^-1 weight base; exact with antithetic noise."""
    denoiser, cov = oracle()
    base = rng(3).normal((3, LENGTH))
    refiner = Refiner(denoiser, PROCESS, TAU, SquaredError(), WEIGHT, step=0.2, num_steps=400, antithetic=True)
    wanted = torch.linalg.solve(curvature(cov), WEIGHT * base.T).T
    torch.testing.assert_close(refiner(base, rng=rng(3, 1)), wanted, atol=1e-12, rtol=0)
    assert float((wanted - base).abs().max()) > 0.1


def test_law_of_the_langevin_refiner():
    """Works when 6, LMC: covariance temperature * Hessian^-1 around the most likely, as the step goes to 0."""
    denoiser, cov = oracle(3)
    base, temperature = torch.ones(4000, 3, dtype=DTYPE), 0.05
    refiner = Refiner(denoiser, PROCESS, TAU, SquaredError(), WEIGHT, 0.03, temperature, num_steps=120, antithetic=True)
    drawn = refiner(base, rng=SharedRng(0, dtype=DTYPE))
    wanted = temperature * torch.linalg.inv(2.0 * curvature(cov))
    assert float((torch.cov(drawn.T) - wanted).abs().max()) < 0.08 * float(wanted.abs().max())
    centre = torch.linalg.solve(curvature(cov), WEIGHT * base[0])
    assert float((drawn.mean(0) - centre).abs().max()) < 0.01


def test_a_pinball_prior_pulls_by_levels_and_flags_say_where():
    denoiser, _ = oracle()
    base = torch.zeros(2, LENGTH, dtype=DTYPE)
    level = torch.tensor([[0.1], [0.9]], dtype=DTYPE)
    refiner = Refiner(denoiser, PROCESS, TAU, Pinball(), 1.0, num_steps=1)
    flags = (torch.arange(LENGTH) < 3).to(DTYPE).expand_as(base)
    start = base + 1.0
    held, free = (
        replace(refiner, prior=prior)(start, flags=flags, level=level, rng=rng(2))
        for prior in (Pinball(), lambda x, t, est, cond: x.new_zeros(len(x)))
    )
    # At its base the gap is 0: torch splits the gradient of a maximum evenly, (k + k - 1) / 2.
    gap = held - free
    torch.testing.assert_close(gap[:, :3], (0.1 * (level - 0.5)).expand(2, 3), atol=1e-12, rtol=0)
    assert float(gap[:, 3:].abs().max()) == 0.0


def test_the_representative_time_has_the_mean_loss():
    denoiser, _ = oracle()
    data = torch.linalg.cholesky(oracle()[1]) @ rng(1).normal((1, LENGTH))[0]
    times = [k / 100 for k in range(100, 0, -1)]
    rows = data.expand(2000, -1)
    found = representative_time(denoiser, PROCESS, rows, times, rng=SharedRng(0, dtype=DTYPE))
    # The loss falls from near 1 at little noise to little at much: in between it crosses its mean once.
    losses = {}
    for time in times:
        draw = PROCESS.draw(rows, torch.tensor(time, dtype=DTYPE), rng=SharedRng(5, dtype=DTYPE))
        losses[time] = float((denoiser(draw.x, draw.t, None).parts["noise"] - draw.latents["noise"]).square().mean())
    mean = sum(losses.values()) / len(losses)
    best = min(losses, key=lambda time: abs(losses[time] - mean))
    assert abs(found - best) <= 0.02
    assert losses[1.0] < 0.2 < 0.8 < losses[0.01]


def test_wrong_settings_are_refused():
    for settings in ({"time": 0.0}, {"step": 0.0}, {"temperature": -1.0}, {"num_steps": -1}):
        with pytest.raises(ValueError, match="Refiner needs"):
            Refiner(oracle()[0], PROCESS, **{"time": 0.5, "prior": SquaredError(), **settings})


def small(horizon=4):
    wave = 10.0 + 5.0 * np.sin(np.arange(300) * 2 * np.pi / 8) + 0.3 * np.random.default_rng(0).normal(size=300)
    tracks = made(wave)
    splits = windowed_tracks(tracks, horizon=horizon, context=8, lags=(4, 8), scaling="mean")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tracks, splits, tsdiff(**{**tsdiff.measure(splits), "width": 8, "blocks": 1, "states": 4})


def test_a_refined_forecaster_is_the_refiner_of_its_windows():
    tracks, splits, system = small()
    refiner = refiner_of(system, *splits.train.rows(torch.arange(32)), prior=SquaredError(), num_steps=3)
    track = tracks.tracks[0]
    out = Refined(SeasonalNaive(8), system, refiner)([track], 3, num_samples=2)
    assert out.shape == (1, 2, 3)
    assert float((out - SeasonalNaive(8)([track], 3, num_samples=2)).abs().max()) > 0.0
    still = Refined(SeasonalNaive(8), system, replace(refiner, num_steps=0))([track], 4, num_samples=2)
    torch.testing.assert_close(still, SeasonalNaive(8)([track], 4, num_samples=2), atol=1e-5, rtol=0)
    thrice = replace(track, values=1000.0 * track.values)
    many = Refined(SeasonalNaive(8), system, refiner, memory=1)([thrice, track], 3, num_samples=2)
    torch.testing.assert_close(many[0], 1000.0 * out[0], rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="refines windows of 4 steps"):
        Refined(SeasonalNaive(8), system, refiner)([track], 5, num_samples=2)


def test_a_constant_series_keeps_its_forecast():
    _, splits, system = small()
    refiner = refiner_of(system, *splits.train.rows(torch.arange(8)), num_steps=2)
    flat = made(np.full(60, 7.0)).tracks[0]
    assert Refined(SeasonalNaive(8), system, refiner)([flat], 4, num_samples=2).unique().tolist() == [7.0]


def test_windows_by_mean_size():
    """Works when 8: what is divided is given back, a series times c is the same window, lags are the series earlier."""
    track = made(100.0 + 10.0 * np.sin(np.arange(80)) + np.arange(80)).tracks[0]
    window = Window(4, 8, (3, 8), scaling="mean")
    places = origins([track], window, 0, stride=7)
    windows = cut(window, [track], places)
    restored = windows.values * windows.scale[:, None] + windows.centre[:, None]
    for row, (_, at) in zip(restored, places, strict=True):
        low = at - window.context - window.reach
        theirs = np.concatenate([np.full(max(-low, 0), np.nan), track.values[max(low, 0) : at + 4]])
        np.testing.assert_allclose(row, theirs, rtol=1e-12)
    known = windows.values[:, window.reach : window.reach + 8]
    np.testing.assert_allclose(np.nanmean(np.abs(known), 1), 1.0)
    assert (windows.centre == 0).all()
    scaled = cut(window, [replace(track, values=-1000.0 * track.values)], places)
    np.testing.assert_allclose(scaled.values, -windows.values, rtol=1e-12)
    _, _, system = small()
    data, seen = laid_out(window, windows)
    joined = replace(system.codec, lags=window.lags).encode(data, seen)
    for j, lag in enumerate(window.lags):
        torch.testing.assert_close(joined[:, 1 + j, lag:], joined[:, 0, :-lag])
        torch.testing.assert_close(joined[:, 1 + j, :lag], seen.values["older"][:, 0, window.reach - lag :][:, :lag])
    torch.testing.assert_close(system.codec.decode(joined), data)


def test_mean_size_of_what_is_there():
    window = Window(2, 4, scaling="mean")
    rows = [np.r_[np.nan, 2.0, -4.0, np.nan, 1.0, 1.0], np.full(6, 5.0), np.zeros(6)]
    tracks = [made(values).tracks[0] for values in rows]
    windows = cut(window, tracks, np.array([[number, 4] for number in range(3)]))
    assert windows.scale.tolist() == [3.0, 0.0, 0.0]
    assert windows.centre.tolist() == [0.0, 5.0, 0.0]
    lagged = Window(2, 2, (2,), scaling="mean")
    silent = cut(lagged, [made(np.r_[4.0, 2.0, 0.0, 0.0, 1.0, 1.0]).tracks[0]], np.array([[0, 4]]))
    assert silent.scale.tolist() == [1.5]
    with pytest.raises(ValueError, match="scaling must be one of"):
        Window(2, 4, scaling="median")
