"""Objectives: losses that return one number a row."""

from condiff.objectives.denoising import Denoising, Dropping, MinSNR, Weight
from condiff.objectives.tokens import MaskedTokens

__all__ = ["Denoising", "Dropping", "MaskedTokens", "MinSNR", "Weight"]
