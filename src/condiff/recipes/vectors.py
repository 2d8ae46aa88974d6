"""General recipe for vectors: rows of a table, poses, embeddings; flow matching with a residual perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from condiff.codecs import Flatten
from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.nn import MLP
from condiff.objectives import Denoising, Dropping
from condiff.process import Flow, Gaussian, Preconditioned, Times, Uniform, Velocity
from condiff.recipes.measure import vectors_of
from condiff.solvers import Adams
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(measure=vectors_of, training=Training(steps=4000, batch_size=128, sample_every=0))
def vectors(
    *,
    shape: tuple[int, ...] = (2,),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    width: int = 256,
    depth: int = 3,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 20,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Vectors by flow matching: table rows, poses or embeddings, with or without conditions.

    Args:
        shape: Shape of one example; poses of 17 joints in the plane are (17, 2).
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        width: Hidden features of the perceptron.
        depth: Number of its residual blocks.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    process = Gaussian(Flow())
    features = math.prod(shape)
    net = MLP(features, width, depth, schema=schema)
    return System(
        process=process,
        denoiser=Preconditioned(net, process, Velocity()),
        objective=Dropping(Denoising(process, Velocity()), dict.fromkeys(schema, drop)),
        solver=Adams(3),
        codec=Flatten(tuple(shape)),
        grid=Times(Uniform(), process.schedule),
        shape=(features,),
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
