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
from condiff.evaluate.ngram import NGram, generative_perplexity
from condiff.evaluate.overlap import corpus_bleu, distinct, in_place, overlap, rouge_l, self_bleu, sentence_bleu
from condiff.evaluate.paths import effective_size, path_metrics, tilt
from condiff.evaluate.report import evaluate_samples
from condiff.evaluate.series import (
    Score,
    band_coverage,
    energy_score,
    ensemble_crps,
    ensemble_quantiles,
    forecast_scores,
    mase,
    pit,
    pit_scores,
    seasonal_scale,
    weighted_quantile_loss,
)
from condiff.evaluate.support import nn_ratio, off_support
from condiff.evaluate.text import (
    bits_per_byte,
    bits_per_token,
    bound_draws,
    cross_entropy,
    known_words,
    token_bound,
    unigram_entropy,
    words_of,
)
from condiff.guidance.observed import pinball

__all__ = [
    "ConditionUse",
    "Copying",
    "Explained",
    "Judge",
    "Judge8",
    "LossRows",
    "Metric",
    "NGram",
    "RandomFeatures",
    "Score",
    "agreement",
    "band_coverage",
    "bits_per_byte",
    "bits_per_dim",
    "bits_per_token",
    "bound_draws",
    "commitment",
    "condition_use",
    "copying",
    "corpus_bleu",
    "coverage",
    "cross_entropy",
    "density",
    "dequantise",
    "distinct",
    "effective_size",
    "energy_score",
    "ensemble_crps",
    "ensemble_quantiles",
    "evaluate_samples",
    "exchange",
    "explained_variance",
    "flat",
    "forecast_scores",
    "frechet",
    "frechet_distance",
    "generative_perplexity",
    "in_place",
    "judge",
    "judge8",
    "judge_facts",
    "kid",
    "known_words",
    "mase",
    "mean_interval",
    "moments",
    "nearest",
    "nn_ratio",
    "off_support",
    "overlap",
    "path_metrics",
    "pinball",
    "pit",
    "pit_scores",
    "precision",
    "radii",
    "recall",
    "rouge_l",
    "seasonal_scale",
    "self_bleu",
    "sentence_bleu",
    "span_energy",
    "tilt",
    "token_bound",
    "trajectory_spectrum",
    "unigram_entropy",
    "weighted_quantile_loss",
    "wilson",
    "words_of",
]
