"""CDCD: mask-and-replace diffusion over tokens of pictures or text, with a contrast that ties samples to conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from condiff.codecs import Identity, Levels, VectorQuantized, VQAutoencoder
from condiff.core.condition import schema_from_json, schema_to_json
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.nn import DiTSize, TokenDiT, TokenMLP
from condiff.objectives import (
    Contrastive,
    Difference,
    Dropping,
    ImportanceSampled,
    InfoNCE,
    OtherRows,
    Shuffled,
    StepBound,
    StepNats,
)
from condiff.process import Flow, LossAware, MaskAndReplace, Times, TokenLogits, Uniform
from condiff.recipes.measure import about, images_of, schema_of, text_of
from condiff.solvers import Jump
from condiff.train.recipe import recipe
from condiff.train.settings import Training

LEVELS, ENTRIES, PATCH, SMALL = 4, 128, 4, 256


def _cdcd_of(
    splits: Splits, codec: str | None = None, patch: int | None = None, vocabulary: int | None = None
) -> dict[str, Any]:
    data = splits.train
    if not data.conditions:
        raise ValueError(f"{data.name}: recipe cdcd needs a condition to tie its samples to; use recipe text or images")
    if data.kind == "text":
        if codec is not None:
            raise ValueError(f"codec {codec} is for pictures, but {data.name} holds text, which has its own tokens")
        return {**text_of(splits), "shape": None, "size": "transformer"}
    shape = images_of(splits)["shape"]
    codec = codec or ("levels" if math.prod(shape) <= SMALL else "vqvae")
    facts: dict[str, Any] = {
        "shape": shape,
        "codec": codec,
        "conditions": schema_to_json(schema_of(data)),
        "about": about(data),
        "size": "flat" if math.prod(shape) <= SMALL else "transformer",
    }
    if codec == "levels":
        return {**facts, "vocabulary": vocabulary or LEVELS, "length": math.prod(shape)}
    num = vocabulary or ENTRIES
    side = patch or next(p for p in (PATCH, 2, 1) if shape[1] % p == 0 and shape[2] % p == 0)
    facts |= {"patch": side, "vocabulary": num, "length": (shape[1] // side) * (shape[2] // side)}
    if codec == "patches":
        made = VectorQuantized.fit(data.data[:2000], num, side)
        facts |= {"vocabulary": len(made.book), "book": [list(entry) for entry in made.book]}
    return facts


@recipe(
    data="digits8",
    measure=_cdcd_of,
    training=Training(steps=2000, batch_size=128, learning_rate=1e-3, betas=(0.9, 0.96), sample_every=0),
    told=("codec", "patch", "vocabulary"),
)
def cdcd(
    *,
    length: int = 64,
    vocabulary: int = 4,
    shape: tuple[int, ...] | None = (1, 8, 8),
    codec: Literal["levels", "patches", "vqvae"] = "levels",
    patch: int = 4,
    codec_steps: int = 1000,
    book: Sequence[Sequence[float]] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "transformer"] = "flat",
    contrast: Literal["infonce", "difference"] = "infonce",
    negatives: Literal["rows", "pieces"] = "rows",
    weight: float = 0.5,
    count: int = 4,
    times: Literal["stratified", "loss-aware"] = "stratified",
    drop: float = 0.0,
    replaced: float = 1e-6,
    num_train_steps: int = 80,
    num_steps: int = 20,
    width: int = 96,
    about: Mapping[str, Any] | None = None,
) -> System[MaskAndReplace, Categorical]:
    """CDCD (Zhu et al. 2023): tokens that match their condition, by a contrast with negatives.

    Args:
        length: Tokens of an example; the data decide.
        vocabulary: Number of tokens; the data decide.
        shape: Shape of a picture; None for text. The data decide.
        codec: Tokens of a picture: levels, one a pixel; patches, the nearest entry of a code book by k-means; vqvae, of
            one that an autoencoder learns before training. Levels for pictures of at most 256 numbers, else vqvae.
        patch: Pixels a side of what a token of patches or vqvae stands for; 4, 2 or 1 by the sides of a picture.
        codec_steps: Training steps of vqvae.
        book: Code book of patches. The data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Network: a perceptron on one-hot tokens, or a transformer.
        contrast: InfoNCE among truth and negatives, or the difference of the official code, which needs a tiny weight.
        negatives: Other rows of the batch with another condition, or the pieces of the row itself in a wrong order.
        weight: Weight of the contrast; 0 is plain VQ-Diffusion.
        count: Negatives of a row.
        times: Steps of the bound are drawn evenly, or where the loss is large, and divided by how often.
        drop: Share of training rows whose conditions are dropped, for guidance.
        replaced: Chance that a token is replaced instead of masked; 0 only masks.
        num_train_steps: Steps of the bound.
        num_steps: Default number of sampling steps.
        width: Features of a token in the transformer, a multiple of 32.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    process = MaskAndReplace(vocabulary, num_train_steps, replaced=replaced)
    tied = next(iter(schema), "")
    wrong = OtherRows(tied, count) if negatives == "rows" else Shuffled(min(8, length), count)
    form = InfoNCE() if contrast == "infonce" else Difference()
    objective: Any = Contrastive(
        StepBound(process), StepNats(process, num_train_steps), wrong, form, weight if tied else 0.0
    )
    coded, learned = _codec_of(codec, shape, vocabulary, patch, codec_steps, book)
    if times == "loss-aware":
        law = LossAware(num_train_steps)
        learned["times"] = law
        objective = ImportanceSampled(objective, process, law, num_train_steps)
    if size == "flat":
        net: Any = TokenMLP(vocabulary, length, schema=schema)
    else:
        net = TokenDiT(vocabulary, DiTSize(width, 3, head_width=32), schema=schema)
    return System(
        process=process,
        denoiser=TokenLogits(net, **learned),
        objective=Dropping(objective, dict.fromkeys(schema, drop)),
        solver=Jump(),
        codec=coded,
        grid=Times(Uniform(), Flow()),
        shape=(length,),
        schema=schema,
        num_steps=num_steps,
        data=dict(about or {}),
    )


def _codec_of(
    codec: str,
    shape: tuple[int, ...] | None,
    vocabulary: int,
    patch: int,
    steps: int,
    book: Sequence[Sequence[float]] | None,
) -> tuple[Any, dict[str, nn.Module]]:
    """Return the codec, and what of it learns."""
    if shape is None:
        return Identity(), {}
    if book is not None:
        return VectorQuantized.of(book, shape), {}
    if codec == "patches":
        raise ValueError("codec patches needs its code book, which `cdcd.measured(splits, codec='patches')` learns")
    if codec == "vqvae":
        channels, height, width = shape
        made = VQAutoencoder((channels, height, width), vocabulary, patch, steps=steps)
        return made, {"codec": made}
    return Levels(vocabulary, tuple(shape)), {}
