"""Objectives: losses that return one number a row."""

from condiff.objectives.bound import Bound, Hybrid, step_divergence
from condiff.objectives.consistency import CTM, Consistency, Curriculum
from condiff.objectives.coupled import Coupled
from condiff.objectives.denoising import Antithetic, Denoising, Dropping, MinSNR, Unpaired, Weight
from condiff.objectives.distillation import Eulerian, Lagrangian, Semigroup
from condiff.objectives.meanflow import MeanFlow
from condiff.objectives.pseudo import PseudoLabels
from condiff.objectives.revealing import Revealing
from condiff.objectives.tokens import AnyOrder, MaskedTokens, ScoreEntropy, TimeCrossEntropy

__all__ = [
    "CTM",
    "Antithetic",
    "AnyOrder",
    "Bound",
    "Consistency",
    "Coupled",
    "Curriculum",
    "Denoising",
    "Dropping",
    "Eulerian",
    "Hybrid",
    "Lagrangian",
    "MaskedTokens",
    "MeanFlow",
    "MinSNR",
    "PseudoLabels",
    "Revealing",
    "ScoreEntropy",
    "Semigroup",
    "TimeCrossEntropy",
    "Unpaired",
    "Weight",
    "step_divergence",
]
