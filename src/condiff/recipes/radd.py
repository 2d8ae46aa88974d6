"""RADD: absorbing diffusion with a network that is never told the time, and four forms of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from condiff.codecs import Identity
from condiff.core.estimate import Categorical
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.nn import DiTSize, TokenDiT
from condiff.objectives import AnyOrder, MaskedTokens, ScoreEntropy, TimeCrossEntropy
from condiff.process import Absorbing, Flow, TimeFree, Times, Uniform, Unmasked
from condiff.recipes.measure import text_of
from condiff.solvers import Jump
from condiff.train.recipe import recipe
from condiff.train.settings import Training


def _radd_of(splits: Splits) -> dict[str, Any]:
    facts = text_of(splits)
    if facts.pop("conditions"):
        raise ValueError(f"{splits.train.name}: recipe radd writes text without conditions; use recipe text")
    return facts


LOSSES = {"order": AnyOrder, "lambda": MaskedTokens, "score": ScoreEntropy, "time": TimeCrossEntropy}


@recipe(
    data="kjv",
    measure=_radd_of,
    training=Training(steps=3000, batch_size=32, learning_rate=2e-3, sample_every=0),
)
def radd(
    *,
    length: int = 64,
    vocabulary: int = 257,
    loss: Literal["order", "lambda", "score", "time"] = "order",
    timed: bool = False,
    width: int = 128,
    depth: int = 3,
    num_steps: int = 64,
    about: Mapping[str, Any] | None = None,
) -> System[Absorbing, Categorical]:
    """RADD (Ou et al. 2025): absorbing diffusion over bytes without a time input.

    Args:
        length: Tokens of one example; the data decide.
        vocabulary: Number of tokens; the data decide.
        loss: Any-order, lambda-cross-entropy, score entropy, or t-cross-entropy; all bound the same likelihood.
        timed: Tell the network the time after all, as earlier methods do.
        width: Features of a token, a multiple of 32.
        depth: Number of transformer blocks.
        num_steps: Default number of sampling steps.
        about: Where the data came from; the data decide.
    """
    process = Absorbing(vocabulary)
    net = TokenDiT(vocabulary, DiTSize(width, depth, head_width=32))
    return System(
        process=process,
        denoiser=Unmasked(net if timed else TimeFree(net), process),
        objective=LOSSES[loss](process),
        solver=Jump(),
        codec=Identity(),
        grid=Times(Uniform(), Flow()),
        shape=(length,),
        num_steps=num_steps,
        data=dict(about or {}),
    )
