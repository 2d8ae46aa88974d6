"""General recipe for time series: forecasts with bands, and filled gaps, by flow matching on windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from condiff.codecs import Identity
from condiff.core.condition import ClassLabel, Kind, Picture, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.windows import Window
from condiff.nn import DiT, DiTSize, Grid, LookBack
from condiff.objectives import Denoising, Dropping, Revealing
from condiff.process import Flow, Gaussian, Preconditioned, Times, Uniform, Velocity
from condiff.recipes.measure import series_of
from condiff.solvers import Adams
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(
    measure=series_of,
    training=Training(steps=4000, batch_size=64, sample_every=0),
    reads={"horizon": 0},
)
def series(
    *,
    window: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    width: int = 96,
    depth: int = 3,
    patch: int = 8,
    future: float = 0.75,
    drop: float = 0.1,
    num_steps: int = 16,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Time series by flow matching on windows: forecasts with bands, and gaps filled.

    Args:
        window: How series are laid out, as `Window.to_json` writes it; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        width: Features of a token of the transformer, a multiple of 32; 32 for few windows, which the data decide.
        depth: Number of its blocks; 2 for few windows.
        patch: Steps in a token.
        future: Share of training rows that learn to forecast; the others learn to fill gaps.
        drop: Share of training rows whose item and classes are dropped, so that new ones can be forecast; 0.5 for few
            windows, where an item is learned by heart.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    span = Window.from_json(window) if window else Window(8, 16)
    schema: dict[str, Kind] = schema_from_json(conditions or {"given": {"kind": "Picture", "channels": 2}})
    read = {name: kind for name, kind in schema.items() if name not in ("measured", "older")}
    if span.lags:
        read["lags"] = Picture(2 * len(span.lags))
    process = Gaussian(Flow())
    net = DiT(Grid(1, 1), DiTSize(width, depth, head_width=32), patch=min(patch, span.length), schema=read)
    classes = [name for name, kind in schema.items() if isinstance(kind, ClassLabel)]
    denoising = Denoising(process, Velocity(), cells="counted")
    return System(
        process=process,
        denoiser=Preconditioned(LookBack(net, span.lags, unread=("measured",)), process, Velocity()),
        objective=Revealing(Dropping(denoising, dict.fromkeys(classes, drop)), span.horizon, future),
        solver=Adams(3),
        codec=Identity(),
        grid=Times(Uniform(), process.schedule),
        shape=(1, span.length),
        schema=schema,
        num_steps=num_steps,
        data=dict(about or {}),
    )
