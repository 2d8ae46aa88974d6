"""Solvers: interval maps that carry a state from one time to another."""

from condiff.solvers.adams import Adams
from condiff.solvers.implicit import Implicit
from condiff.solvers.jump import Jump
from condiff.solvers.multistep import Multistep, UniPC
from condiff.solvers.rungekutta import Euler, Heun, Midpoint
from condiff.solvers.sde import SDE, Anderson, Corrected, Diffusion, Langevin, Proportional
from condiff.solvers.tokens import FirstHitting, Ordered, TokenEuler

__all__ = [
    "SDE",
    "Adams",
    "Anderson",
    "Corrected",
    "Diffusion",
    "Euler",
    "FirstHitting",
    "Heun",
    "Implicit",
    "Jump",
    "Langevin",
    "Midpoint",
    "Multistep",
    "Ordered",
    "Proportional",
    "TokenEuler",
    "UniPC",
]
