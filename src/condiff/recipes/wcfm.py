"""W-CFM and the couplings it stands beside: flow matching on pairs that belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from condiff.core.condition import schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.objectives import Coupled, Denoising, Dropping
from condiff.process import (
    Coupling,
    Flow,
    Gaussian,
    Gibbs,
    Independent,
    MinibatchOT,
    PerClass,
    Preconditioned,
    Sinkhorn,
    Times,
    Uniform,
    Velocity,
)
from condiff.recipes.body import body, measured
from condiff.solvers import Euler
from condiff.train.recipe import recipe
from condiff.train.settings import Training


def _measure(splits: Splits) -> dict[str, Any]:
    return {name: value for name, value in measured(splits).items() if name != "std"}


@recipe(data="digits8", measure=_measure, training=Training(steps=2500))
def wcfm(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    coupling: Literal["gibbs", "ot", "sinkhorn", "independent"] = "gibbs",
    kappa: float = 0.1,
    eps: float = 0.0,
    reg: float = 2.0,
    chunk: int = 256,
    rounds: int = 2,
    within: str = "",
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 8,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Flow matching on weighted or transported pairs, for straighter paths and fewer steps (W-CFM, 2025).

    Args:
        shape: Shape of one example; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: flat is a perceptron, the others are U-Nets; the data decide.
        coupling: gibbs weighs pairs (W-CFM), ot permutes noise in the batch, sinkhorn draws it from the entropic plan,
            independent is plain flow matching.
        kappa: Temperature of gibbs, in units of the root of the number of features.
        eps: The same temperature as a distance; 0 takes kappa's.
        reg: Temperature of sinkhorn, a squared distance.
        chunk: Rows of the batch among which ot and sinkhorn pair.
        rounds: Rounds of ot over a batch of several chunks, each with other chunks.
        within: Class condition within which pairs are made; empty pairs across classes.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of Euler steps.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    made = body(shape, size, schema=schema)
    known: dict[str, Coupling] = {
        "gibbs": Gibbs(eps) if eps else Gibbs.scaled(kappa, math.prod(shape)),
        "ot": MinibatchOT(chunk, rounds),
        "sinkhorn": Sinkhorn(reg, chunk=chunk),
        "independent": Independent(),
    }
    pairs = known[coupling]
    process = Gaussian(Flow())
    coupled = Coupled(Denoising(process, Velocity()), process, PerClass(pairs, within) if within else pairs)
    return System(
        process=process,
        denoiser=Preconditioned(made.net, process, Velocity()),
        objective=Dropping(coupled, dict.fromkeys(schema, drop)),
        solver=Euler(),
        codec=made.codec,
        grid=Times(Uniform(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance,
        data=dict(about or {}),
    )
