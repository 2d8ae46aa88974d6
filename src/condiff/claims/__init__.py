"""Claims: each system's small experiment on real data, its baseline, and a verdict computed from the rows."""

from condiff.claims.claim import Experiment, Result, Row, over_seeds, share, single

__all__ = ["Experiment", "Result", "Row", "over_seeds", "share", "single"]
