"""How good text is for how many calls: every number of steps of a text system, by the words it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.data.batch import Splits
from condiff.evaluate.metric import Metric
from condiff.evaluate.ngram import NGram, generative_perplexity
from condiff.evaluate.text import known_words, unigram_entropy, words_of
from condiff.process.blocks import Blockwise
from condiff.tasks.blocks import rows_in_blocks
from condiff.tasks.generate import batches, check_solver, solver_named, suits
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
        calls: Network calls of a text; in blocks, those that remember a block included.
        known: Share of its words that the training text has.
        perplexity: How likely its texts are by what the training text has (`generative_perplexity`), with its entropy.
        block: Tokens of a block; None where whole windows are written.
        steps: Calls that write a block, or a window.
    """

    solver: str
    calls: int
    known: Metric
    perplexity: Metric
    block: int | None = None
    steps: int = 0

    @property
    def entropy(self) -> float:
        """Bits a token of the texts' frequencies; what repeats itself is likely, has known words, and little of it."""
        return self.perplexity.details["entropy"]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "solver": self.solver,
            "block": self.block,
            "steps": self.steps,
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
    blocks: Sequence[int] | None = None,
    num_samples: int = 64,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    talk: Callable[[str], None] = lambda text: None,
) -> tuple[list[TextPoint], TextPoint]:
    """Write texts with every solver and number of calls; where a system writes in blocks, with every size of those.

    Args:
        system: A system that writes text.
        splits: Its data: the training words, and held-out text for comparison and conditions.
        calls: Numbers of calls, of a block where there are blocks; powers of 2 up to a call a token if None.
        solvers: Names of solvers, "own" being the system's; those of `SOLVERS` that suit the process if None, and only
            the own one in blocks.
        blocks: Sizes of blocks; powers of 4 up to the window, and the system's own, if None.
        num_samples: Texts for each.
        guidance_scale, seed, batch_size: As for `sample`.
        talk: Told every point.

    Returns: The points, and held-out text measured alike, as a point of no calls.

    Raises:
        ValueError: If a solver does not suit the process, sizes of blocks are asked of a system that has none or do not
            fit into its window, or no number of calls fits into any block.
    """
    reader = reader_of(system)
    taught = [reader(row) for row in splits.train.data]
    known, scorer = words_of(taught), NGram.fit([text.encode() for text in taught])
    held, cond = splits.test.rows(torch.arange(num_samples) % len(splits.test))

    def point(way: Way, used: int, rows: Tensor, of: str) -> TextPoint:
        texts = [reader(row) for row in rows]
        entropy = unigram_entropy(rows.long(), system.process.vocabulary)
        share = known_words(texts, known, of=of, seed=seed)
        judged = generative_perplexity([text.encode() for text in texts], scorer, entropy=entropy, of=of, seed=seed)
        return TextPoint(way.name, used, share, judged, way.block, way.steps)

    wanted = {
        "num_samples": num_samples,
        "cond": cond if cond.values else None,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "batch_size": batch_size,
    }
    points = []
    for way in _ways(system, calls, solvers, blocks):
        rows, used = _written(system, way, **wanted)
        try:
            points.append(point(way, used, rows, f"texts of {way}"))
        except ValueError:
            talk(f"{way}: too few whole words to count")
            continue
        talk(
            f"{way}, {used} calls: {points[-1].known.value:.3f} known words, perplexity a byte "
            f"{points[-1].perplexity.value:.2f}, entropy {points[-1].entropy:.2f} bits"
        )
    return points, point(Way("held-out text", None, 0, None), 0, held, "held-out text")


@final
@dataclass(frozen=True)
class Way:
    """A way of writing that is compared.

    Args:
        name: Of the solver.
        solver: The solver; the system's own if None.
        steps: Calls of a window or a block.
        block: Tokens of a block; None for whole windows.
    """

    name: str
    solver: Solver[Any, Any] | None
    steps: int
    block: int | None

    def __str__(self) -> str:
        """Name it."""
        steps = f"{self.name}, {self.steps} step{'' if self.steps == 1 else 's'}"
        return steps if self.block is None else f"{steps} a block of {self.block}"


def _ways(
    system: System[Any, Any],
    calls: Sequence[int] | None,
    solvers: Sequence[str] | None,
    blocks: Sequence[int] | None,
) -> list[Way]:
    """List what is compared; a solver that the system has anyway is there under its name."""
    length, denoiser = system.shape[0], system.denoiser
    if not isinstance(denoiser, Blockwise):
        if blocks is not None:
            raise ValueError("this system writes whole windows, so there are no blocks to choose a size for")
        sizes: list[int | None] = [None]
    elif blocks is None:
        sizes = sorted({*(4**k for k in range(6) if 4**k < length), min(denoiser.size, length)})
    else:
        if max(blocks) > length or min(blocks) < 1:
            raise ValueError(f"blocks of this system have 1 to {length} tokens, got {', '.join(map(str, blocks))}")
        sizes = list(blocks)
    if solvers is None:
        suitable = [name for name in SOLVERS if name == OWN or suits(solver_named(name), system.process)]
        solvers = [OWN] if isinstance(denoiser, Blockwise) else suitable
    named = {name: check_solver(system, name) for name in solvers if name != OWN}
    out = []
    for name in solvers:
        if name == OWN and system.solver in named.values():
            continue
        for block in sizes:
            size = block or length
            budgets = sorted({*(2**k for k in range(0 if block else 1, 12) if 2**k < size), size})
            fitting = budgets if calls is None else [n for n in calls if block is None or n <= size]
            out += [Way(name, named.get(name), steps, block) for steps in fitting]
    if not out:
        raise ValueError(f"no block of {', '.join(map(str, sizes))} tokens has room for {min(calls or (0,))} calls")
    return out


def _written(
    system: System[Any, Any],
    way: Way,
    **wanted: Any,  # noqa: ANN401 - as `sample`
) -> tuple[Tensor, int]:
    """Write windows in one way; returns ids (N, L), and the calls of a text."""
    if way.block is not None:
        return rows_in_blocks(system, block=way.block, num_steps=way.steps, solver=way.solver, **wanted)
    parts = list(batches(system, num_steps=way.steps, solver=way.solver, **wanted))
    return torch.cat([part for part, _ in parts]), parts[0][1]


ENTROPY = 0.9
"""Texts with less than this share of the entropy of held-out text repeat themselves and are not recommended."""


def fewest(points: Sequence[TextPoint], held: TextPoint | None = None) -> TextPoint:
    """Return the point of fewest calls that is as good as any by both numbers; the likeliest texts if none is.

    That is, its share of known words and its perplexity lie within the intervals of the best share and the best
    perplexity. Pieces of words make known words by chance, so that the share alone would say too little.

    Args:
        points: What is compared.
        held: Held-out text, whose entropy tells what repeats itself; nothing is left out if None.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("no number of calls wrote enough whole words to be compared; train it longer")
    least = 0.0 if held is None else ENTROPY * held.entropy
    fair = [point for point in points if point.entropy >= least] or points
    known = max(fair, key=lambda point: point.known.value).known.interval[0]
    likeliest = min(fair, key=lambda point: point.perplexity.value)
    good = [
        point
        for point in fair
        if point.known.value >= known and point.perplexity.value <= likeliest.perplexity.interval[1]
    ]
    return min(good or [likeliest], key=lambda point: point.calls)
