"""Design by asking: a conditional system on a reward that few rows have, learned and predicted for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import Kind, Vector, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.nn import Beside, Ridge
from condiff.objectives import Denoising, Dropping, PseudoLabels
from condiff.process import EDM, Gaussian, Karras, LogLinear, LogNormalSigma, Preconditioned, Ratio, Times
from condiff.recipes.body import body, measured
from condiff.solvers import Heun
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(measure=measured, training=Training(steps=3000, batch_size=128, sample_every=0), columns=("reward",))
def overview(
    *,
    shape: tuple[int, ...] = (2,),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    std: float = 1.0,
    reward: str = "reward",
    label_noise: float = 0.15,
    penalty: float = 1.0,
    drop: float = 0.15,
    guidance: float = 1.0,
    num_steps: int = 18,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Designs of a wanted reward: black-box optimisation by conditional sampling from offline data.

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Width and depth of the network; flat is a perceptron.
        std: Standard deviation of the data; the data decide.
        reward: Name of the column or condition that is to be large; rows may lack it.
        label_noise: Noise of the predicted rewards that rows without one are trained on, in deviations of the reward.
        penalty: Ridge penalty of the learned reward.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none, above 1 exaggerates.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {reward: {"kind": "Vector", "size": 1}})
    if schema.get(reward) != Vector(1):
        raise ValueError(f"{reward!r} is no condition of one number; the data have {sorted(schema) or 'no conditions'}")
    process = Gaussian(LogLinear.edm())
    made = body(shape, size, schema=schema)
    model = Ridge(math.prod(made.shape), reward, penalty)
    denoiser = Beside(Preconditioned(made.net, process, EDM(std), sigma_data=std), reward=model)
    denoising = Dropping(Denoising(process, EDM(std), LogNormalSigma()), dict.fromkeys(schema, drop))
    return System(
        process=process,
        denoiser=denoiser,
        objective=PseudoLabels(denoising, model, reward, label_noise),
        solver=Heun(Ratio()),
        codec=made.codec,
        grid=Times(Karras(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance,
        data=dict(about or {}),
    )
