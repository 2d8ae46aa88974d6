"""Solvers: interval maps that carry a state from one time to another."""

from condiff.solvers.adams import Adams
from condiff.solvers.evodiff import Direct, Ending, EVODiff, PerChannel, PerSample, Pool, Predicted, Released
from condiff.solvers.implicit import Implicit
from condiff.solvers.jump import Jump
from condiff.solvers.multistep import Multistep, UniPC
from condiff.solvers.observed import SelfGuided
from condiff.solvers.perturbed import Perturbed
from condiff.solvers.renoise import Renoise
from condiff.solvers.rungekutta import Euler, Heun, Midpoint
from condiff.solvers.sde import SDE, Anderson, Bump, Constant, Corrected, Diffusion, Langevin, Proportional
from condiff.solvers.teleport import Known, Prior, Teleport, at_noise
from condiff.solvers.tokens import FirstHitting, Gained, Nucleus, Ordered, TokenEuler

__all__ = [
    "SDE",
    "Adams",
    "Anderson",
    "Bump",
    "Constant",
    "Corrected",
    "Diffusion",
    "Direct",
    "EVODiff",
    "Ending",
    "Euler",
    "FirstHitting",
    "Gained",
    "Heun",
    "Implicit",
    "Jump",
    "Known",
    "Langevin",
    "Midpoint",
    "Multistep",
    "Nucleus",
    "Ordered",
    "PerChannel",
    "PerSample",
    "Perturbed",
    "Pool",
    "Predicted",
    "Prior",
    "Proportional",
    "Released",
    "Renoise",
    "SelfGuided",
    "Teleport",
    "TokenEuler",
    "UniPC",
    "at_noise",
]
