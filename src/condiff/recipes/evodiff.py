"""EDM training with EVODiff as the sampler: good samples in 5 to 15 network calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.objectives import Denoising, Dropping
from condiff.process import EDM, Gaussian, LogLinear, LogNormalSigma, LogSNR, Preconditioned, Times
from condiff.recipes.body import body, measured
from condiff.solvers import EVODiff
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(data="digits8", measure=measured, training=Training(steps=3000, batch_size=128, learning_rate=1e-3, ema=0.998))
def evodiff(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    std: float = 0.5,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 10,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Images, volumes or vectors by EDM, sampled with EVODiff in few calls.

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: The network: a perceptron on flattened data, or a U-Net.
        std: Standard deviation of the data, > 0; the data decide.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps, one network call each.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    made = body(shape, size, schema=schema)
    process = Gaussian(LogLinear.edm())
    return System(
        process=process,
        denoiser=Preconditioned(made.net, process, EDM(std), std),
        objective=Dropping(Denoising(process, EDM(std), LogNormalSigma()), dict.fromkeys(schema, drop)),
        solver=EVODiff(),
        codec=made.codec,
        grid=Times(LogSNR(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
