"""Guidance: denoisers around denoisers."""

from condiff.guidance.cfg import CFG, Autoguidance, Composed, Everywhere, Interval, Rescaled, from_omega
from condiff.guidance.energy import Classifier, CleanLoss, Energy, Guided, Sum
from condiff.guidance.experts import ByTime
from condiff.guidance.linear import LinearReward
from condiff.guidance.memo import Memo, expected_calls, expected_changes
from condiff.guidance.tokens import Temperature, TopK, TopP

__all__ = [
    "CFG",
    "Autoguidance",
    "ByTime",
    "Classifier",
    "CleanLoss",
    "Composed",
    "Energy",
    "Everywhere",
    "Guided",
    "Interval",
    "LinearReward",
    "Memo",
    "Rescaled",
    "Sum",
    "Temperature",
    "TopK",
    "TopP",
    "expected_calls",
    "expected_changes",
    "from_omega",
]
