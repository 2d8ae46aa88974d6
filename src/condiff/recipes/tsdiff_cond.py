"""TSDiff-Cond: the network of `tsdiff`, trained to forecast; what an unconditional model is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.codecs import Identity
from condiff.core.condition import Kind, Picture
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.nn import S4D, LookBack, Waves
from condiff.objectives import Denoising, Hiding, Measured
from condiff.process import Gaussian, Noise, Preconditioned, Stratified, Table, Times, Uniform, UniformTime
from condiff.recipes.measure import windows_of
from condiff.recipes.tsdiff import READS, STEPS, TRAINING, layout
from condiff.solvers import Jump
from condiff.train.recipe import recipe


@recipe(data="traffic", measure=windows_of, training=TRAINING, reads=READS)
def tsdiff_cond(
    *,
    window: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    width: int = 64,
    blocks: int = 3,
    states: int = 32,
    skip: bool = False,
    features: bool = False,
    scenario: Literal["", "random", "begin", "end"] = "",
    num_steps: int = 100,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """TSDiff-Cond: the same network, trained to read context and lags; the baseline of `tsdiff`.

    Args:
        window: How series are laid out, as `Window.to_json` writes it; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        width: Channels of the network.
        blocks: Its blocks.
        states: States of each channel and direction.
        skip: Add the input to the output of the network?
        features: Read calendar, what is known in advance and classes; the published runs read nothing.
        scenario: Hide half of each context in training: random, begin, end; empty hides nothing.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    span, schema, read = layout(window, conditions, features)
    process = Gaussian(Table.linear(STEPS, 1e-4, 0.1))
    beside: dict[str, Kind] = {"given": Picture(2), **read}
    if span.lags:
        beside["lags"] = Picture(2 * len(span.lags))
    net = Waves(1, width, blocks, lambda w: S4D(w, states), skip=skip, schema=beside)
    unread = tuple(name for name in schema if name not in (*beside, "older"))
    denoising = Denoising(process, Noise(), times=Stratified(UniformTime(1.0 / STEPS)), cells="counted")
    return System(
        process=process,
        denoiser=Preconditioned(LookBack(net, span.lags, unread), process, Noise()),
        objective=Hiding(Measured(denoising), span.horizon, scenario),
        solver=Jump(1.0),
        codec=Identity(),
        grid=Times(Uniform(), process.schedule),
        shape=(1, span.length),
        schema=schema,
        num_steps=num_steps,
        data=dict(about or {}),
    )
