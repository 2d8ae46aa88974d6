"""DiffuSIA: text from text by diffusion on learned vectors of tokens, with two towers that read each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.codecs import Identity
from condiff.core.condition import schema_from_json
from condiff.core.estimate import Moments
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.nn import DiTSize, EmbeddingSpace, EncoderDecoder, OneTower, Parallel, Reading, Spiral, TwoTower
from condiff.objectives import Dropping, EmbeddingDenoising, SelfConditioned
from condiff.process import (
    AdaptiveTimes,
    Embedded,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LossAware,
    Positionwise,
    Recalling,
    Rounding,
    Stratified,
    Table,
    Times,
    Uniform,
)
from condiff.recipes.measure import text_of
from condiff.solvers import Jump
from condiff.train.recipe import recipe
from condiff.train.settings import Training

READINGS: Mapping[str, Reading] = {"spiral": Spiral(), "parallel": Parallel(), "encdec": EncoderDecoder()}


def _diffusia_of(splits: Splits) -> dict[str, Any]:
    return {**text_of(splits), "pad": splits.train.meta.get("pad"), "given": 0.1 if splits.train.conditions else 0.5}


@recipe(
    data="verses",
    measure=_diffusia_of,
    training=Training(steps=5000, batch_size=32, learning_rate=2e-3, sample_every=0),
    reads={"length": 128},
)
def diffusia(
    *,
    length: int = 64,
    vocabulary: int = 257,
    pad: int | None = 256,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    read: Literal["spiral", "parallel", "encdec", "joint"] = "spiral",
    features: int = 32,
    width: int = 96,
    depth: int = 3,
    dropout: float = 0.0,
    self_conditioning: float = 0.5,
    adaptive: bool = False,
    clamp: float | None = None,
    drop: float = 0.0,
    given: float = 0.1,
    num_train_steps: int = 200,
    num_steps: int = 20,
    eta: float = 1.0,
    large: bool = False,
    best_of: int = 1,
    about: Mapping[str, Any] | None = None,
) -> System[Embedded, Moments]:
    """DiffuSIA (Tan et al. 2023): text from text, by diffusion on vectors of tokens and a spiral of two towers.

    Args:
        length: Tokens of an example; the data decide.
        vocabulary: Number of tokens; the data decide.
        pad: Token after the end of a text, unseen in the source; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        read: What the towers read: spiral, each the other; parallel or encdec, the target the source; joint, one stack.
        features: Features of a token's vector.
        width: Features of a token in the network, a multiple of 32.
        depth: Layers of each tower.
        dropout: Share of features dropped in training.
        self_conditioning: Share of training rows that are told a first estimate; 0 builds a network without.
        adaptive: Does every position learn times of its own?
        clamp: From this time up to 1, sampling rounds estimates to the nearest vector; None never does.
        drop: Share of training rows whose conditions are dropped, for guidance.
        given: Share of training rows that are told some tokens, for prompts and gaps; more where there is no source.
        num_train_steps: Steps of the noise schedule.
        num_steps: Default number of sampling steps.
        eta: Share of the noise that a step draws anew, 1 as published; 0 is DDIM.
        large: Is what a step draws anew as large as the noise added in training ("fixed large")?
        best_of: Answers written for each text, of which the one nearest to the others is kept.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    plain = Gaussian(Table.square_root(num_train_steps), fresh=FixedLarge() if large else FixedSmall())
    times, law = AdaptiveTimes(length), LossAware()
    placed = Positionwise(plain, times) if adaptive else plain
    recalling = Recalling(placed)
    process = Embedded(recalling if self_conditioning else placed, features, vocabulary)
    space, size = EmbeddingSpace(vocabulary, features), DiTSize(width, depth, head_width=32, mlp_ratio=2)
    options: dict[str, Any] = {
        "recalls": self_conditioning > 0.0, "schema": schema, "pad": pad, "dropout": dropout,
    }  # fmt: skip
    net = OneTower(space, size, **options) if read == "joint" else TwoTower(space, size, READINGS[read], **options)
    objective: Any = EmbeddingDenoising(process, num_train_steps, Stratified(law), given=given)
    if self_conditioning:
        objective = SelfConditioned(objective, recalling, self_conditioning)
    return System(
        process=process,
        denoiser=Rounding(net, process, law, *([times] if adaptive else []), clamp=clamp),
        objective=Dropping(objective, dict.fromkeys(schema, drop)),
        solver=Jump(eta),
        codec=Identity(),
        grid=Times(Uniform(), plain.schedule),
        shape=(length,),
        schema=schema,
        num_steps=num_steps,
        data={**dict(about or {}), "best_of": best_of},
    )
