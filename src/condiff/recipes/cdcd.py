"""CDCD: mask-and-replace diffusion over tokens of pictures or text, with a contrast that ties samples to conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from condiff.codecs import Identity, Levels, VectorQuantized
from condiff.core.condition import schema_from_json, schema_to_json
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.nn import DiTSize, TokenDiT, TokenMLP
from condiff.objectives import Contrastive, Difference, Dropping, InfoNCE, OtherRows, Shuffled, StepBound, StepNats
from condiff.process import Flow, MaskAndReplace, Times, TokenLogits, Uniform
from condiff.recipes.measure import about, images_of, schema_of, text_of
from condiff.solvers import Jump
from condiff.train.recipe import recipe
from condiff.train.settings import Training

LEVELS, ENTRIES, PATCH = 4, 128, 4


def _cdcd_of(splits: Splits) -> dict[str, Any]:
    data = splits.train
    if not data.conditions:
        raise ValueError(f"{data.name}: recipe cdcd needs a condition to tie its samples to; use recipe text or images")
    if data.kind == "text":
        return {**text_of(splits), "shape": None, "size": "transformer"}
    shape = images_of(splits)["shape"]
    facts: dict[str, Any] = {"shape": shape, "conditions": schema_to_json(schema_of(data)), "about": about(data)}
    if math.prod(shape) <= 256:
        return {**facts, "vocabulary": LEVELS, "length": math.prod(shape), "size": "flat"}
    patch = next(p for p in (PATCH, 2, 1) if shape[1] % p == 0 and shape[2] % p == 0)
    codec = VectorQuantized.fit(data.data[:2000], ENTRIES, patch)
    book = [list(entry) for entry in codec.book]
    return {**facts, "vocabulary": len(book), "length": codec.length, "book": book, "size": "transformer"}


@recipe(
    data="digits8",
    measure=_cdcd_of,
    training=Training(steps=2000, batch_size=128, learning_rate=1e-3, betas=(0.9, 0.96), sample_every=0),
)
def cdcd(
    *,
    length: int = 64,
    vocabulary: int = 4,
    shape: tuple[int, ...] | None = (1, 8, 8),
    book: Sequence[Sequence[float]] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    size: Literal["flat", "transformer"] = "flat",
    contrast: Literal["infonce", "difference"] = "infonce",
    negatives: Literal["rows", "pieces"] = "rows",
    weight: float = 0.5,
    count: int = 4,
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
        book: Code book of a picture's patches; without it a pixel is one of `vocabulary` levels. The data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        size: Network: a perceptron on one-hot tokens, or a transformer.
        contrast: InfoNCE among truth and negatives, or the difference of the official code, which needs a tiny weight.
        negatives: Other rows of the batch with another condition, or the pieces of the row itself in a wrong order.
        weight: Weight of the contrast; 0 is plain VQ-Diffusion.
        count: Negatives of a row.
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
    objective = Contrastive(
        StepBound(process), StepNats(process, num_train_steps), wrong, form, weight if tied else 0.0
    )
    if size == "flat":
        net: Any = TokenMLP(vocabulary, length, schema=schema)
    else:
        net = TokenDiT(vocabulary, DiTSize(width, 3, head_width=32), schema=schema)
    codec: Any = Identity()
    if shape is not None and book is None:
        codec = Levels(vocabulary, tuple(shape))
    elif shape is not None and book is not None:
        codec = VectorQuantized.of(book, shape)
    return System(
        process=process,
        denoiser=TokenLogits(net),
        objective=Dropping(objective, dict.fromkeys(schema, drop)),
        solver=Jump(),
        codec=codec,
        grid=Times(Uniform(), Flow()),
        shape=(length,),
        schema=schema,
        num_steps=num_steps,
        data=dict(about or {}),
    )
