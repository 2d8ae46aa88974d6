"""CtrlDiff: text in blocks of any sizes, written from left to right, each block in parallel steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from condiff.codecs import Identity
from condiff.core.condition import schema_from_json
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.nn import DiTSize, TokenDiT
from condiff.objectives import BlockOrder, Dropping
from condiff.process import Absorbing, Blockwise, Flow, RandomBlocks, Times, Uniform
from condiff.recipes.measure import text_of
from condiff.solvers import Ordered
from condiff.train.recipe import recipe
from condiff.train.settings import Training

ENDLESS = 1 << 30


@recipe(data="kjv", measure=text_of, training=Training(steps=3000, batch_size=32, learning_rate=2e-3, sample_every=0))
def ctrldiff(
    *,
    length: int = 64,
    vocabulary: int = 257,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    sizes: Sequence[int] = (1, 2, 4, 8, 16),
    block: int = 8,
    width: int = 128,
    depth: int = 3,
    drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 4,
    about: Mapping[str, Any] | None = None,
) -> System[Absorbing, Categorical]:
    """CtrlDiff (Huang and Tang 2025): block diffusion over bytes for every block size, of any length.

    Args:
        length: Tokens of a training example; the data decide.
        vocabulary: Number of tokens; the data decide.
        conditions: What each condition holds, as `schema_to_json` writes it; the data decide.
        sizes: Block sizes the network is trained for.
        block: Tokens of a block when writing.
        width: Features of a token, a multiple of 32.
        depth: Number of transformer blocks.
        drop: Share of training rows whose conditions are dropped, for guidance.
        guidance: Default guidance scale when writing; 1 is none.
        num_steps: Default number of calls a block.
        about: Where the data came from; the data decide.
    """
    schema = schema_from_json(conditions or {})
    process = Absorbing(vocabulary)
    net = TokenDiT(vocabulary, DiTSize(width, depth, head_width=32), block=ENDLESS, schema=schema)
    return System(
        process=process,
        denoiser=Blockwise(net, process, block),
        objective=Dropping(BlockOrder(process, RandomBlocks((*sizes, length))), dict.fromkeys(schema, drop)),
        solver=Ordered(),
        codec=Identity(),
        grid=Times(Uniform(), Flow()),
        shape=(length,),
        schema=schema,
        num_steps=num_steps,
        guidance_scale=guidance if schema else 1.0,
        data=dict(about or {}),
    )
