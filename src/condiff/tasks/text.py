"""Writing text with a token system: freely, after a prompt, into gaps, and longer than it was trained for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.drivers import rollout
from condiff.core.rng import key
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.data.alphabet import Alphabet
from condiff.process.absorbing import Absorbing
from condiff.process.blocks import Blockwise
from condiff.process.embedded import Embedded
from condiff.process.replace import MaskAndReplace
from condiff.solvers import Nucleus
from condiff.tasks.around import around
from condiff.tasks.blocks import write_blocks
from condiff.tasks.generate import check_solver
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
    process, alphabet = process_of(system), alphabet_of(system)
    if GAP not in text:
        raise ValueError(f"the text to fill has no gap; mark one by underscores, as in {text[:20]!r} + '____'")
    parts = []
    for part in re.finditer(f"{GAP}+|[^{GAP}]+", text):
        if part[0].startswith(GAP):
            parts.append(torch.full((len(part[0]),), process.mask))
        else:
            parts.append(ids(part[0] if part.end() == len(text) else alphabet.stem(part[0]), alphabet))
    given = torch.cat(parts)
    if len(given) > system.shape[0]:
        raise ValueError(f"the text has {counted(len(given), alphabet)}, but this system reads {system.shape[0]}")
    return given


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
) -> Iterator[list[str]]:
    """Yield texts piece by piece: what is new in every sample, window after window.

    A text longer than the system was trained for is written in windows, each after the last half of the text so far.

    Args:
        system: A text system.
        num_samples: How many.
        prompt: Text to continue; it is the first piece. Where tokens are pieces of words, a space at its end is left
            out.
        infill: Text with gaps of underscores; the only piece is the whole text, filled. An end within a gap is no text.
        length: Tokens of the whole text, the prompt included; the trained length if None, and at most that for gaps.
        num_steps, cond, guidance_scale, seed, solver, batch_size, first: As for `sample`.

    Raises:
        ValueError: If the system makes no text, or the texts and the length do not fit it.
    """
    process = process_of(system)
    if isinstance(system.denoiser, Blockwise):
        if infill:
            raise ValueError("this system writes from left to right and fills no gaps; recipe text does")
        yield from _blockwise(
            system, num_samples=num_samples, prompt=prompt, length=length, num_steps=num_steps, cond=cond,
            guidance_scale=guidance_scale, seed=seed, solver=solver, first=first,
        )  # fmt: skip
        return
    if prompt and infill:
        raise ValueError("give a prompt to continue or a text with gaps to fill, not both")
    if infill and length is not None:
        raise ValueError("a text with gaps keeps its own length; leave length out")
    alphabet, window = alphabet_of(system), system.shape[0]
    given, prompt = _prompted(alphabet, prompt, window if length is None else length)
    overlap = window // 2
    rest = given[-overlap:] if len(given) >= window else given
    done = len(given) - len(rest)
    known = gapped(system, infill) if infill else rest
    total = len(known) if infill else (window if length is None else length)
    begun = torch.cat([known, torch.full((window,), process.mask)])[:window]

    def generate(context: Condition | None, k: int) -> Tensor:
        return around(
            system,
            begun.expand(num_samples, window) if context is None else context.values["text"],
            num_steps=num_steps,
            cond=cond,
            guidance_scale=guidance_scale,
            seed=seed if k == 0 else key(seed, "window", k),
            solver=solver,
            batch_size=batch_size,
            first=first,
        )

    def remember(context: Condition | None, block: Tensor) -> Condition:
        blank = torch.full((num_samples, window - overlap), process.mask)
        return Condition.of(text=torch.cat([block[:, -overlap:], blank], 1))

    if prompt:
        yield [prompt] * num_samples
    skip, at = len(rest), done
    ended = torch.zeros(num_samples, dtype=torch.bool)
    count = 1 if total - done <= window else 1 + -(-(total - done - window) // (window - overlap))
    streams = Streams(num_samples, alphabet)
    for block in rollout(generate, count, remember):
        if infill:
            filled = block[:, :total]
            yield [streams.read(k, row[row < alphabet.end]) for k, row in enumerate(filled)]
            break
        new = block[:, skip : min(window, total - at)]
        yield [
            "" if over else streams.read(k, row) for k, (row, over) in enumerate(zip(new, ended.tolist(), strict=True))
        ]
        ended |= (new == alphabet.end).any(1)
        if bool(ended.all()):
            break
        at += window - overlap
        skip = overlap
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
    inner = chosen.inner if isinstance(chosen, Nucleus) else chosen
    if not isinstance(system.process, Absorbing):
        raise ValueError(
            f"tails are cut for masked tokens, but this system's process is {type(system.process).__name__}"
        )
    return inner if top_p == 1.0 else Nucleus(inner, top_p)


def _prompted(alphabet: Alphabet, prompt: str, total: int) -> tuple[Tensor, str]:
    """Return a prompt as tokens, and as it is continued.

    Raises:
        ValueError: If it leaves nothing to write.
    """
    prompt = alphabet.stem(prompt)
    given = ids(prompt, alphabet)
    if len(given) >= total:
        raise ValueError(
            f"length {total} leaves nothing to write after a prompt of {counted(len(given), alphabet)}; give a larger "
            "length or a shorter prompt"
        )
    return given, prompt


def _blockwise(
    system: System[Any, Any],
    *,
    prompt: str,
    length: int | None,
    num_samples: int,
    **wanted: Any,  # noqa: ANN401 - as `write_blocks`
) -> Iterator[list[str]]:
    """Yield texts block by block; bytes of a character that a block ends within come with the next."""
    total, alphabet = system.shape[0] if length is None else length, alphabet_of(system)
    _, prompt = _prompted(alphabet, prompt, total)
    if prompt:
        yield [prompt] * num_samples
    streams = Streams(num_samples, alphabet)
    for new in write_blocks(system, prompt=prompt, length=total, num_samples=num_samples, **wanted):
        yield [streams.read(k, part) for k, part in enumerate(new)]
    if any(left := streams.close()):
        yield left


def joined(pieces: Iterator[Sequence[str]]) -> list[str]:
    """Return whole texts from the pieces that `write` yields."""
    return ["".join(parts) for parts in zip(*pieces, strict=True)]
