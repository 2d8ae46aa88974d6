"""Writing text with a token system: freely, after a prompt, into gaps, and longer than it was trained for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.drivers import rollout
from condiff.core.rng import key
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.process.absorbing import Absorbing
from condiff.process.blocks import Blockwise
from condiff.process.embedded import Embedded
from condiff.process.replace import MaskAndReplace
from condiff.solvers import Nucleus
from condiff.tasks.around import around
from condiff.tasks.blocks import write_blocks
from condiff.tasks.generate import check_solver
from condiff.tasks.healing import covered, spelled
from condiff.tasks.partition import FixedSize
from condiff.tasks.tokens import Streams, alphabet_of, counted
from condiff.tasks.tokens import ids as ids
from condiff.tasks.tokens import words as words

GAP = "_"
"""Stands for one token to be written."""


def process_of(system: System[Any, Any]) -> Absorbing | MaskAndReplace | Embedded:
    """Return the process of a system that writes text.

    Raises:
        ValueError: If it makes something else.
    """
    made = system.data.get("kind", "text")
    if not isinstance(system.process, Absorbing | MaskAndReplace | Embedded) or made != "text":
        raise ValueError(f"this system makes {system.data.get('kind', 'no text')}; prompts and gaps are for text")
    return system.process


def gapped(system: System[Any, Any], text: str) -> Tensor:
    """Return a text with the mask's id in place of every underscore, (k,).

    Args:
        system: A text system.
        text: Text with gaps of underscores, each underscore one token. Where tokens are pieces of words, the space
            before a gap belongs to it.

    Raises:
        ValueError: If the text is too long, has no gap, or has characters that no token spells.
    """
    return _gapped(system, text)[0]


def _gapped(system: System[Any, Any], text: str) -> tuple[Tensor, list[int]]:
    """Return what `gapped` does, and the places whose token has to begin with the space that was typed before it."""
    process, alphabet = process_of(system), alphabet_of(system)
    if GAP not in text:
        raise ValueError(f"the text to fill has no gap; mark one by underscores, as in {text[:20]!r} + '____'")
    parts: list[Tensor] = []
    spaced = []
    for part in re.finditer(f"{GAP}+|[^{GAP}]+", text):
        if part[0].startswith(GAP):
            parts.append(torch.full((len(part[0]),), process.mask))
        elif part.end() < len(text) and alphabet.unit == "piece" and part[0].endswith(" "):
            parts.append(ids(part[0][:-1], alphabet))
            spaced.append(sum(map(len, parts)))
        else:
            parts.append(ids(part[0], alphabet))
    given = torch.cat(parts)
    if len(given) > system.shape[0]:
        raise ValueError(f"the text has {counted(len(given), alphabet)}, but this system reads {system.shape[0]}")
    return given, spaced


def write(
    system: System[Any, Any],
    *,
    num_samples: int = 4,
    prompt: str = "",
    infill: str = "",
    length: int | None = None,
    num_steps: int | None = None,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
    batch_size: int = 64,
    first: int = 0,
    block: int | None = None,
) -> Iterator[list[str]]:
    """Yield texts piece by piece: what is new in every sample, window after window.

    A text longer than the system was trained for is written in windows, each after the last half of the text so far.

    Args:
        system: A text system.
        num_samples: How many.
        prompt: Text to continue; it is the first piece. Where tokens are pieces of words, those at its end are drawn
            anew, given that they spell it and perhaps more (`healing`); on vectors of tokens they stay as typed.
        infill: Text with gaps of underscores; the only piece is the whole text, filled. An end within a gap is no text.
            A space before a gap is the beginning of the gap's first piece (on vectors of tokens it may get lost).
        length: Tokens of the whole text, the prompt included; the trained length if None, and at most that for gaps.
        num_steps, cond, guidance_scale, seed, solver, batch_size, first: As for `sample`.
        block: Tokens of a block, for systems that write in blocks; their own size if None.

    Raises:
        ValueError: If the system makes no text, or the texts and the length do not fit it.
    """
    process = process_of(system)
    if isinstance(system.denoiser, Blockwise):
        if infill:
            raise ValueError("this system writes from left to right and fills no gaps; recipe text does")
        yield from _blockwise(
            system, num_samples=num_samples, prompt=prompt, length=length, num_steps=num_steps, cond=cond,
            guidance_scale=guidance_scale, seed=seed, solver=solver, first=first, block=block,
        )  # fmt: skip
        return
    if block is not None:
        raise ValueError("this system writes whole windows; the size of a block is for systems that write in blocks")
    if prompt and infill:
        raise ValueError("give a prompt to continue or a text with gaps to fill, not both")
    if infill and length is not None:
        raise ValueError("a text with gaps keeps its own length; leave length out")
    alphabet, window = alphabet_of(system), system.shape[0]
    asked: dict[str, Any] = {"cond": cond, "guidance_scale": guidance_scale, "seed": seed, "solver": solver}
    rows, overlap = range(first, first + num_samples), window // 2
    spaced: list[int] = []
    if infill:
        known, spaced = _gapped(system, infill)
        start, total = Start("", [known] * num_samples, [known[:0]] * num_samples), len(known)
    else:
        total = window if length is None else length
        start = _started(system, prompt, total, rows, **asked)
    most = max(map(len, start.ids))
    done = most - overlap if most >= window and not infill else 0
    begun = torch.full((num_samples, window), process.mask)
    for row, given in zip(begun, start.ids, strict=True):
        row[: len(given) - done] = given[done:]
    if not isinstance(process, Embedded):
        for place in spaced:
            begun[:, place] = spelled(system, begun, place, b" ", alphabet.spelling, rows=rows, **asked)

    def generate(context: Condition | None, k: int) -> Tensor:
        wanted = {**asked, "seed": seed if k == 0 else key(seed, "window", k)}
        known = begun if context is None else context.values["text"]
        return around(system, known, num_steps=num_steps, batch_size=batch_size, first=first, **wanted)

    def remember(context: Condition | None, block: Tensor) -> Condition:
        blank = torch.full((num_samples, window - overlap), process.mask)
        return Condition.of(text=torch.cat([block[:, -overlap:], blank], 1))

    streams = Streams(num_samples, alphabet)
    yield from start.shown(streams)
    skip, at = [len(given) - done for given in start.ids], done
    ended = torch.zeros(num_samples, dtype=torch.bool)
    count = 1 if total - done <= window else 1 + -(-(total - done - window) // (window - overlap))
    for made in rollout(generate, count, remember):
        if infill:
            filled = made[:, :total]
            yield [streams.read(k, row[row < alphabet.end]) for k, row in enumerate(filled)]
            break
        new = [row[begin : min(window, total - at)] for row, begin in zip(made, skip, strict=True)]
        yield [
            "" if over else streams.read(k, row) for k, (row, over) in enumerate(zip(new, ended.tolist(), strict=True))
        ]
        ended |= torch.stack([(row == alphabet.end).any() for row in new])
        if bool(ended.all()):
            break
        at += window - overlap
        skip = [overlap] * num_samples
    if any(left := streams.close()):
        yield left


def cut_tails(
    system: System[Any, Any], top_p: float | None, solver: Solver[Any, Any] | str | None = None
) -> Solver[Any, Any]:
    """Return the solver that a system is asked to write with, keeping the likeliest tokens of mass top_p.

    Args:
        system: A text system.
        top_p: In (0, 1], in place of the solver's own; None leaves that as it is.
        solver: The solver or its name; the system's own if None.

    Raises:
        ValueError: If the solver is unknown or does not suit the system, or top_p is out of range.
    """
    chosen = check_solver(system, solver)
    if top_p is None:
        return chosen
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top-p needs p in (0, 1], got {top_p:g}")
    inner = chosen.inner if isinstance(chosen, Nucleus) else chosen
    if not isinstance(system.process, Absorbing):
        raise ValueError(
            f"tails are cut for masked tokens, but this system's process is {type(system.process).__name__}"
        )
    return inner if top_p == 1.0 else Nucleus(inner, top_p)


@final
@dataclass(frozen=True)
class Start:
    """A prompt as tokens: what every text begins with, and how much of it goes beyond the prompt.

    Args:
        prompt: As it was typed.
        ids: Ids that each text begins with, int64 (k,).
        crossing: Of these, the last ones, which spell the end of the prompt and perhaps more.
        rest: The end of the prompt that they spell.
    """

    prompt: str
    ids: list[Tensor]
    crossing: list[Tensor]
    rest: str = ""

    def shown(self, streams: Streams) -> Iterator[list[str]]:
        """Yield the prompt, and what the tokens across its end add to it."""
        if self.prompt:
            yield [self.prompt] * len(self.ids)
        beyond = [streams.read(k, row)[len(self.rest) :] for k, row in enumerate(self.crossing)]
        if any(beyond):
            yield beyond


def _started(
    system: System[Any, Any],
    prompt: str,
    total: int,
    rows: range,
    **asked: Any,  # noqa: ANN401 - as `write`
) -> Start:
    """Return a prompt as the tokens that texts of so many tokens in all begin with, its end mended for each.

    Raises:
        ValueError: If it leaves nothing to write.
    """
    alphabet, window = alphabet_of(system), system.shape[0]
    whole = ids(prompt, alphabet)
    if len(whole) >= total:
        raise ValueError(
            f"length {total} leaves nothing to write after a prompt of {counted(len(whole), alphabet)}; give a larger "
            "length or a shorter prompt"
        )
    # Vectors of tokens have no law of a single token, so a prompt of theirs stays as it is cut.
    stem = prompt if isinstance(system.process, Embedded) else alphabet.stem(prompt)
    certain, rest = ids(stem, alphabet), prompt[len(stem) :]
    if not rest:
        return Start(prompt, [whole] * len(rows), [whole[:0]] * len(rows))
    room, seen = total - len(certain), certain
    if not isinstance(system.denoiser, Blockwise):
        need = len(whole) - len(certain)
        if len(whole) >= window:
            seen = certain[len(certain) - max(window - max(need, window // 2), 0) :]
        room = min(room, window - len(seen))
    crossing = covered(system, seen, rest.encode(), alphabet.spelling, rows=rows, most=room, **asked)
    return Start(prompt, [torch.cat([certain, one]) for one in crossing], crossing, rest)


def _blockwise(
    system: System[Any, Any],
    *,
    prompt: str,
    length: int | None,
    num_samples: int,
    first: int,
    num_steps: int | None,
    block: int | None,
    **asked: Any,  # noqa: ANN401 - as `write_blocks`
) -> Iterator[list[str]]:
    """Yield texts block by block; bytes of a character that a block ends within come with the next."""
    if block is not None and block < 1:
        raise ValueError(f"a block has 1 token or more, got {block}")
    policy = None if block is None else FixedSize(block)
    total = system.shape[0] if length is None else length
    start = _started(system, prompt, total, range(first, first + num_samples), **asked)
    streams = Streams(num_samples, alphabet_of(system))
    yield from start.shown(streams)
    wanted = {"num_samples": num_samples, "first": first, "num_steps": num_steps, "policy": policy, **asked}
    for new in write_blocks(system, prompt=start.ids, length=total, **wanted):
        yield [streams.read(k, part) for k, part in enumerate(new)]
    if any(left := streams.close()):
        yield left


def joined(pieces: Iterator[Sequence[str]]) -> list[str]:
    """Return whole texts from the pieces that `write` yields."""
    return ["".join(parts) for parts in zip(*pieces, strict=True)]
