"""PFGM++: a tuned diffusion set-up with heavier-tailed noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.objectives import Denoising, Dropping
from condiff.process import EDM, Gaussian, Karras, LogLinear, LogNormalSigma, Preconditioned, Ratio, Student, Times
from condiff.recipes.body import body, measured
from condiff.solvers import Heun
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(data="digits8", measure=measured, training=Training(steps=3000))
def pfgmpp(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    df: float = 128.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    std: float = 0.5,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 18,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """PFGM++ (Xu et al. 2023): EDM with Student-t noise, all else carried over at r = sigma sqrt(D).

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: flat is a perceptron, the others are U-Nets; the data decide.
        df: Extra dimensions D of the paper, degrees of freedom of the noise; 0 stands for infinity, which is EDM.
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        std: Standard deviation of the data; the data decide.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps, two network calls each but for the last.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    made = body(shape, size, schema=schema)
    process = Gaussian(LogLinear(sigma_min, sigma_max), noise=Student(df or math.inf))
    return System(
        process=process,
        denoiser=Preconditioned(made.net, process, EDM(std), sigma_data=std),
        objective=Dropping(Denoising(process, EDM(std), LogNormalSigma(-1.2, 1.2)), dict.fromkeys(schema, drop)),
        solver=Heun(Ratio()),
        codec=made.codec,
        grid=Times(Karras(7.0, sigma_min, sigma_max), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance,
        data=dict(about or {}),
    )
