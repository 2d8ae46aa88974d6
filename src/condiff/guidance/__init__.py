"""Guidance: denoisers around denoisers."""

from condiff.guidance.cfg import CFG, Autoguidance, Composed, Everywhere, Interval, Rescaled, from_omega
from condiff.guidance.energy import Classifier, CleanLoss, Energy, Guided, Sum

__all__ = [
    "CFG",
    "Autoguidance",
    "Classifier",
    "CleanLoss",
    "Composed",
    "Energy",
    "Everywhere",
    "Guided",
    "Interval",
    "Rescaled",
    "Sum",
    "from_omega",
]
