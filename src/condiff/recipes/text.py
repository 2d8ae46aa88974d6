"""General recipe for text: absorbing diffusion over tokens, with or without an input text, classes or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from condiff.codecs import Identity
from condiff.core.condition import Kind, schema_from_json
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.nn import DiTSize, TokenDiT
from condiff.objectives import AnyOrder, Dropping
from condiff.process import Absorbing, Flow, TimeFree, Times, Uniform, Unmasked
from condiff.recipes.measure import text_of
from condiff.solvers import Nucleus, Ordered
from condiff.train.recipe import recipe
from condiff.train.settings import Training


@recipe(measure=text_of, training=Training(steps=3000, batch_size=32, learning_rate=2e-3, sample_every=0))
def text(
    *,
    length: int = 256,
    vocabulary: int = 257,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    width: int = 128,
    depth: int = 4,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 64,
    top_p: float = 0.9,
    about: Mapping[str, Any] | None = None,
) -> System[Absorbing, Categorical]:
    """Text by absorbing diffusion over tokens: free, continued, filled in, or made from another text.

    Args:
        length: Tokens of one example; the data decide.
        vocabulary: Number of tokens; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        width: Features of a token, a multiple of 32.
        depth: Number of transformer blocks.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when sampling; 1 is none.
        num_steps: Default number of sampling steps; as many as tokens write one at a time.
        top_p: Mass of the likeliest tokens that texts are written with, in (0, 1]; 1 keeps the tails.
        about: Where the data came from; the data decide.
    """
    schema: dict[str, Kind] = schema_from_json(conditions or {})
    process = Absorbing(vocabulary)
    net = TokenDiT(vocabulary, DiTSize(width, depth, head_width=32), schema=schema)
    return System(
        process=process,
        denoiser=Unmasked(TimeFree(net), process),
        objective=Dropping(AnyOrder(process), dict.fromkeys(schema, drop)),
        solver=Nucleus(Ordered(), top_p),
        codec=Identity(),
        grid=Times(Uniform(), Flow()),
        shape=(length,),
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
