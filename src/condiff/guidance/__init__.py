"""Guidance: denoisers around denoisers."""

from condiff.guidance.cfg import CFG, Autoguidance, Composed, Everywhere, Interval, Rescaled, from_omega
from condiff.guidance.classified import BestTokens, Classified, EveryToken, Judge, Ratios, Taylor
from condiff.guidance.energy import Classifier, CleanLoss, Energy, Guided, Sum, pulled
from condiff.guidance.experts import ByTime
from condiff.guidance.given import GivenTokens
from condiff.guidance.linear import LinearReward
from condiff.guidance.memo import Memo, expected_calls, expected_changes
from condiff.guidance.observed import FLAGS, LEVEL, OBSERVED, Pinball, SquaredError, pinball
from condiff.guidance.residual import ANCHOR, ResidualCFG, by_first, by_input
from condiff.guidance.tokens import Temperature, TopK, TopP

__all__ = [
    "ANCHOR",
    "CFG",
    "FLAGS",
    "LEVEL",
    "OBSERVED",
    "Autoguidance",
    "BestTokens",
    "ByTime",
    "Classified",
    "Classifier",
    "CleanLoss",
    "Composed",
    "Energy",
    "EveryToken",
    "Everywhere",
    "GivenTokens",
    "Guided",
    "Interval",
    "Judge",
    "LinearReward",
    "Memo",
    "Pinball",
    "Ratios",
    "Rescaled",
    "ResidualCFG",
    "SquaredError",
    "Sum",
    "Taylor",
    "Temperature",
    "TopK",
    "TopP",
    "by_first",
    "by_input",
    "expected_calls",
    "expected_changes",
    "from_omega",
    "pinball",
    "pulled",
]
