"""TSDiff: the published configurations, the scale law, and a forecast that its own data guide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data.test_windows import made

from condiff.data.windows import Window, windowed_tracks
from condiff.guidance import Pinball, SquaredError
from condiff.recipes import find, tsdiff, tsdiff_cond
from condiff.recipes.tsdiff import PUBLISHED
from condiff.solvers import SelfGuided
from condiff.tasks.forecast import Trained

WIDTH = {"width": 8, "blocks": 1, "states": 4}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_build(name):
    """Large scale, checked by shape: windows (context + horizon, 1 + lags), and the call round-trips.

    Published width is 64; making so many state-space kernels takes seconds a network, so they are few here.
    """
    settings = PUBLISHED[name]
    window = Window(settings["horizon"], settings["context"], settings["lags"], scaling="mean").to_json()
    system = tsdiff(window=window, width=4, layer="s4", states=128, skip=settings["skip"], scale=settings["scale"])
    channels = 1 + len(settings["lags"])
    assert system.shape == (channels, settings["context"] + settings["horizon"])
    assert channels == {"h": 11, "d": 13, "": 1}[{10: "h", 12: "d", 0: ""}[len(settings["lags"])]]
    again = find(system.call.name)(**system.call.arguments)
    assert again.solver == system.solver == SelfGuided(Pinball(), settings["scale"])
    assert {key: p.shape for key, p in again.denoiser.named_parameters()} == {
        key: p.shape for key, p in system.denoiser.named_parameters()
    }
    out = system.denoiser(torch.zeros(1, *system.shape), torch.tensor(0.5), None)
    assert out.parts["noise"].shape == (1, *system.shape)


def built(recipe=tsdiff, values=None, **options):
    wave = 10.0 + 5.0 * np.sin(np.arange(300) * 2 * np.pi / 8) if values is None else values
    tracks = made(wave)
    splits = windowed_tracks(tracks, horizon=4, context=8, lags=(4, 8), scaling="mean")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = recipe(**{**recipe.measure(splits), **WIDTH, **options})
        for weight in system.denoiser.parameters():  # a fresh network answers 0 whatever it sees
            torch.nn.init.normal_(weight, std=0.3)
    return tracks.tracks[0], system


@pytest.mark.parametrize("recipe", [tsdiff, tsdiff_cond])
def test_a_series_times_a_number_is_a_forecast_times_it(recipe):
    """Works when 8: under one seed, exactly, for both the guided and the conditional model."""
    track, system = built(recipe)
    forecaster = Trained(system, num_steps=10)
    one = forecaster([track], 6, num_samples=3)
    many = forecaster([replace(track, values=1000.0 * track.values)], 6, num_samples=3)
    torch.testing.assert_close(many, 1000.0 * one, rtol=1e-5, atol=0)
    assert float(one.std()) > 0.0


def test_the_scale_of_guidance_is_the_systems_and_a_users():
    track, system = built()
    assert system.guidance_scale == 4.0
    calm, own, asked = (
        Trained(system, num_steps=10, guidance_scale=scale)([track], 4, num_samples=2) for scale in (0.0, None, 4.0)
    )
    assert torch.equal(own, asked)
    assert not torch.equal(own, calm)
    with pytest.raises(ValueError, match="guided by its own solver"):
        Trained(system, solver="ddim")([track], 4, num_samples=2)
    with pytest.raises(ValueError, match="does not guide itself"):
        Trained(built(tsdiff_cond)[1], guidance_scale=2.0)([track], 4, num_samples=2)


def test_options_reach_the_solver():
    _, system = built(energy="square", scale=2.0, order="after")
    assert system.solver == SelfGuided(SquaredError(), 2.0, "after", cap=0.5)
    assert built(energy="square", cap=0.0)[1].solver.cap is None
    for options in ({"energy": "cube"}, {"layer": "s5"}):
        with pytest.raises(ValueError, match="energy is quantile or square"):
            built(**options)


def test_gaps_are_filled_by_the_same_model():
    values = 10.0 + 5.0 * np.sin(np.arange(300) * 2 * np.pi / 8)
    values[100:103] = np.nan
    track, system = built(values=values)
    holes, draws = Trained(system, num_steps=5).fill(track, num_samples=3)
    assert holes.tolist() == [100, 101, 102]
    assert draws.shape == (3, 3)
    assert bool(draws.isfinite().all())
