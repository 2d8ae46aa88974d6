"""Does it help that the source tower reads the noisy target? Vowels put back, and verses in simple English."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from condiff.claims.claim import Result, Row, over_seeds
from condiff.claims.lab import Talk, built, drawn, fitted, plot
from condiff.core.condition import Condition
from condiff.core.denoiser import bind
from condiff.core.rng import SharedRng, key
from condiff.core.shapes import instant
from condiff.core.system import System
from condiff.data import Dataset, Splits, corpus
from condiff.data.splits import book_part
from condiff.data.verses import passages, table
from condiff.evaluate import corpus_bleu, distinct, in_place, self_bleu
from condiff.evaluate.overlap import split
from condiff.recipes import diffusia
from condiff.tasks.choose import MBR, Utility, smoothed_bleu
from condiff.tasks.generate import evaluating
from condiff.train.fit import module_of

CLAIM = (
    "a source tower that reads the noisy target (spiral) puts vowels back at least a point better than one that does "
    "not (encdec), both far better than copying; on verses in simple English it is as good as encdec and joint, and "
    "better than copying"
)
ARMS = ("spiral", "encdec", "joint")
LEVELS = (0.2, 0.5, 0.8)
WINDOW, WORDS, FEWEST = 24, 20, 3
UNKNOWN = "?"


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        seeds: Seeds of spiral and encdec on vowels; joint, and all on verses, have the first alone.
        steps: Training steps on vowels.
        verse_steps: Training steps on verses.
        looks: Held-out windows that one step is measured on.
        texts: Held-out texts that are written.
        answers: Answers for each, of which one is chosen.
        timed: Repetitions of what is timed.
    """

    seeds: int
    steps: int
    verse_steps: int
    looks: int
    texts: int
    answers: int
    timed: int


QUICK = Budget(1, 160, 60, 500, 40, 3, 3)
FULL = Budget(3, 1200, 800, 500, 150, 10, 10)
SMALL: Mapping[str, Any] = {"width": 64, "depth": 2, "given": 0.0}


def run(*, quick: bool, seed: int, out: Path | None, talk: Talk) -> Result:
    """Train every network on both tasks, and measure single steps, samples and chosen samples."""
    budget = QUICK if quick else FULL
    found: dict[str, list[float]] = {}
    lines: list[str] = []
    for number in range(seed, seed + budget.seeds):
        for arm in ARMS if number == seed else ARMS[:2]:
            _note(found, on_vowels(arm, budget, number, lines, talk))
    for arm in ARMS:
        _note(found, on_verses(arm, budget, seed, lines, talk))
    _note(found, copied(budget))
    _note(found, overhead(budget.timed))
    if out is not None:
        from condiff.train.atomic import write_atomically

        write_atomically(out / "texts.txt", ("\n".join(lines) + "\n").encode())
    return result(found, budget, seed, out)


def result(found: Mapping[str, Sequence[float]], budget: Budget, seed: int, out: Path | None = None) -> Result:
    """Make the result of what was found, a list over seeds for each number."""
    rows = [over_seeds(name, values, "", budget.texts * len(values)) for name, values in found.items()]
    for what in (f"one step at t = {LEVELS[-1]}", "samples"):
        pairs = zip(found[f"vowels, spiral: {what}"], found[f"vowels, encdec: {what}"], strict=True)
        gains = [one - other for one, other in pairs]
        rows.append(over_seeds(f"vowels, gain of spiral: {what}", gains, "", budget.texts * len(gains)))
    value = {row.name: row.value for row in rows}
    _draw(value, out)
    return Result(
        system="diffusia",
        claim=CLAIM,
        data=f"windows of {WINDOW} bytes of the King James Version without vowels, {budget.steps} steps, "
        f"{budget.seeds} seed(s); its verses of at most {WORDS} words to Basic English, {budget.verse_steps} steps, "
        "one seed; books held out",
        seed=seed,
        rows=rows,
        effect="characters right by spiral, encdec and copying: "
        + ", ".join(f"{value[f'vowels, {arm}: one step at t = {LEVELS[-1]}']:.3f}" for arm in ARMS[:2])
        + f" in one step at t = {LEVELS[-1]}; "
        + ", ".join(f"{value[f'vowels, {arm}: samples']:.3f}" for arm in (*ARMS[:2], "copy"))
        + " in samples; BLEU on verses by spiral, encdec, joint and copying: "
        + ", ".join(f"{value[f'verses, {arm}: BLEU, chosen']:.3f}" for arm in (*ARMS, "copy"))
        + f"; spiral has {value['spiral over encdec: parameters']:.2f} times the parameters of encdec, "
        f"{value['spiral over encdec: time of a training step']:.2f} times the time of a training step and "
        f"{value['spiral over encdec: time of a sampling step']:.2f} times that of a sampling step",
        expected="on vowels spiral at least a point above encdec in one step at the highest noise or in samples, both "
        "at least 20 points above copying in samples; on verses the BLEU of spiral not more than a point below that of "
        "encdec and of joint, and above that of copying",
        holds=verdict(rows),
        calls=diffusia().num_steps * budget.answers * (len(ARMS) * 2 + 2 * (budget.seeds - 1)),
    )


def verdict(rows: Sequence[Row]) -> bool:
    """Tell whether every part of the claim holds in the rows."""
    value = {row.name: row.value for row in rows}
    gain = max(value[f"vowels, gain of spiral: {what}"] for what in (f"one step at t = {LEVELS[-1]}", "samples"))
    least = min(value[f"vowels, {arm}: samples"] for arm in ARMS[:2])
    bleu = {arm: value[f"verses, {arm}: BLEU, chosen"] for arm in (*ARMS, "copy")}
    return (
        gain >= 0.01
        and least >= value["vowels, copy: samples"] + 0.2
        and bleu["spiral"] >= max(bleu["encdec"], bleu["joint"]) - 0.01
        and bleu["spiral"] > bleu["copy"]
    )


def on_vowels(arm: str, budget: Budget, seed: int, lines: list[str], talk: Talk) -> dict[str, float]:
    """Train one network to put vowels back, and measure it."""
    splits = vowels()
    settings = replace(diffusia.training, steps=budget.steps)
    system = fitted(built(diffusia, splits, seed=seed, read=arm, **SMALL), splits, settings, seed=seed, talk=_quiet)
    found = {
        f"vowels, {arm}: one step at t = {t}": one_step(system, splits.test.take(budget.looks), t, corpus.PAD)
        for t in LEVELS
    }
    test = splits.test.take(budget.texts)
    answers = _answers(system, test, budget.answers, seed, lambda row: corpus.text(row.numpy()))
    truth = [corpus.text(row.numpy()) for row in test.data]
    best = MBR(in_place)
    chosen = [group[best.choose(group)] for group in answers]
    found[f"vowels, {arm}: samples"] = _mean(in_place, [group[0] for group in answers], truth)
    found[f"vowels, {arm}: chosen"] = _mean(in_place, chosen, truth)
    talk(
        f"vowels, {arm}, seed {seed}: one step "
        + ", ".join(f"{found[f'vowels, {arm}: one step at t = {t}']:.3f} at {t}" for t in LEVELS)
        + f"; samples {found[f'vowels, {arm}: samples']:.3f}, chosen {found[f'vowels, {arm}: chosen']:.3f}"
    )
    given = [corpus.text(row.numpy()) for row in test.conditions["input"]]
    shown = list(zip(given, chosen, truth, strict=True))[:8]
    lines += [f"vowels, {arm}, seed {seed}: {a!r} -> {b!r} ({c!r})" for a, b, c in shown]
    return found


def on_verses(arm: str, budget: Budget, seed: int, lines: list[str], talk: Talk) -> dict[str, float]:
    """Train one network to simplify verses, and measure it."""
    splits, book = simplified()
    settings = replace(diffusia.training, steps=budget.verse_steps)
    system = fitted(built(diffusia, splits, seed=seed, read=arm, **SMALL), splits, settings, seed=seed, talk=_quiet)
    test = splits.test.take(budget.texts)
    truth = [" ".join(cut) for cut in _pairs(2)[1][: len(test)]]

    def read(row: Tensor) -> str:
        """Return words up to the first end."""
        ends = (row == len(book)).nonzero()
        return " ".join(book[k] for k in row[: int(ends[0]) if len(ends) else None].tolist())

    answers = _answers(system, test, budget.answers, seed, read)
    first, best = [group[0] for group in answers], MBR(smoothed_bleu)
    chosen = [group[best.choose(group)] for group in answers]
    found = {f"verses, {arm}: one step at t = {t}": one_step(system, test, t, len(book)) for t in LEVELS}
    found[f"verses, {arm}: BLEU, samples"] = corpus_bleu(first, truth).value
    found[f"verses, {arm}: BLEU, chosen"] = corpus_bleu(chosen, truth).value
    found[f"verses, {arm}: smoothed BLEU, chosen"] = _mean(smoothed_bleu, chosen, truth)
    found[f"verses, {arm}: characters, chosen"] = _mean(in_place, chosen, truth)
    found[f"verses, {arm}: dist-1"] = distinct(first, 1) if any(first) else 0.0
    found[f"verses, {arm}: self-BLEU"] = statistics.mean(self_bleu(group[:3]) for group in answers)
    talk(
        f"verses, {arm}: BLEU {found[f'verses, {arm}: BLEU, samples']:.3f}, chosen "
        f"{found[f'verses, {arm}: BLEU, chosen']:.3f}, characters {found[f'verses, {arm}: characters, chosen']:.3f}"
    )
    lines += [f"verses, {arm}: {b!r} ({c!r})" for b, c in list(zip(chosen, truth, strict=True))[:8]]
    return found


def copied(budget: Budget) -> dict[str, float]:
    """Measure what copying the source would score."""
    test = vowels().test.take(budget.texts)
    sources, truth = ([corpus.text(row.numpy()) for row in part] for part in (test.conditions["input"], test.data))
    given, wanted = ([" ".join(cut) for cut in part[: budget.texts]] for part in _pairs(2))
    return {
        "vowels, copy: samples": _mean(in_place, sources, truth),
        "verses, copy: BLEU, chosen": corpus_bleu(given, wanted).value,
        "verses, copy: smoothed BLEU, chosen": _mean(smoothed_bleu, given, wanted),
        "verses, copy: characters, chosen": _mean(in_place, given, wanted),
    }


def overhead(repeats: int) -> dict[str, float]:
    """Measure what spiral and joint cost as a multiple of encdec, in turn and by the median."""
    splits = vowels()
    systems = {arm: built(diffusia, splits, seed=0, read=arm, **SMALL) for arm in ARMS}
    rows, cond = splits.train.rows(torch.arange(diffusia.training.batch_size))
    spent: dict[str, dict[str, list[float]]] = {
        "training": {arm: [] for arm in ARMS},
        "sampling": {arm: [] for arm in ARMS},
    }
    for k in range(repeats + 1):
        for arm, system in systems.items():
            began = time.perf_counter()
            system.objective(system.denoiser, rows.long(), cond, rng=SharedRng(0, k)).rows.mean().backward()
            middle = time.perf_counter()
            with torch.no_grad():
                denoise = bind(system.denoiser, cond)
                x = system.process.start(rows.shape, rng=SharedRng(0))
                ready = time.perf_counter()
                denoise(x, instant(0.5)).parts["data"]
            if k > 0:  # the first is slower than the rest
                spent["training"][arm].append(middle - began)
                spent["sampling"][arm].append(time.perf_counter() - ready)
    size = {arm: sum(weight.numel() for weight in module_of(system).parameters()) for arm, system in systems.items()}
    found = {"encdec: parameters": float(size["encdec"])}
    for arm in ("spiral", "joint"):
        found[f"{arm} over encdec: parameters"] = size[arm] / size["encdec"]
        for what, times in spent.items():
            ratio = statistics.median(times[arm]) / statistics.median(times["encdec"])
            found[f"{arm} over encdec: time of a {what} step"] = ratio
    return found


@torch.no_grad()
def one_step(system: System[Any, Any], data: Dataset, t: float, pad: int) -> float:
    """Return the share of tokens, ends left out, that one look at the noisy target and the source gets right."""
    rows, cond = data.rows(torch.arange(len(data)))
    ids = rows.long()
    denoiser: Any = evaluating(system.denoiser)
    draw = system.process.draw(denoiser.space(ids), torch.tensor(t, dtype=torch.float64), rng=SharedRng(0, "one step"))
    made = denoiser.space.round(denoiser.predict(draw.x, instant(t), cond).parts["data"])
    counted = ids != pad
    return float((made == ids)[counted].double().mean())


@lru_cache(maxsize=1)
def vowels() -> Splits:
    """Pair windows of the King James Version with themselves without vowels, both byte tokens (N, 24)."""

    def part(data: Dataset) -> Dataset:
        kept = ~torch.isin(data.data, torch.tensor(list(b"aeiouAEIOU"), dtype=data.data.dtype))
        order = kept.sort(dim=1, descending=True, stable=True).indices
        given = data.data.gather(1, order).masked_fill(~kept.gather(1, order), corpus.PAD)
        return _paired(data.data, given, corpus.VOCABULARY, corpus.PAD, "vowels")

    splits = passages(WINDOW)
    return Splits(part(splits.train), part(splits.validation), part(splits.test))


@lru_cache(maxsize=1)
def simplified() -> tuple[Splits, list[str]]:
    """Pair verses of at most 20 words, King James Version to Basic English, words and marks as tokens (N, 20).

    Returns: The splits, and the words by their number; the number after the last ends a text, and a word seen fewer
        than three times in training is `?`.
    """
    counts = Counter(word for side in _pairs(0) for cut in side for word in cut)
    book = [UNKNOWN, *sorted(word for word, count in counts.items() if count >= FEWEST)]
    number = {word: k for k, word in enumerate(book)}

    def part(code: int) -> Dataset:
        given, data = (
            torch.tensor([[number.get(w, 0) for w in cut] + [len(book)] * (WORDS - len(cut)) for cut in side])
            for side in _pairs(code)
        )
        return _paired(data, given, len(book) + 1, len(book), "verses in words")

    return Splits(part(0), part(1), part(2)), book


@lru_cache(maxsize=3)
def _pairs(code: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return the verses of a part that are short in both versions, as lower-case words and marks."""
    told = [verse for verse in table() if book_part(verse.book) == code and any(map(str.isalpha, verse.bbe))]
    cut = [(split(verse.kjv.lower()), split(verse.bbe.lower())) for verse in told]
    short = [(a, b) for a, b in cut if max(len(a), len(b)) <= WORDS]
    return [a for a, _ in short], [b for _, b in short]


def _paired(data: Tensor, given: Tensor, vocabulary: int, pad: int, name: str) -> Dataset:
    facts = {"length": data.shape[1], "vocabulary": vocabulary, "pad": pad}
    meta: dict[str, object] = {**facts, "conditions": {"input": {"kind": "tokens", **facts}}}
    present = {"input": torch.ones(len(data), dtype=torch.bool)}
    return Dataset(data, {"input": given}, present, name=name, kind="text", meta=meta)


def _answers(system: System[Any, Any], test: Dataset, count: int, seed: int, read: Any) -> list[list[str]]:  # noqa: ANN401
    """Return `count` texts for each source."""
    cond = Condition(test.conditions, test.present)
    made = [drawn(system, len(test), seed=key(seed, "answer", k), cond=cond)[0] for k in range(count)]
    return [[read(row) for row in rows] for rows in zip(*made, strict=True)]


def _mean(score: Utility, made: Sequence[str], truth: Sequence[str]) -> float:
    return float(statistics.mean(score(one, other) for one, other in zip(made, truth, strict=True)))


def _note(found: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        found.setdefault(name, []).append(value)


def _quiet(text: str) -> None:
    """Say nothing: an experiment tells what it measured."""


def _draw(value: Mapping[str, float], out: Path | None) -> None:
    def chart(figure: Any) -> None:  # noqa: ANN401 - matplotlib is optional
        for axes, task in zip(figure.subplots(1, 2), ("vowels", "verses"), strict=True):
            for arm in ARMS:
                axes.plot(LEVELS, [value[f"{task}, {arm}: one step at t = {t}"] for t in LEVELS], "o-", label=arm)
            axes.set(xlabel="time (noise)", ylabel="tokens right in one step", title=task)
        axes.legend(fontsize=8)

    plot(out, "levels.png", chart, size=(7.0, 3.2))
