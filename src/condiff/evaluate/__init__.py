"""Evaluation: every number comes with its definition, the rows it was measured on, and an interval."""

from __future__ import annotations

from condiff.evaluate.agreement import agreement
from condiff.evaluate.anatomy import Explained, commitment, explained_variance, span_energy, trajectory_spectrum
from condiff.evaluate.condition_use import ConditionUse, LossRows, condition_use, exchange
from condiff.evaluate.copying import Copying, copying
from condiff.evaluate.distances import frechet, frechet_distance, kid, moments
from condiff.evaluate.features import RandomFeatures
from condiff.evaluate.judge import Judge, Judge8, judge, judge8, judge_facts
from condiff.evaluate.likelihood import bits_per_dim, dequantise
from condiff.evaluate.metric import Metric, flat, mean_interval, wilson
from condiff.evaluate.neighbours import coverage, density, nearest, precision, radii, recall
from condiff.evaluate.paths import effective_size, path_metrics, tilt
from condiff.evaluate.report import evaluate_samples
from condiff.evaluate.support import nn_ratio, off_support
from condiff.evaluate.text import cross_entropy, known_words, token_bound, unigram_entropy, words_of

__all__ = [
    "ConditionUse",
    "Copying",
    "Explained",
    "Judge",
    "Judge8",
    "LossRows",
    "Metric",
    "RandomFeatures",
    "agreement",
    "bits_per_dim",
    "commitment",
    "condition_use",
    "copying",
    "coverage",
    "cross_entropy",
    "density",
    "dequantise",
    "effective_size",
    "evaluate_samples",
    "exchange",
    "explained_variance",
    "flat",
    "frechet",
    "frechet_distance",
    "judge",
    "judge8",
    "judge_facts",
    "kid",
    "known_words",
    "mean_interval",
    "moments",
    "nearest",
    "nn_ratio",
    "off_support",
    "path_metrics",
    "precision",
    "radii",
    "recall",
    "span_energy",
    "tilt",
    "token_bound",
    "trajectory_spectrum",
    "unigram_entropy",
    "wilson",
    "words_of",
]
