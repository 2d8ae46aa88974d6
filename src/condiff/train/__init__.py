"""Training: `fit`, run folders, checkpoints that survive a kill, and exact resume."""

from condiff.train.checkpoint import Stored, latest
from condiff.train.fit import Progress, Report, fit
from condiff.train.recipe import Recipe, recipe
from condiff.train.run import held_out_loss, train
from condiff.train.settings import Training
from condiff.train.trackers import Tracker, tracker
from condiff.train.workers import Alone, Together, Workers, workers

__all__ = [
    "Alone",
    "Progress",
    "Recipe",
    "Report",
    "Stored",
    "Together",
    "Tracker",
    "Training",
    "Workers",
    "fit",
    "held_out_loss",
    "latest",
    "recipe",
    "tracker",
    "train",
    "workers",
]
