"""Handwritten digits by class: the package's own example, and the model that `make demo` trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from condiff.codecs import Identity
from condiff.core.condition import ClassLabel
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.nn import Grid, UNet, UNetSize
from condiff.objectives import Denoising, Dropping
from condiff.process import Flow, FlowClock, FlowTime, Gaussian, LogitNormal, Preconditioned, Times, Velocity
from condiff.recipes.measure import about, images_of
from condiff.solvers import Adams
from condiff.train.recipe import recipe
from condiff.train.settings import Training


def _digits_of(splits: Splits) -> dict[str, Any]:
    measured = images_of(splits)
    if measured["shape"][0] != 1 or set(measured["conditions"]) != {"label"}:
        raise ValueError(
            f"{splits.train.name}: recipe digits needs grey images with a class named label; use recipe images"
        )
    return {
        "side": measured["shape"][1],
        "num_classes": measured["conditions"]["label"]["num_classes"],
        "rms": measured["rms"],
        "about": about(splits.train),
    }


@recipe(
    data="digits",
    measure=_digits_of,
    training=Training(steps=2500, batch_size=128, learning_rate=2e-3, precision="bf16", ema=0.998, decay=0.6),
)
def digits(
    *,
    side: int = 28,
    num_classes: int = 10,
    widths: tuple[int, ...] = (16, 32, 64),
    drop: float = 0.1,
    guidance: float = 2.0,
    num_steps: int = 20,
    rms: float = 0.9,
    about: Mapping[str, Any] | None = None,
) -> System[Gaussian, Moments]:
    """Handwritten digits by class, with flow matching and classifier-free guidance.

    Args:
        side: Height and width in pixels.
        num_classes: Number of classes.
        widths: Channels of the U-Net's levels; each level halves the picture.
        drop: Share of training rows whose class is dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps.
        rms: Root mean square of the data, the scale of the sampling grid; the data decide.
        about: Where the data came from; the data decide.
    """
    facts = dict(about or {})
    labels = tuple(facts.get("labels", {}).get("label", ()))
    schema = {"label": ClassLabel(num_classes, labels)}
    process = Gaussian(Flow())
    net = UNet(Grid(1, 2), UNetSize(tuple(widths)), schema=schema)
    return System(
        process=process,
        denoiser=Preconditioned(net, process, Velocity()),
        objective=Dropping(Denoising(process, Velocity(), LogitNormal()), {"label": drop}),
        solver=Adams(3, FlowClock(rms)),
        codec=Identity(),
        grid=Times(FlowTime(rms), process.schedule),
        shape=(1, side, side),
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance,
        data=facts,
    )
