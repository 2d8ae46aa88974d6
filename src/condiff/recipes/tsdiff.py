"""TSDiff: one unconditional model of windows forecasts, fills, refines and synthesises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.codecs import Lagged
from condiff.core.condition import Kind, Vector, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.windows import Window
from condiff.guidance import Energy, Pinball, SquaredError
from condiff.nn import S4, S4D, Observing, Waves
from condiff.objectives import Denoising, Measured
from condiff.process import Gaussian, Noise, Preconditioned, Stratified, Table, Times, Uniform, UniformTime
from condiff.recipes.measure import windows_of
from condiff.solvers import SelfGuided
from condiff.train.recipe import recipe
from condiff.train.settings import Training

TRAINING = Training(steps=2000, batch_size=64, learning_rate=2e-3, clip=0.5, sample_every=0)
READS = {"horizon": 0, "scaling": "mean"}
STEPS = 100
ENERGIES: dict[str, Energy] = {"quantile": Pinball(), "square": SquaredError()}

HOURLY = tuple(24 * k for k in (1, 2, 3, 4, 5, 6, 7, 14, 21, 28))
DAILY = tuple(30 * k for k in range(1, 13))
PUBLISHED: dict[str, dict[str, Any]] = {
    "solar_nips": {"context": 336, "horizon": 24, "lags": HOURLY, "skip": False, "scale": 8.0},
    "electricity_nips": {"context": 336, "horizon": 24, "lags": HOURLY, "skip": False, "scale": 4.0},
    "traffic_nips": {"context": 336, "horizon": 24, "lags": HOURLY, "skip": True, "scale": 4.0},
    "exchange_rate_nips": {"context": 360, "horizon": 30, "lags": DAILY, "skip": True, "scale": 8.0},
    "m4_hourly": {"context": 312, "horizon": 48, "lags": (), "skip": False, "scale": 2.0},
    "uber_tlc_hourly": {"context": 336, "horizon": 24, "lags": HOURLY, "skip": False, "scale": 2.0},
    "kdd_cup_2018": {"context": 312, "horizon": 48, "lags": HOURLY, "skip": True, "scale": 1.0},
    "wiki2000_nips": {"context": 360, "horizon": 30, "lags": (), "skip": False, "scale": 2.0},
}
"""Windows, lags, skip from input to output, and scale of quantile guidance of the eight published runs."""


def layout(
    window: Mapping[str, Any] | None, conditions: Mapping[str, Mapping[str, Any]] | None, features: bool
) -> tuple[Window, dict[str, Kind], dict[str, Kind]]:
    """Return the window, the schema of the data, and what of it a network reads beside what is observed."""
    span = Window.from_json(window) if window else Window(8, 16, scaling="mean")
    schema = schema_from_json(conditions or {"given": {"kind": "Picture", "channels": 2}})
    read = {name: kind for name, kind in schema.items() if features and name not in ("given", "measured", "older")}
    return span, schema, read


@recipe(data="traffic", measure=windows_of, training=TRAINING, reads=READS)
def tsdiff(
    *,
    window: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    width: int = 64,
    blocks: int = 3,
    layer: Literal["s4d", "s4"] = "s4d",
    states: int = 32,
    skip: bool = False,
    features: bool = False,
    energy: Literal["quantile", "square"] = "quantile",
    scale: float = 4.0,
    order: Literal["before", "after"] = "before",
    cap: float = 0.5,
    num_steps: int = 100,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """TSDiff: an unconditional model of series that forecasts and fills gaps by guiding itself.

    Args:
        window: How series are laid out, as `Window.to_json` writes it; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        width: Channels of the network; 64 as published.
        blocks: Its blocks; 3 as published.
        layer: Its state-space layer: s4d, or s4 as published.
        states: States of each channel and direction; 128 as published.
        skip: Add the input to the output of the network? The published runs differ in it.
        features: Read calendar, what is known in advance and classes; the published runs read nothing.
        energy: quantile or square: how draws are pulled to what is observed.
        scale: How strongly; a sum over all that is observed, so it goes with the size of a window.
        order: Take the pull before each step (one pass of the network) or after it (two, as the official code).
        cap: Most weight of a squared error's pull, in units of alpha^2, below 1 for a stable step; 0 is none.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    if energy not in ENERGIES or layer not in ("s4", "s4d"):
        raise ValueError(f"energy is quantile or square and layer s4 or s4d, got {energy!r} and {layer!r}")
    span, schema, read = layout(window, conditions, features)
    process = Gaussian(Table.linear(STEPS, 1e-4, 0.1))
    channels = 1 + len(span.lags)
    net = Waves(
        channels,
        width,
        blocks,
        lambda w: S4(w, span.length, states) if layer == "s4" else S4D(w, states),
        skip=skip,
        schema=read,
    )
    unread = tuple(name for name in schema if name not in (*read, "given", "older"))
    return System(
        process=process,
        denoiser=Preconditioned(Observing(net, span.lags, unread), process, Noise()),
        objective=Measured(
            Denoising(process, Noise(), times=Stratified(UniformTime(1.0 / STEPS)), cells="counted"), span.lags
        ),
        solver=SelfGuided(ENERGIES[energy], scale, order, cap=cap if energy == "square" and cap else None),
        codec=Lagged(span.lags),
        grid=Times(Uniform(), process.schedule),
        shape=(channels, span.length),
        schema={**schema, "level": Vector(1)},
        num_steps=num_steps,
        guidance_scale=scale,
        data=dict(about or {}),
    )
