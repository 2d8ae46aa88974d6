"""Tasks: what a user asks for, as conditions, energies and metrics; no paper is known here."""

from condiff.tasks.generate import SOLVERS, batches, condition_of, sample, solver_named

__all__ = ["SOLVERS", "batches", "condition_of", "sample", "solver_named"]
