"""Assessing a trained system on held-out data: what `condiff eval` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from condiff.core.condition import ClassLabel, Condition
from condiff.core.likelihood import log_likelihood
from condiff.core.rng import RowRng, SharedRng
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits
from condiff.evaluate.agreement import agreement
from condiff.evaluate.condition_use import ConditionUse, condition_use
from condiff.evaluate.features import RandomFeatures
from condiff.evaluate.judge import judge
from condiff.evaluate.likelihood import bits_per_dim, dequantise
from condiff.evaluate.metric import Metric
from condiff.evaluate.report import evaluate_samples
from condiff.evaluate.text import cross_entropy, known_words, token_bound, unigram_entropy, words_of
from condiff.objectives import Dropping, PseudoLabels
from condiff.process.gaussian import Gaussian
from condiff.process.interpolant import Interpolant
from condiff.tasks.generate import sample
from condiff.tasks.text import words

Features = Callable[[Tensor], Tensor]


def features_for(system: System[Any, Any], reference: Tensor) -> tuple[Features, str]:
    """Return the feature function for a system's samples and its definition: the judge for digits, else random ones."""
    if system.data.get("name") == "digits" and tuple(system.shape) == (1, 28, 28):
        return judge().features, judge().definition
    made = RandomFeatures.fit(reference)
    return made, made.definition


def sample_like(
    system: System[Any, Any], data: Dataset, num: int, *, guidance_scale: float, seed: int, num_steps: int | None = None
) -> tuple[Tensor, Condition]:
    """Draw samples under the conditions of the first rows of a data set, which are used in turn.

    Returns: Samples (num, *S) and their conditions.
    """
    _, cond = data.rows(torch.arange(num) % len(data))
    given: Mapping[str, Any] | Condition | None = cond if cond.values else None
    scale = guidance_scale if cond.values else None
    drawn = sample(
        system, num_samples=num, cond=given, guidance_scale=scale, seed=seed, batch_size=128, num_steps=num_steps
    )
    return drawn, cond


def held_out_use(
    system: System[Any, Any], data: Dataset, *, num: int = 512, seed: int = 0, name: str | None = None
) -> ConditionUse:
    """Test whether the model uses its condition: held-out loss with the true, a shuffled and the dropped condition.

    Args:
        system: A conditional system.
        data: Held-out rows.
        num: How many rows.
        seed: Names the draws, which the three losses share.
        name: The one condition to test; all if None.

    Raises:
        ValueError: If the system takes no condition.
    """
    if not system.schema:
        raise ValueError("this system takes no condition, so there is no use of one to test")
    objective = system.objective
    while isinstance(objective, Dropping | PseudoLabels):  # what a row is asked with is decided here, not in training
        objective = objective.inner
    rows, cond = data.take(num).rows(torch.arange(min(num, len(data))))

    @torch.no_grad()
    def loss(data: Tensor, cond: Condition | None, key: int) -> Tensor:
        x = system.codec.encode(data, cond)
        return objective(system.denoiser, x, cond, rng=RowRng(key, range(len(data)))).rows

    return condition_use(loss, rows, cond, seed=seed, name=name)


def data_bits(
    system: System[Any, Any], data: Dataset, *, num: int = 16, seed: int = 0, num_steps: int = 50
) -> Metric | None:
    """Measure bits per dimension of held-out images with 256 levels, by the flow with Hutchinson's probes.

    Returns: The metric, or None if the system has no likelihood or its data no levels.
    """
    meta = data.meta
    levels = meta.get("from_range") == [0.0, 255.0] and meta.get("range") == [-1.0, 1.0]
    if not isinstance(system.process, Gaussian) or not system.process.noise.standard or not levels:
        return None
    rows, cond = data.take(num).rows(torch.arange(min(num, len(data))))
    low, high = -1.0 - 1.0 / 255.0, 1.0 + 1.0 / 255.0
    rng = RowRng(seed, range(len(rows)))
    values = ((rows + 1.0) * 127.5).round().long()
    smooth = dequantise(values, rng=rng, bins=256, low=low, high=high)
    nats = log_likelihood(
        system.process,
        system.denoiser,
        system.codec.encode(smooth, cond),
        cond=cond if cond.values else None,
        num_steps=num_steps,
        rng=rng,
    )
    dims = rows[0].numel()
    definition = (
        f"probability flow, {num_steps} midpoint steps, one Rademacher probe a step, one uniform dequantisation"
    )
    return bits_per_dim(nats, dims, bins=256, low=low, high=high, definition=definition, seed=seed)


def assess(
    system: System[Any, Any],
    splits: Splits,
    *,
    num: int = 1000,
    seed: int = 0,
    quick: bool = False,
    talk: Callable[[str], None] = lambda text: None,
) -> tuple[list[Metric], ConditionUse | None]:
    """Measure a system on the test split.

    Args:
        system: A trained system.
        splits: Its data.
        num: Number of samples.
        seed: Names samples, draws and bootstrap.
        quick: Only class agreement and distances of samples, without the likelihood and the condition test.
        talk: Told what is going on.

    Returns: Metrics, and the test of condition use if there is a condition and `quick` is false.
    """
    if splits.test.kind == "text":
        return _assess_text(system, splits, num=num, seed=seed, quick=quick, talk=talk)
    test = splits.test
    scale = system.guidance_scale
    features, definition = features_for(system, test.data.float())
    talk(f"drawing {num} samples at guidance scale {scale:g}")
    guided, cond = sample_like(system, test, num, guidance_scale=scale, seed=seed)
    metrics: list[Metric] = []
    digits = definition == judge().definition
    label = next((name for name, kind in system.schema.items() if isinstance(kind, ClassLabel)), None)
    if digits and label is not None:
        metrics.append(
            _named(_agreement(guided, cond.values[label]), "class_agreement", f"samples at guidance scale {scale:g}")
        )
        if scale != 1.0:
            talk(f"drawing {num} samples without guidance")
            plain, _ = sample_like(system, test, num, guidance_scale=1.0, seed=seed)
            metrics.append(
                _named(_agreement(plain, cond.values[label]), "class_agreement_unguided", "samples without guidance")
            )
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
    use = None
    if not quick:
        talk("measuring the likelihood")
        bits = data_bits(system, test, seed=seed)
        metrics += [bits] if bits is not None else []
        names = [name for name in system.schema if name != _start_of(system)]
        if names:
            talk("testing whether the condition is used")
            # A bridge cannot be without its start, so that one is not exchanged or dropped.
            use = held_out_use(system, test, seed=seed, name=None if len(names) == len(system.schema) else names[0])
    return metrics, use


def _assess_text(
    system: System[Any, Any], splits: Splits, *, num: int, seed: int, quick: bool, talk: Callable[[str], None]
) -> tuple[list[Metric], ConditionUse | None]:
    """Measure a text system: the bound on held-out text, and samples beside held-out text and beside letters by chance.

    A generative perplexity is not among them: no judge of text ships with the package.
    """
    train, test = splits.train.data.long(), splits.test.take(num)
    vocabulary = system.process.vocabulary
    count = min(num, 64, len(test))
    talk(f"writing {count} texts at guidance scale {system.guidance_scale:g}")
    drawn, _ = sample_like(system, test, count, guidance_scale=system.guidance_scale, seed=seed)
    held = test.data[:count].long()
    known = words_of(words(row) for row in train)
    chance = train.flatten()[torch.randint(train.numel(), held.shape, generator=torch.Generator().manual_seed(seed))]
    metrics = []
    for rows, of in ((drawn, "samples"), (held, "held-out text"), (chance, "bytes drawn by their frequency")):
        try:
            metric = known_words([words(row) for row in rows], known, of=of, seed=seed)
        except ValueError:
            talk(f"the {of} hold too few whole words to count them")
            continue
        name = {"samples": "known_words", "held-out text": "known_words_held_out"}.get(of, "known_words_chance")
        metrics.append(replace(metric, name=name, details={"entropy": unigram_entropy(rows, vocabulary)}))
    if quick:
        return metrics, None
    talk("measuring the bound on held-out text")
    objective = system.objective.inner if isinstance(system.objective, Dropping) else system.objective
    rows, cond = test.rows(torch.arange(len(test)))

    @torch.no_grad()
    def loss(data: Tensor, key: int) -> Tensor:
        rng = SharedRng(seed, "bound", key)
        parts = [
            objective(system.denoiser, part, cond.rows(index) if cond.values else None, rng=rng).rows
            for index, part in ((i, data[i]) for i in torch.arange(len(data)).split(64))
        ]
        return torch.cat(parts)

    bound = token_bound(loss, rows, seed=seed)
    metrics.append(replace(bound, details={**bound.details, "by_frequency": cross_entropy(rows, train, vocabulary)}))
    if not system.schema:
        return metrics, None
    talk("testing whether the condition is used")
    return metrics, held_out_use(system, test, seed=seed)


def _start_of(system: System[Any, Any]) -> str | None:
    """Name the condition that a bridge starts from, if there is one."""
    source = system.process.source if isinstance(system.process, Interpolant) else None
    return source if isinstance(source, str) else None


def _agreement(samples: Tensor, asked: Tensor) -> Metric:
    return agreement(samples, asked, classify=judge().classify, definition=judge().definition)


def _named(metric: Metric, name: str, of: str) -> Metric:
    return replace(metric, name=name, definition=f"{metric.definition}; {of}")
