"""A flow map: one call of the network jumps from noise to data, or between any two times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import schema_from_json
from condiff.core.system import System
from condiff.objectives import Dropping, MeanFlow
from condiff.process import (
    Flow,
    FlowMap,
    Gaussian,
    Jumps,
    Mapped,
    Preconditioned,
    Times,
    Uniform,
    UniformTime,
    Velocity,
)
from condiff.recipes.body import body, measured
from condiff.solvers import Jump
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(
    data="digits8",
    measure=measured,
    training=Training(steps=3000, batch_size=128, learning_rate=1e-3, decay=1.0, betas=(0.9, 0.95), ema=0.998),
)
def principles(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    std: float = 0.5,
    low: float = 0.05,
    high: float = 5.0,
    equal: float = 0.5,
    power: float = 0.5,
    drop: float = 0.1,
    scale: float = 1.0,
    blend: float = 0.0,
    eta: float = 0.0,
    num_steps: int = 1,
    about: Mapping[str, Any] | None = None,
) -> System[Mapped, Jumps]:
    """Flow map by MeanFlow: trained from data alone, sampled with 1 to 4 calls.

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Network: a perceptron ("flat") for vectors and tiny pictures, else a U-Net.
        std: Standard deviation of the data; the data decide.
        low: Lowest angular frequency of the time embeddings.
        high: Highest angular frequency of the time embeddings; the training differentiates them, so keep it low.
        equal: Share of training rows that train the velocity alone.
        power: How much rows of large error are held back, 0 is not at all.
        drop: Share of training rows whose conditions are dropped, for guidance.
        scale: Guidance built into the map: w, in effect w / (1 - blend); sampling then costs nothing more.
        blend: Share of the map's own velocity in that guidance.
        eta: Share of fresh noise in every step but the last; 1 is multistep consistency sampling.
        num_steps: Default number of calls when sampling.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    process = Mapped(Gaussian(Flow()))
    made = body(shape, size, schema={**schema, **FlowMap.reads()}, frequencies=(low, high))
    objective = MeanFlow(process, UniformTime(), equal=equal, power=power, scale=scale, blend=blend)
    return System(
        process=process,
        denoiser=FlowMap(Preconditioned(made.net, process.process, Velocity(), std), low=low, high=high),
        objective=Dropping(objective, dict.fromkeys(schema, drop)),
        solver=Jump(eta),
        codec=made.codec,
        grid=Times(Uniform(), process.process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        data=dict(about or {}),
    )
