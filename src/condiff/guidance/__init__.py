"""Guidance: denoisers around denoisers."""

from condiff.guidance.cfg import CFG, Autoguidance, Composed, Everywhere, Interval, Rescaled, from_omega
from condiff.guidance.energy import Classifier, CleanLoss, Energy, Guided, Sum
from condiff.guidance.experts import ByTime
from condiff.guidance.linear import LinearReward
from condiff.guidance.memo import Memo, expected_calls, expected_changes
from condiff.guidance.residual import ANCHOR, ResidualCFG, by_first, by_input
from condiff.guidance.tokens import Temperature, TopK, TopP

__all__ = [
    "ANCHOR",
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
    "ResidualCFG",
    "Sum",
    "Temperature",
    "TopK",
    "TopP",
    "by_first",
    "by_input",
    "expected_calls",
    "expected_changes",
    "from_omega",
]
