"""Writing text with a token system: freely, after a prompt, into gaps, and longer than it was trained for."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.drivers import rollout
from condiff.core.rng import key
from condiff.core.system import System
from condiff.data import corpus
from condiff.process.absorbing import Absorbing
from condiff.process.blocks import Blockwise
from condiff.process.replace import MaskAndReplace
from condiff.tasks.blocks import write_blocks
from condiff.tasks.generate import batches

GAP = "_"
"""Stands for one byte to be written."""


def ids(text: str) -> Tensor:
    """Return a text as byte tokens, int64 (L,)."""
    return torch.from_numpy(corpus.tokens(text)).long()


def words(row: Tensor) -> str:
    """Return byte tokens (L,) as text up to the first end of text."""
    return corpus.text(row.cpu().numpy())


def process_of(system: System[Any, Any]) -> Absorbing | MaskAndReplace:
    """Return the process of a system that writes text.

    Raises:
        ValueError: If it makes something else.
    """
    if not isinstance(system.process, Absorbing | MaskAndReplace) or system.data.get("kind", "text") != "text":
        raise ValueError(f"this system makes {system.data.get('kind', 'no text')}; prompts and gaps are for text")
    return system.process


def gapped(system: System[Any, Any], text: str) -> Tensor:
    """Return a text with the mask's id in place of every underscore, and in the rest of the window, (L,).

    Args:
        system: A text system; L is the length it was trained on.
        text: Text with gaps of underscores, each underscore one byte.

    Raises:
        ValueError: If the text is too long, or has no gap.
    """
    process = process_of(system)
    if GAP not in text:
        raise ValueError(f"the text to fill has no gap; mark one by underscores, as in {text[:20]!r} + '____'")
    given = ids(text)
    if len(given) > system.shape[0]:
        raise ValueError(f"the text has {len(given)} bytes, but this system reads {system.shape[0]}")
    start = torch.full(system.shape, process.mask, dtype=torch.int64)
    start[: len(given)] = torch.where(given == ord(GAP), process.mask, given)
    return start


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
    solver: str | None = None,
    batch_size: int = 64,
    first: int = 0,
) -> Iterator[list[str]]:
    """Yield texts piece by piece: what is new in every sample, window after window.

    A text longer than the system was trained for is written in windows, each after the last half of the text so far.

    Args:
        system: A text system.
        num_samples: How many.
        prompt: Text to continue; it is the first piece.
        infill: Text with gaps of underscores; the only piece is the whole text, filled.
        length: Bytes of the whole text, the prompt included; the trained length if None, and at most that for gaps.
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
    window = system.shape[0]
    total = len(ids(infill)) if infill else (window if length is None else length)
    if infill and length is not None and length != total:
        raise ValueError("a text with gaps keeps its own length; leave length out")
    if total < 1 or (prompt and len(ids(prompt)) >= total):
        raise ValueError(f"length {total} leaves nothing to write after a prompt of {len(ids(prompt))} bytes")
    overlap = window // 2
    rest = ids(prompt)[-overlap:] if len(ids(prompt)) >= window else ids(prompt)
    done = len(ids(prompt)) - len(rest)
    begun = gapped(system, infill) if infill else torch.cat([rest, torch.full((window,), process.mask)])[:window]

    def generate(context: Condition | None, k: int) -> Tensor:
        known = begun.expand(num_samples, window) if context is None else context.values["text"]
        made = batches(
            system,
            num_samples=num_samples,
            num_steps=num_steps,
            cond=cond,
            guidance_scale=guidance_scale,
            seed=seed if k == 0 else key(seed, "window", k),
            solver=solver,
            batch_size=batch_size,
            first=first,
            source=known,
        )
        return torch.cat([part for part, _ in made])

    def remember(context: Condition | None, block: Tensor) -> Condition:
        blank = torch.full((num_samples, window - overlap), process.mask)
        return Condition.of(text=torch.cat([block[:, -overlap:], blank], 1))

    if prompt:
        yield [prompt] * num_samples
    skip, at = (0 if infill else len(rest)), done
    ended = torch.zeros(num_samples, dtype=torch.bool)
    count = 1 if total - done <= window else 1 + -(-(total - done - window) // (window - overlap))
    for block in rollout(generate, count, remember):
        new = block[:, skip : min(window, total - at)]
        yield ["" if over else words(row) for row, over in zip(new, ended.tolist(), strict=True)]
        ended |= (new == corpus.PAD).any(1)
        if bool(ended.all()):
            return
        at += window - overlap
        skip = overlap


def _blockwise(
    system: System[Any, Any],
    *,
    prompt: str,
    length: int | None,
    num_samples: int,
    **wanted: Any,  # noqa: ANN401 - as `write_blocks`
) -> Iterator[list[str]]:
    """Yield texts block by block; bytes of a character that a block ends within come with the next."""
    total = system.shape[0] if length is None else length
    if len(ids(prompt)) >= total:
        raise ValueError(f"length {total} leaves nothing to write after a prompt of {len(ids(prompt))} bytes")
    if prompt:
        yield [prompt] * num_samples
    # A block may end within a character: its bytes wait for the next block.
    readers = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(num_samples)]
    for new in write_blocks(system, prompt=prompt, length=total, num_samples=num_samples, **wanted):
        yield [reader.decode(bytes(part.tolist())) for reader, part in zip(readers, new, strict=True)]
    if any(ends := [reader.decode(b"", final=True) for reader in readers]):
        yield ends


def joined(pieces: Iterator[Sequence[str]]) -> list[str]:
    """Return whole texts from the pieces that `write` yields."""
    return ["".join(parts) for parts in zip(*pieces, strict=True)]
