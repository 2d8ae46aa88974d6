"""Writing text block by block, from left to right, to any length: what is finished is remembered, not read again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.drivers import sample
from condiff.core.rng import RowRng, key
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.guidance.cfg import CFG
from condiff.nn.context import PREFIX
from condiff.process.blocks import Blockwise
from condiff.tasks.generate import Counted, check_solver, condition_of, evaluating
from condiff.tasks.partition import BlockPolicy, FixedSize
from condiff.tasks.tokens import alphabet_of, ids

RECENT = 256
"""Over how many tokens the entropy of a text is taken, to stop one that only repeats itself."""


@torch.no_grad()
def write_blocks(
    system: System[Any, Any],
    *,
    num_samples: int = 4,
    prompt: str | Sequence[Tensor] = "",
    length: int = 256,
    policy: BlockPolicy | None = None,
    num_steps: int | None = None,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
    first: int = 0,
    window: int = 1024,
    least_entropy: float = 0.0,
    around: Callable[[Any, Tensor], Any] | None = None,
) -> Iterator[list[Tensor]]:
    """Yield the ids that are new in every text, a block a round; texts that are finished yield none.

    A text ends at the end-of-text token, at its length, or when its last 256 tokens have too little entropy.

    Args:
        system: A system whose denoiser is `Blockwise`.
        num_samples: How many texts.
        prompt: Text to go on from, or the ids of one for every text; it is not among the pieces. A text is taken as it
            is cut into tokens; `tasks.text.write` mends its end first.
        length: Tokens of the whole text, the prompt included.
        policy: Chooses the size of each block; blocks of the denoiser's own size if None.
        num_steps: Calls of the network a block, at most its size; the system's default if None.
        cond, guidance_scale, seed, solver, first: As for `sample`.
        window: How many of the last tokens a block may look back at.
        around: Called as around(denoiser, texts) before every block, with the finished ids (R, P) of its texts, shorter
            ones filled with the mask in front; returns the denoiser to use, such as guidance around it.
        least_entropy: Nats; a text whose last 256 tokens have less stops. 0 never stops.

    Yields: For every text its new ids, int64 (k,).

    Raises:
        ValueError: If the system does not write in blocks, or there is not a prompt for every text.
    """
    denoiser = evaluating(system).denoiser
    if not isinstance(denoiser, Blockwise):
        raise ValueError("this system does not write in blocks; use tasks.text.write")
    chosen = check_solver(system, solver)
    scale = system.guidance_scale if guidance_scale is None else guidance_scale
    policy = FixedSize(denoiser.size) if policy is None else policy
    steps = system.num_steps if num_steps is None else num_steps
    alphabet = alphabet_of(system)
    rows = range(first, first + num_samples)
    texts = [ids(prompt, alphabet)] * num_samples if isinstance(prompt, str) else list(prompt)
    if len(texts) != num_samples:
        raise ValueError(f"there are prompts for {len(texts)} texts, but {num_samples} are asked for")
    asked = cond if isinstance(cond, Condition) else condition_of(system, cond, rows)
    memory: list[Condition | None] = [
        None if asked is None else asked.rows(torch.tensor([b])) for b in range(num_samples)
    ]
    memory = [
        _kept(denoiser.remember(one, given[None]), window) if len(given) else one
        for one, given in zip(memory, texts, strict=True)
    ]
    blocks, going = [0] * num_samples, [len(given) < length for given in texts]
    while any(going):
        active = [b for b in range(num_samples) if going[b]]
        sizes = _sizes(policy, denoiser, texts, active, length, memory)
        new = [text[:0] for text in texts]
        for size in sorted(set(sizes.values())):
            group = [b for b in active if sizes[b] == size]
            context = _stack([memory[b] for b in group])
            rng = RowRng(seed, [key("row", rows[b], "block", blocks[b]) for b in group])
            guided: Any = denoiser
            if asked is not None and scale != 1.0:
                guided = CFG(denoiser, scale, tuple(asked.values))
            if around is not None:
                guided = around(guided, _aligned([texts[b] for b in group], denoiser.process.mask))
            grid = system.grid(min(size, steps))
            made = sample(system.process, guided, chosen, (len(group), size), grid, cond=context, rng=rng)
            after = denoiser.remember(context, made)
            for i, b in enumerate(group):
                memory[b] = _kept(after.rows(torch.tensor([i])), window)
                end = (made[i] == alphabet.end).nonzero()
                new[b] = made[i, : int(end[0])] if len(end) else made[i]
                texts[b], blocks[b] = torch.cat([texts[b], new[b]]), blocks[b] + 1
                going[b] = not len(end) and len(texts[b]) < length and _entropy(texts[b]) >= least_entropy
        yield new


def rows_in_blocks(
    system: System[Any, Any],
    *,
    num_samples: int,
    block: int | None = None,
    batch_size: int = 64,
    cond: Condition | None = None,
    first: int = 0,
    **wanted: Any,  # noqa: ANN401 - as `write_blocks`
) -> tuple[Tensor, int]:
    """Write windows of the trained length in blocks.

    Args:
        system: A system whose denoiser is `Blockwise`.
        num_samples: How many.
        block: Tokens of a block; the denoiser's own size if None.
        batch_size: Windows at a time.
        cond: Condition of num_samples rows.
        first, wanted: As for `write_blocks`.

    Returns: Ids (N, L), ends behind a text that is shorter; and the calls of the network that a text of the first batch
        takes, those that remember a block included.
    """
    length, end = system.shape[0], alphabet_of(system).end
    out = torch.full((num_samples, length), end)
    calls = 0
    counters: list[Counted] = []

    def counted(denoiser: Any, texts: Tensor) -> Counted:  # noqa: ANN401 - a denoiser
        counters.append(Counted(denoiser))
        return counters[-1]

    for rows in torch.arange(num_samples).split(batch_size):
        counters.clear()
        pieces = list(
            write_blocks(
                system,
                num_samples=len(rows),
                length=length,
                policy=None if block is None else FixedSize(block),
                cond=None if cond is None else cond.rows(rows),
                first=first + int(rows[0]),
                around=counted,
                **wanted,
            )
        )
        for row, parts in zip(rows, zip(*pieces, strict=True), strict=True):
            text = torch.cat(parts)
            out[row, : len(text)] = text
        calls = calls or sum(counter.calls for counter in counters) + len(pieces)
    return out, calls


def _sizes(
    policy: BlockPolicy,
    denoiser: Blockwise,
    texts: Sequence[Tensor],
    active: Sequence[int],
    length: int,
    memory: Sequence[Condition | None],
) -> dict[int, int]:
    out = {}
    for b in active:
        known = memory[b]
        state = denoiser.net.newest(known)
        entropy = torch.zeros(1)
        if policy.asks:
            blank = torch.full((1, 1), denoiser.process.mask)
            log_p = torch.log_softmax(denoiser(blank, torch.ones((), dtype=torch.float64), known).logits[:, 0], -1)
            entropy = -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)
        out[b] = int(policy.size(state, entropy, length - len(texts[b]))[0])
    return out


def _aligned(texts: Sequence[Tensor], mask: int) -> Tensor:
    longest = max(len(text) for text in texts)
    return torch.stack([torch.cat([text.new_full((longest - len(text),), mask), text]) for text in texts])


def _entropy(text: Tensor) -> float:
    """Return the entropy of the tokens' frequencies in the end of a text; infinite while it is short."""
    if len(text) < RECENT:
        return math.inf
    share = torch.bincount(text[-RECENT:]).double() / RECENT
    return float(-(share * share.clamp_min(1e-12).log()).sum())


def _kept(cond: Condition, window: int) -> Condition:
    """Forget what is older than the window, and what is only filler."""
    held = int(cond.values[f"{PREFIX}length"][0])
    drop = max(0, held - window)
    values = {
        name: value[:, drop:held] if name.endswith((".k", ".v")) else value for name, value in cond.values.items()
    }
    values[f"{PREFIX}length"] = cond.values[f"{PREFIX}length"] - drop
    return Condition(values, cond.present)


def _stack(conds: Sequence[Condition | None]) -> Condition | None:
    """Join the conditions of several texts, whose memories may be of unequal length."""
    known = [cond for cond in conds if cond is not None]
    if not known:
        return None
    longest = {
        name: max(cond.values[name].shape[1] for cond in known)
        for name in known[0].values
        if name.endswith((".k", ".v"))
    }

    def filled(cond: Condition) -> Condition:
        values = dict(cond.values)
        for name, size in longest.items():
            short = size - values[name].shape[1]
            values[name] = torch.nn.functional.pad(values[name], (0, 0, 0, short))
        return Condition(values, cond.present)

    whole = filled(known[0])
    for cond in known[1:]:
        whole = whole.cat(filled(cond))
    return whole
