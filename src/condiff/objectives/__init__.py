"""Objectives: losses that return one number a row."""

from condiff.objectives.denoising import Denoising, Dropping, MinSNR, Weight
from condiff.objectives.tokens import AnyOrder, MaskedTokens, ScoreEntropy, TimeCrossEntropy

__all__ = [
    "AnyOrder",
    "Denoising",
    "Dropping",
    "MaskedTokens",
    "MinSNR",
    "ScoreEntropy",
    "TimeCrossEntropy",
    "Weight",
]
