"""General recipe for images: flow matching with a U-Net or a DiT, conditioned on whatever the data carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.codecs import Identity
from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.nn import DiT, DiTSize, Grid, UNet, UNetSize
from condiff.objectives import Denoising, Dropping
from condiff.process import Flow, FlowClock, FlowTime, Gaussian, LogitNormal, Preconditioned, Times, Velocity
from condiff.recipes.measure import images_of
from condiff.solvers import Adams
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(measure=images_of, training=Training(batch_size=64, precision="bf16"))
def images(
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    network: Literal["unet", "dit"] = "unet",
    size: Literal["tiny", "digits", "small", "base"] = "small",
    patch: int = 4,
    drop: float = 0.1,
    guidance: float = 2.0,
    num_steps: int = 20,
    rms: float = 1.0,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Images by flow matching, with or without classes, captions, numbers or input pictures.

    Args:
        shape: Channels, height and width.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        network: U-Net, or DiT for large data.
        size: Width and depth of the network.
        patch: Side of a DiT's patches, in pixels; the U-Net has none.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps.
        rms: Root mean square of the data, the scale of the sampling grid; the data decide.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    channels, *grid = shape
    net = (
        UNet(Grid(channels, len(grid)), getattr(UNetSize, size)(), schema=schema)
        if network == "unet"
        else DiT(Grid(channels, len(grid)), getattr(DiTSize, size)(), patch=patch, schema=schema)
    )
    process = Gaussian(Flow())
    return System(
        process=process,
        denoiser=Preconditioned(net, process, Velocity()),
        objective=Dropping(Denoising(process, Velocity(), LogitNormal()), dict.fromkeys(schema, drop)),
        solver=Adams(3, FlowClock(rms)),
        codec=Identity(),
        grid=Times(FlowTime(rms), process.schedule),
        shape=(channels, *grid),
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
