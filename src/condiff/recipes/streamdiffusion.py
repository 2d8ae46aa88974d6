"""A model to stream through: pictures by class or caption in four steps, from noise or from another picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.objectives import Denoising, Dropping
from condiff.process import Gaussian, Preconditioned, Table, Times, Uniform, UniformTime, V
from condiff.recipes.body import body, measured
from condiff.solvers import Renoise
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(
    data="digits",
    measure=measured,
    training=Training(steps=3000, batch_size=128, learning_rate=2e-3, ema=0.998, decay=0.6, sample_every=0),
)
def streamdiffusion(
    *,
    shape: tuple[int, ...] = (1, 28, 28),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "digits",
    std: float = 0.5,
    drop: float = 0.1,
    guidance: float = 1.2,
    num_steps: int = 4,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """StreamDiffusion (Kodaira et al. 2023): few steps that draw their noise again, for `condiff serve`.

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Network: a perceptron ("flat") for vectors and tiny pictures, else a U-Net.
        std: Standard deviation of the data; the data decide.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of steps.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    process = Gaussian(Table.scaled_linear())
    made = body(shape, size, schema=schema)
    return System(
        process=process,
        denoiser=Preconditioned(made.net, process, V(), std),
        objective=Dropping(Denoising(process, V(), UniformTime()), dict.fromkeys(schema, drop)),
        solver=Renoise(),
        codec=made.codec,
        grid=Times(Uniform(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
