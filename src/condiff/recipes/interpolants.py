"""Stochastic interpolants (Albergo, Boffi, Vanden-Eijnden 2023): bridges from a data set, or noise, to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from condiff.core.condition import Kind, Picture, Vector, schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.objectives import Denoising, Dropping, Unpaired
from condiff.process import (
    Bridge,
    Brownian,
    Drift,
    EncodingDecoding,
    Heads,
    Interpolant,
    Latent,
    Noise,
    Normal,
    Still,
    Straight,
    Times,
    Trigonometric,
    Uniform,
)
from condiff.recipes.body import body, measured
from condiff.solvers import SDE, Constant, Heun
from condiff.train.recipe import recipe
from condiff.train.settings import Training

PATHS: Mapping[str, Callable[[Latent], Bridge]] = {
    "straight": Straight,
    "trigonometric": Trigonometric,
    "encoding": EncodingDecoding,
}


def _measure(splits: Splits) -> dict[str, Any]:
    """Read off the data what the recipe cannot know; the source is the condition that is shaped like the data."""
    found = measured(splits)
    kinds, data = schema_from_json(found["conditions"]), splits.train
    alike = [
        name
        for name, kind in kinds.items()
        if isinstance(kind, Picture | Vector) and data.conditions[name][0].numel() == data.data[0].numel()
    ]
    source = "input" if "input" in alike else alike[0] if alike else ""
    if found["size"] == "flat" and any(isinstance(kind, Picture) for kind in kinds.values()):
        found["size"] = "tiny"  # a perceptron reads no pictures
    return {**found, "source": source}


@recipe(data="digits8", measure=_measure, training=Training(steps=4000, batch_size=128, learning_rate=1e-3, ema=0.998))
def interpolants(
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "tiny", "digits", "small", "base"] = "flat",
    source: str = "",
    paired: bool = True,
    path: Literal["straight", "trigonometric", "encoding"] = "straight",
    latent: float = 2.0,
    diffusion: float = 0.2,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 100,
    std: float = 1.0,
    about: Mapping[str, Any] | None = None,
) -> System[Interpolant, Moments]:
    """Bridges between two data sets: paired pictures (input/ and target/), two classes, or noise and data.

    Args:
        shape: Shape of one example.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Perceptron ("flat") or width and depth of a U-Net; the data decide.
        source: Condition the bridge starts from; the data decide. Empty starts from noise.
        paired: Whether a source belongs to its target. If so the network reads it too; if not, training hands sources
            round at random and the network sees the state alone.
        path: How data and source are mixed.
        latent: Variance c of the latent noise sqrt(c t (1 - t)); 0 is none, and then there is no SDE either.
        diffusion: Noise eps of the sampling SDE, chosen after training; 0 samples by the ODE.
        drop: Share of training rows whose conditions, but for the source, are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps.
        std: Standard deviation of the data; the data decide.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    seen = {name: kind for name, kind in schema.items() if paired or name != source}
    targets = (Drift(), Noise()) if latent else (Drift(),)
    made = body(shape, size, schema=seen, heads=len(targets))
    bridge = PATHS[path](Brownian(latent) if latent else Still())
    process = Interpolant(bridge, source or Normal(), encode=made.codec.encode if source else None)
    objective = Denoising(process, targets[0], also=targets[1:])
    droppable = {name: drop for name in schema if name != source}
    return System(
        process=process,
        denoiser=Heads(made.net, process, targets, unseen=() if paired or not source else (source,)),
        objective=Dropping(objective if paired or not source else Unpaired(objective, (source,)), droppable),
        solver=SDE(Constant(diffusion)) if latent and diffusion else Heun(),
        codec=made.codec,
        grid=Times(Uniform(), process.schedule),
        shape=made.shape,
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance,
        data=dict(about or {}),
    )
