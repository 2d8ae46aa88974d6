"""Where a prompt ends within a token: which tokens may lie across the border of what is typed and what is written.

Text is cut into pieces when it is whole, so a prompt that ends within a word, or at a space, ends with pieces that no
training text has there: "the quick" never holds those at the end of "the qui". What is certain of a prompt is its stem;
the tokens after that are drawn anew, given that they spell the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.estimate import Categorical
from condiff.core.rng import RowRng, key, pick
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.guidance.cfg import CFG
from condiff.guidance.tokens import TopP
from condiff.process.blocks import Blockwise
from condiff.solvers import Nucleus
from condiff.tasks.generate import check_solver, condition_of, evaluating

NextToken = Callable[[Tensor], Tensor]
"""From the ids that follow a stem, int64 (R, d), to log p of the id after them, (R, V)."""

KEPT = 64
"""Most beginnings of a cover that are followed up at a time."""

HOPELESS = 20.0
"""Nats; a beginning this much less likely than the likeliest cover cannot matter: e^-20 is 2e-9."""


@final
@dataclass(frozen=True)
class Covers:
    """Ways to spell a rest: each is tokens whose bytes begin with it, and of which the last one reaches its end.

    p(cover | prompt) = p(cover | stem) / sum over all covers

    Args:
        tokens: Ids of each cover, the likeliest first.
        log_p: log p(cover | stem), float64 (C,).

    Source: Lundberg 2023 (token healing: back off, then keep to tokens that spell what was taken back); Vieira et al.
        2024 (covers, which give the model's exact law of what follows the characters of a prompt). Beginnings beyond
        the `KEPT` likeliest are left out.
    """

    tokens: tuple[tuple[int, ...], ...]
    log_p: Tensor

    @classmethod
    def of(cls, rest: bytes, spelling: Sequence[bytes], next_token: NextToken, most: int) -> Covers:
        """Find the covers of a rest.

        Args:
            rest: What is to be spelled; every byte of it is a token too.
            spelling: Bytes of every token.
            next_token: The model, after the stem.
            most: Most tokens of a cover, at least as many as spell the rest somehow.

        Raises:
            ValueError: If no cover has so few tokens.
        """
        found: list[tuple[float, tuple[int, ...]]] = []
        begun: list[tuple[float, tuple[int, ...], int]] = [(0.0, (), 0)]
        whole: dict[int, tuple[Tensor, list[tuple[int, int]]]] = {}
        for depth in range(most):
            if not begun:
                break
            log_p = next_token(torch.tensor([ids for _, ids, _ in begun], dtype=torch.int64).reshape(len(begun), depth))
            longer: list[tuple[float, tuple[int, ...], int]] = []
            for (score, ids, at), row in zip(begun, log_p.double().cpu(), strict=True):
                if at not in whole:
                    whole[at] = _fitting(rest[at:], spelling)
                last, within = whole[at]
                found += [(score + p, (*ids, k)) for k, p in zip(last.tolist(), row[last].tolist(), strict=True)]
                longer += [(score + float(row[k]), (*ids, k), at + size) for k, size in within]
            best = max((score for score, _ in found), default=-torch.inf)
            begun = sorted((one for one in longer if one[0] > best - HOPELESS), reverse=True)[:KEPT]
        if not found:
            raise ValueError(f"no {most} tokens spell {rest!r}")
        found.sort(key=lambda one: (-one[0], one[1]))
        scores = torch.tensor([score for score, _ in found], dtype=torch.float64)
        # A model for which none is possible says nothing about which.
        return cls(tuple(ids for _, ids in found), scores if found[0][0] > -torch.inf else torch.zeros_like(scores))

    def draw(self, u: Tensor, p: float = 1.0) -> list[Tensor]:
        """Draw a cover for each uniform number in u (N,), from the likeliest of mass p; returns its ids, int64 (k,)."""
        logits = cut(self.log_p[None], p).expand(len(u), -1)
        return [torch.tensor(self.tokens[int(k)], dtype=torch.int64) for k in pick(logits, u)]


def cut(logits: Tensor, p: float) -> Tensor:
    """Return unnormalised log-probabilities (B, V) without the unlikely ones beyond the mass p."""
    return TopP(lambda x, t, cond: Categorical(logits), p)(logits, logits, None).logits


def _fitting(rest: bytes, spelling: Sequence[bytes]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return the tokens that spell a rest and perhaps more, and those that spell less of it, with their sizes."""
    last = [k for k, token in enumerate(spelling) if token.startswith(rest)]
    less = [(k, len(token)) for k, token in enumerate(spelling) if b"" != token != rest and rest.startswith(token)]
    return torch.tensor(last, dtype=torch.int64), less


@torch.no_grad()
def covered(
    system: System[Any, Any],
    stem: Tensor,
    rest: bytes,
    spelling: Sequence[bytes],
    *,
    rows: range,
    most: int,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
) -> list[Tensor]:
    """Draw what lies across the end of a prompt, a cover for every sample.

    Args:
        system: One that writes tokens, within a window or in blocks.
        stem: Ids that are certain, int64 (k,), shorter than the window by `most`.
        rest: Bytes of the prompt after them.
        spelling: Bytes of every token.
        rows: Sample numbers.
        most: Most tokens of a cover.
        cond, guidance_scale, seed, solver: As for `write`.

    Returns: For every sample its ids, int64 (k,).
    """
    given, u, p = _drawn(system, rows, cond, seed, solver, "cover")
    known: dict[str, Covers] = {}  # samples are often asked alike
    out = []
    for b in range(len(rows)):
        one = None if given is None else given.rows(torch.tensor([b]))
        name = "" if one is None else repr([(k, v.tolist(), one.present[k].tolist()) for k, v in one.values.items()])
        if name not in known:
            known[name] = Covers.of(rest, spelling, following(system, stem, one, guidance_scale), most)
        out += known[name].draw(u[b : b + 1], p)
    return out


@torch.no_grad()
def spelled(
    system: System[Any, Any],
    x: Tensor,
    place: int,
    start: bytes,
    spelling: Sequence[bytes],
    *,
    rows: range,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
) -> Tensor:
    """Draw the token at a masked place of windows x (R, L), given that its bytes begin in a certain way; ids (R,).

    Args:
        system: One that writes tokens within a window.
        x: Ids, the mask where nothing is known.
        place: Which token of the window.
        start: What its bytes begin with.
        spelling: Bytes of every token, one of which does.
        rows: Sample numbers.
        cond, guidance_scale, seed, solver: As for `write`.
    """
    given, u, p = _drawn(system, rows, cond, seed, solver, f"place {place}")
    log_p = _at(_guided(evaluating(system), given, guidance_scale), x, place, given)
    fits = torch.tensor([token.startswith(start) for token in spelling] + [False] * (log_p.shape[1] - len(spelling)))
    return pick(cut(log_p.masked_fill(~fits, -torch.inf), p), u)


def following(
    system: System[Any, Any], stem: Tensor, cond: Condition | None = None, guidance_scale: float | None = None
) -> NextToken:
    """Return the law of the token after a stem and more ids, all that comes later being unknown.

    Args:
        system: As for `covered`.
        stem: Ids, int64 (k,).
        cond: Condition of one row.
        guidance_scale: The system's own if None.
    """
    system = evaluating(system)
    denoiser, mask = system.denoiser, system.process.mask
    guided = _guided(system, cond, guidance_scale)
    memory = denoiser.remember(cond, stem[None]) if isinstance(denoiser, Blockwise) and len(stem) else cond

    def after(more: Tensor) -> Tensor:
        held = None if memory is None else memory.rows(torch.zeros(len(more), dtype=torch.int64))
        if isinstance(denoiser, Blockwise):
            held = denoiser.remember(held, more) if more.shape[1] else held
            return _at(guided, torch.full((len(more), 1), mask), 0, held)
        x = torch.full((len(more), system.shape[0]), mask)
        at = len(stem) + more.shape[1]
        x[:, : len(stem)], x[:, len(stem) : at] = stem, more
        return _at(guided, x, at, held)

    return after


def _drawn(
    system: System[Any, Any],
    rows: range,
    cond: Mapping[str, Any] | Condition | None,
    seed: int,
    solver: Solver[Any, Any] | str | None,
    name: str,
) -> tuple[Condition | None, Tensor, float]:
    """Return the condition of some samples, a uniform number for each, and the mass of tokens that are kept."""
    given = cond if isinstance(cond, Condition) else condition_of(system, cond, rows)
    chosen = check_solver(system, solver)
    u = RowRng(seed, [key("row", row, name) for row in rows]).uniform((len(rows),))
    return given, u, chosen.p if isinstance(chosen, Nucleus) else 1.0


def _guided(system: System[Any, Any], cond: Condition | None, guidance_scale: float | None) -> Denoiser[Categorical]:
    scale = system.guidance_scale if guidance_scale is None else guidance_scale
    asked = cond is not None and any(bool(flag.any()) for flag in cond.present.values())
    names = tuple(cond.values) if cond is not None else ()
    return CFG(system.denoiser, scale, names) if asked and scale != 1.0 else system.denoiser


def _at(denoiser: Denoiser[Categorical], x: Tensor, place: int, cond: Condition | None) -> Tensor:
    """Return log p of the token at a masked place of windows x (R, L), (R, V)."""
    where = torch.zeros_like(x, dtype=torch.bool)
    where[:, place] = True
    return torch.log_softmax(denoiser(x, torch.ones((), dtype=torch.float64), cond).at(where).double(), -1)
