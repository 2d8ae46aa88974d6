"""Tasks: what a user asks for, as conditions, energies and metrics; no paper is known here."""

from condiff.tasks.generate import SOLVERS, batches, condition_of, sample, solver_named
from condiff.tasks.ready import prepare

__all__ = ["SOLVERS", "batches", "condition_of", "prepare", "sample", "solver_named"]
