"""How good text is for how many calls: every number of steps of a text system, by the words it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.evaluate.metric import Metric
from condiff.evaluate.ngram import NGram, generative_perplexity
from condiff.evaluate.text import known_words, unigram_entropy, words_of
from condiff.process.blocks import Blockwise
from condiff.tasks.generate import batches, solver_named, suits
from condiff.tasks.tokens import reader_of

OWN = "own"
"""Name of the solver that a system has."""

SOLVERS = (OWN, "ordered", "ddim")
"""What is compared where it suits, if nothing is named: the own, an exact number of tokens a call, and a random one."""


@final
@dataclass(frozen=True)
class TextPoint:
    """One way of writing.

    Args:
        solver: Its name.
        calls: Network calls of a text.
        known: Share of its words that the training text has.
        perplexity: How likely its texts are by what the training text has (`generative_perplexity`), with its entropy.
    """

    solver: str
    calls: int
    known: Metric
    perplexity: Metric

    @property
    def entropy(self) -> float:
        """Bits a token of the texts' frequencies; what repeats itself is likely, has known words, and little of it."""
        return self.perplexity.details["entropy"]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "solver": self.solver,
            "calls": self.calls,
            "known_words": self.known.to_json(),
            "generative_perplexity": self.perplexity.to_json(),
            "entropy": self.entropy,
        }


def text_quality(
    system: System[Any, Any],
    splits: Splits,
    *,
    calls: Sequence[int] | None = None,
    solvers: Sequence[str] | None = None,
    num_samples: int = 64,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    talk: Callable[[str], None] = lambda text: None,
) -> tuple[list[TextPoint], TextPoint]:
    """Write texts with every solver and number of calls.

    Args:
        system: A system that writes whole windows.
        splits: Its data: the training words, and held-out text for comparison and conditions.
        calls: Numbers of calls; powers of 2 up to a call a token if None.
        solvers: Names of solvers, "own" being the system's; those of `SOLVERS` that suit the process if None.
        num_samples: Texts for each.
        guidance_scale, seed, batch_size: As for `sample`.
        talk: Told every point.

    Returns: The points, and held-out text measured alike, as a point of no calls.

    Raises:
        ValueError: If the system writes in blocks.
    """
    if isinstance(system.denoiser, Blockwise):
        raise ValueError(
            "this system writes in blocks, and its calls are those of a block: compare --steps with condiff sample"
        )
    length = system.shape[0]
    budgets = sorted({*(2**k for k in range(1, 12) if 2**k < length), length}) if calls is None else list(calls)
    reader = reader_of(system)
    taught = [reader(row) for row in splits.train.data]
    known, scorer = words_of(taught), NGram.fit([text.encode() for text in taught])
    index = torch.arange(num_samples) % len(splits.test)
    held, cond = splits.test.rows(index)
    asked: Condition | None = cond if cond.values else None

    def point(name: str, used: int, rows: Tensor, of: str) -> TextPoint:
        texts = [reader(row) for row in rows]
        entropy = unigram_entropy(rows.long(), system.process.vocabulary)
        share = known_words(texts, known, of=of, seed=seed)
        judged = generative_perplexity([text.encode() for text in texts], scorer, entropy=entropy, of=of, seed=seed)
        return TextPoint(name, used, share, judged)

    if solvers is None:
        solvers = [name for name in SOLVERS if name == OWN or suits(solver_named(name), system.process)]
    points = []
    named = {name: solver_named(name) for name in solvers if name != OWN}
    for solver in solvers:
        if solver == OWN and system.solver in named.values():
            continue  # it is there under its name
        for budget in budgets:
            parts = list(
                batches(
                    system, num_samples=num_samples, num_steps=budget,
                    guidance_scale=guidance_scale, cond=asked, seed=seed,
                    solver=named.get(solver),
                    batch_size=batch_size,
                )
            )  # fmt: skip
            rows = torch.cat([part for part, _ in parts])
            try:
                points.append(point(solver, parts[0][1], rows, f"texts of {solver}, {budget} calls"))
            except ValueError:
                talk(f"{solver}, {budget} calls: too few whole words to count")
                continue
            talk(
                f"{solver}, {points[-1].calls} calls: {points[-1].known.value:.3f} known words, perplexity a byte "
                f"{points[-1].perplexity.value:.2f}, entropy {points[-1].entropy:.2f} bits"
            )
    return points, point("held-out text", 0, held, "held-out text")


def fewest(points: Sequence[TextPoint]) -> TextPoint:
    """Return the point of fewest calls whose share of known words lies within the interval of the best.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("no number of calls wrote enough whole words to be compared")
    best = max(points, key=lambda point: point.known.value)
    return min((p for p in points if p.known.value >= best.known.interval[0]), key=lambda point: point.calls)
