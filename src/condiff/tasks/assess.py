"""Assessing a trained system on held-out data: what `condiff eval` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import ClassLabel, Condition, TokenIds
from condiff.core.likelihood import log_likelihood
from condiff.core.rng import RowRng, SharedRng
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits
from condiff.evaluate.agreement import agreement
from condiff.evaluate.condition_use import ConditionUse, condition_use
from condiff.evaluate.features import RandomFeatures
from condiff.evaluate.judge import Judge, Judge8, judge, judge8
from condiff.evaluate.likelihood import bits_per_dim, dequantise
from condiff.evaluate.metric import Metric
from condiff.evaluate.ngram import NGram, generative_perplexity
from condiff.evaluate.overlap import overlap
from condiff.evaluate.report import evaluate_samples
from condiff.evaluate.text import (
    bits_per_byte,
    bits_per_token,
    bound_draws,
    cross_entropy,
    known_words,
    unigram_entropy,
    words_of,
)
from condiff.objectives import Dropping, PseudoLabels, StepBound
from condiff.process.blocks import Blockwise
from condiff.process.embedded import Embedded
from condiff.process.gaussian import Gaussian
from condiff.process.interpolant import Interpolant
from condiff.process.replace import MaskAndReplace
from condiff.tasks.blocks import rows_in_blocks
from condiff.tasks.choose import MBR, answer_seeds
from condiff.tasks.generate import evaluating, sample
from condiff.tasks.tokens import alphabet_of, reader_of, whole, words
from condiff.train.workers import ALONE, Workers, join, share

Features = Callable[[Tensor], Tensor]


def reader_for(system: System[Any, Any], reference: Tensor) -> Judge | Judge8 | None:
    """Return the judge that reads a system's samples, for the bundled digits of either size."""
    match system.data.get("name"), tuple(reference.shape[1:]):
        case "digits", (1, 28, 28):
            return judge()
        case "digits8", (1, 8, 8):
            return judge8()
    return None


def features_for(system: System[Any, Any], reference: Tensor) -> tuple[Features, str]:
    """Return the feature function for a system's samples and its definition: the judge for digits, else random ones."""
    reader = reader_for(system, reference)
    if reader is not None:
        return reader.features, reader.definition
    made = RandomFeatures.fit(reference)
    return made, made.definition


def sample_like(
    system: System[Any, Any],
    data: Dataset,
    num: int,
    *,
    guidance_scale: float,
    seed: int,
    num_steps: int | None = None,
    workers: Workers = ALONE,
) -> tuple[Tensor, Condition]:
    """Draw samples under the conditions of the first rows of a data set, which are used in turn.

    Returns: Samples (num, *S) and their conditions, on every worker.
    """
    mine = share(workers, num)
    _, cond = data.rows(torch.tensor(mine) % len(data))
    given: Mapping[str, Any] | Condition | None = cond if cond.values else None
    if isinstance(system.denoiser, Blockwise):
        rows, _ = rows_in_blocks(
            system,
            num_samples=len(mine),
            first=mine.start,
            cond=cond if cond.values else None,
            guidance_scale=guidance_scale if cond.values else None,
            seed=seed,
            batch_size=128,
            num_steps=num_steps,
        )
        return join(workers, rows, num), data.rows(torch.arange(num) % len(data))[1]
    drawn = sample(
        system,
        num_samples=len(mine),
        first=mine.start,
        cond=given,
        guidance_scale=guidance_scale if cond.values else None,
        seed=seed,
        batch_size=128,
        num_steps=num_steps,
        device=workers.device,
    )
    return join(workers, drawn, num), data.rows(torch.arange(num) % len(data))[1]


def held_out_use(
    system: System[Any, Any],
    data: Dataset,
    *,
    num: int = 512,
    seed: int = 0,
    name: str | None = None,
    workers: Workers = ALONE,
) -> ConditionUse:
    """Test whether the model uses its condition: held-out loss with the true, a shuffled and the dropped condition.

    Args:
        system: A conditional system.
        data: Held-out rows.
        num: How many rows.
        seed: Names the draws, which the three losses share.
        name: The one condition to test; all if None.
        workers: Who shares the rows; all of them get the answer.

    Raises:
        ValueError: If the system takes no condition.
    """
    if not system.schema:
        raise ValueError("this system takes no condition, so there is no use of one to test")
    system = evaluating(system)
    objective = system.objective
    while isinstance(objective, Dropping | PseudoLabels):  # what a row is asked with is decided here, not in training
        objective = objective.inner
    rows, cond = data.take(num).rows(torch.arange(min(num, len(data))))

    @torch.no_grad()
    def loss(data: Tensor, cond: Condition | None, key: int) -> Tensor:
        mine = _mine(workers, len(data))
        cond = cond.rows(mine).to(workers.device) if cond is not None else None
        x = system.codec.encode(data[mine].to(workers.device), cond)
        rng = RowRng(key, mine.tolist(), device=workers.device)
        return join(workers, objective(system.denoiser, x, cond, rng=rng).rows, len(data))

    return condition_use(loss, rows, cond, seed=seed, name=name)


def _mine(workers: Workers, count: int) -> Tensor:
    """Return this worker's rows of `count`; what a share has too many repeats the last row, and `join` cuts it off."""
    return torch.tensor(share(workers, count)).clamp_max(count - 1)


def data_bits(
    system: System[Any, Any],
    data: Dataset,
    *,
    num: int = 16,
    seed: int = 0,
    num_steps: int = 50,
    workers: Workers = ALONE,
) -> Metric | None:
    """Measure bits per dimension of held-out images with 256 levels, by the flow with Hutchinson's probes.

    Returns: The metric, or None if the system has no likelihood or its data no levels.
    """
    meta = data.meta
    levels = meta.get("from_range") == [0.0, 255.0] and meta.get("range") == [-1.0, 1.0]
    if not isinstance(system.process, Gaussian) or not system.process.noise.standard or not levels:
        return None
    system, count = evaluating(system), min(num, len(data))
    mine = _mine(workers, count)
    rows, cond = data.rows(mine)
    low, high = -1.0 - 1.0 / 255.0, 1.0 + 1.0 / 255.0
    rng, cond = RowRng(seed, mine.tolist(), device=workers.device), cond.to(workers.device)
    values = ((rows + 1.0) * 127.5).round().long()
    smooth = dequantise(values, rng=rng, bins=256, low=low, high=high)
    nats = log_likelihood(
        system.process,
        system.denoiser,
        system.codec.encode(smooth.to(workers.device), cond),
        cond=cond if cond.values else None,
        num_steps=num_steps,
        rng=rng,
    )
    dims = rows[0].numel()
    definition = (
        f"probability flow, {num_steps} midpoint steps, one Rademacher probe a step, one uniform dequantisation"
    )
    nats = join(workers, nats, count)
    return bits_per_dim(nats, dims, bins=256, low=low, high=high, definition=definition, seed=seed)


def assess(
    system: System[Any, Any],
    splits: Splits,
    *,
    num: int = 1000,
    seed: int = 0,
    quick: bool = False,
    num_answers: int = 1,
    talk: Callable[[str], None] = lambda text: None,
    workers: Workers = ALONE,
) -> tuple[list[Metric], ConditionUse | None]:
    """Measure a system on the test split.

    Args:
        system: A trained system.
        splits: Its data.
        num: Number of samples.
        seed: Names samples, draws and bootstrap.
        quick: Only class agreement and distances of samples, without the likelihood and the condition test.
        num_answers: Texts only: how many are written in each place, of which the best by minimum Bayes risk is judged.
        talk: Told what is going on.
        workers: Who shares the sampling and the losses; every metric is the one of a process alone, to rounding.

    Returns: Metrics, and the test of condition use if there is a condition and `quick` is false; on workers other than
        0 nothing, for they only help.
    """
    if splits.test.kind == "text":
        return _assess_text(
            system, splits, num=num, seed=seed, quick=quick, num_answers=num_answers, talk=talk, workers=workers
        )
    test = splits.test
    scale = system.guidance_scale
    features, definition = features_for(system, test.data.float())
    label = next((name for name, kind in system.schema.items() if isinstance(kind, ClassLabel)), None)
    reader = reader_for(system, test.data)
    talk(f"drawing {num} samples at guidance scale {scale:g}")
    guided, cond = sample_like(system, test, num, guidance_scale=scale, seed=seed, workers=workers)
    plain, bits, use = guided, None, None
    if reader is not None and label is not None and scale != 1.0:
        talk(f"drawing {num} samples without guidance")
        plain, _ = sample_like(system, test, num, guidance_scale=1.0, seed=seed, workers=workers)
    if not quick:
        talk("measuring the likelihood")
        bits = data_bits(system, test, seed=seed, workers=workers)
        names = [name for name in system.schema if name != _start_of(system)]
        if names:
            talk("testing whether the condition is used")
            # A bridge cannot be without its start, so that one is not exchanged or dropped.
            only = None if len(names) == len(system.schema) else names[0]
            use = held_out_use(system, test, seed=seed, name=only, workers=workers)
    if workers.rank > 0:
        return [], None
    metrics: list[Metric] = []
    if reader is not None and label is not None:
        of = f"samples at guidance scale {scale:g}"
        metrics.append(_named(_agreement(guided, cond.values[label], reader), "class_agreement", of))
        if plain is not guided:
            asked, of = cond.values[label], "samples without guidance"
            metrics.append(_named(_agreement(plain, asked, reader), "class_agreement_unguided", of))
    talk("measuring distances")
    count = min(num, len(test), len(guided))
    metrics += evaluate_samples(
        guided[:count],
        test.data[:count].float(),
        features=features,
        definition=definition,
        train=splits.train.data.float(),
        seed=seed,
    )
    return metrics + ([bits] if bits is not None else []), use


def _assess_text(
    system: System[Any, Any],
    splits: Splits,
    *,
    num: int,
    seed: int,
    quick: bool,
    num_answers: int,
    talk: Callable[[str], None],
    workers: Workers,
) -> tuple[list[Metric], ConditionUse | None]:
    """Measure a text system: the bound on held-out text, and samples beside held-out text and letters by chance.

    How likely samples are is judged by frequencies of runs of bytes in the training text, no other judge being there.
    Samples made from another text are compared with the held-out ones too, beside that text itself. Diffusion on
    vectors of tokens has no bound.
    """
    train, test = splits.train.data.long(), splits.test.take(num)
    vocabulary = system.process.vocabulary
    count = min(num, 64, len(test))
    best = f", the best of {num_answers} each" if num_answers > 1 else ""
    talk(f"writing {count} texts at guidance scale {system.guidance_scale:g}{best}")
    seeds = answer_seeds(seed, num_answers)
    answers = [
        sample_like(system, test, count, guidance_scale=system.guidance_scale, seed=each, workers=workers)[0]
        for each in seeds
    ]
    use = None
    if system.schema and not quick:
        talk("testing whether the condition is used")
        use = held_out_use(system, test, seed=seed, workers=workers)
    if workers.rank > 0:
        return [], None
    alphabet, reader = alphabet_of(system), reader_of(system)
    drawn = answers[0]
    if num_answers > 1:
        talk("choosing among the answers")
        read = [[reader(row) for row in rows] for rows in answers]
        chosen = [MBR().choose(group) for group in zip(*read, strict=True)]
        drawn = torch.stack([answers[k][row] for row, k in enumerate(chosen)])
    held = [reader(row) for row in test.data[:count].long()]
    taught = [reader(row) for row in train]
    known, scorer = words_of(taught), NGram.fit([text.encode() for text in taught])
    generator = torch.Generator().manual_seed(seed)
    line = torch.frombuffer(bytearray("".join(taught), "utf-8"), dtype=torch.uint8).long()
    size = max(sum(len(text.encode()) for text in held) // count, 1)
    letters = line[torch.randint(len(line), (count, size), generator=generator)]
    compared = {
        "": ([reader(row) for row in drawn], unigram_entropy(drawn, vocabulary), f"samples by {system.solver}{best}"),
        "_held_out": (held, unigram_entropy(test.data[:count].long(), vocabulary), "held-out text"),
        "_chance": ([words(row) for row in letters], unigram_entropy(letters, 257), "bytes drawn by their frequency"),
    }
    if alphabet.unit != "byte":
        chance = train.flatten()[torch.randint(train.numel(), (count, train.shape[1]), generator=generator)]
        of = f"{alphabet.unit}s drawn by their frequency"
        compared[f"_chance_{alphabet.unit}s"] = (
            [whole(row, alphabet) for row in chance],
            unigram_entropy(chance, vocabulary),
            of,
        )
    metrics = []
    for which, (found, entropy, of) in compared.items():
        try:
            shares = known_words(found, known, of=of, seed=seed)
        except ValueError:
            talk(f"too few whole words to count in the {of}")
        else:
            metrics.append(replace(shares, name=f"known_words{which}", details={"entropy": entropy}))
    for which, (found, entropy, of) in compared.items():
        try:
            judged = generative_perplexity([text.encode() for text in found], scorer, entropy=entropy, of=of, seed=seed)
        except ValueError:
            talk(f"too little text to judge in the {of}")
        else:
            metrics.append(replace(judged, name=f"generative_perplexity{which}"))
    source = next((name for name, kind in system.schema.items() if isinstance(kind, TokenIds)), None)
    if source is not None and count > 1:
        inputs = [words(row, alphabet_of(system, source)) for row in test.conditions[source][:count]]
        sets = [(compared[""][0], "", f"samples{best}"), (inputs, "_copy", "the input as it is")]
        if num_answers > 1:
            sets.insert(1, (read[0], "_first", "the first of the answers"))
        for texts, end, of in sets:
            scores = overlap(texts, held, of=f"{of} against held-out text", seed=seed)
            metrics += [replace(score, name=f"{score.name}{end}") for score in scores]
    if quick or isinstance(system.process, Embedded):
        return metrics, use
    system = evaluating(system)
    talk("measuring the bound on held-out text")
    objective = system.objective.inner if isinstance(system.objective, Dropping) else system.objective
    steps = 1
    if isinstance(system.process, MaskAndReplace):  # trained on one step of the bound, and perhaps on more beside it
        objective, steps = StepBound(system.process, auxiliary=0.0), system.process.num_steps
    rows, cond = test.rows(torch.arange(len(test)))

    @torch.no_grad()
    def loss(data: Tensor, key: int) -> Tensor:
        rng = SharedRng(seed, "bound", key)
        parts = [
            objective(system.denoiser, part, cond.rows(index) if cond.values else None, rng=rng).rows
            for index, part in ((i, data[i]) for i in torch.arange(len(data)).split(64))
        ]
        return steps * torch.cat(parts)

    draws = bound_draws(loss, rows, seed=seed)
    bound = bits_per_token(draws, seed=seed, unit=f"bits/{alphabet.unit}")
    metrics.append(replace(bound, details={**bound.details, "by_frequency": cross_entropy(rows, train, vocabulary)}))
    metrics.append(bits_per_byte(draws, rows, alphabet, seed=seed))
    return metrics, use


def _start_of(system: System[Any, Any]) -> str | None:
    """Name the condition that a bridge starts from, if there is one."""
    source = system.process.source if isinstance(system.process, Interpolant) else None
    return source if isinstance(source, str) else None


def _agreement(samples: Tensor, asked: Tensor, reader: Judge | Judge8) -> Metric:
    return agreement(samples, asked, classify=reader.classify, definition=reader.definition)


def _named(metric: Metric, name: str, of: str) -> Metric:
    return replace(metric, name=name, definition=f"{metric.definition}; {of}")
