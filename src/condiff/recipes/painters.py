"""Outline first, details later: a system that knows the Gaussian of its data and starts sampling where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.objectives import Denoising, Dropping
from condiff.oracles import Fitted
from condiff.process import EDM, Gaussian, Karras, LogLinear, LogNormalSigma, Preconditioned, Ratio, Times
from condiff.recipes.body import body, measured
from condiff.solvers import Heun, Teleport, at_noise
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(data="digits8", measure=measured, training=Training(steps=3000, batch_size=128, sample_every=0))
def painters(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    std: float = 0.5,
    rank: int = 128,
    until: float = 8.0,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 18,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """EDM on any images or vectors whose first sampling steps are one exact jump (Gaussian teleportation).

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Width and depth of the network; flat is a perceptron.
        std: Standard deviation of the data; the data decide.
        rank: Directions of the data's covariance that are kept apart; the others share one variance.
        until: Noise level sigma where the network takes over from the Gaussian; 80 or more never uses the Gaussian.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps, those above `until` included, which cost nothing.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    process = Gaussian(LogLinear.edm())
    made = body(shape, size, schema=schema)
    denoiser = Fitted(Preconditioned(made.net, process, EDM(std), sigma_data=std), process, made.shape, rank)
    return System(
        process=process,
        denoiser=denoiser,
        objective=Dropping(Denoising(process, EDM(std), LogNormalSigma()), dict.fromkeys(schema, drop)),
        solver=Teleport(denoiser, at_noise(process, until), Heun(Ratio())),
        codec=made.codec,
        grid=Times(Karras(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
