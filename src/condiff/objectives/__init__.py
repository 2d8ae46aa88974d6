"""Objectives: losses that return one number a row."""

from condiff.objectives.blocks import BlockOrder
from condiff.objectives.bound import Bound, Hybrid, step_divergence
from condiff.objectives.consistency import CTM, Consistency, Curriculum
from condiff.objectives.contrastive import (
    CleanError,
    Contrastive,
    Difference,
    Form,
    InfoNCE,
    Listed,
    Negatives,
    OtherRows,
    Score,
    Shuffled,
    rising,
)
from condiff.objectives.coupled import Coupled
from condiff.objectives.denoising import Antithetic, Denoising, Dropping, MinSNR, Unpaired, Weight
from condiff.objectives.distillation import Eulerian, Lagrangian, Semigroup
from condiff.objectives.embedding import EmbeddingDenoising, SelfConditioned
from condiff.objectives.importance import ImportanceSampled
from condiff.objectives.meanflow import MeanFlow
from condiff.objectives.pseudo import PseudoLabels
from condiff.objectives.replace import CleanNats, StepBound, StepNats
from condiff.objectives.revealing import SCENARIOS, Hiding, Measured, Revealing, hiding
from condiff.objectives.tokens import AnyOrder, MaskedTokens, ScoreEntropy, TimeCrossEntropy

__all__ = [
    "CTM",
    "SCENARIOS",
    "Antithetic",
    "AnyOrder",
    "BlockOrder",
    "Bound",
    "CleanError",
    "CleanNats",
    "Consistency",
    "Contrastive",
    "Coupled",
    "Curriculum",
    "Denoising",
    "Difference",
    "Dropping",
    "EmbeddingDenoising",
    "Eulerian",
    "Form",
    "Hiding",
    "Hybrid",
    "ImportanceSampled",
    "InfoNCE",
    "Lagrangian",
    "Listed",
    "MaskedTokens",
    "MeanFlow",
    "Measured",
    "MinSNR",
    "Negatives",
    "OtherRows",
    "PseudoLabels",
    "Revealing",
    "Score",
    "ScoreEntropy",
    "SelfConditioned",
    "Semigroup",
    "Shuffled",
    "StepBound",
    "StepNats",
    "TimeCrossEntropy",
    "Unpaired",
    "Weight",
    "hiding",
    "rising",
    "step_divergence",
]
