"""The core: types, protocols and drivers that everything else is made of."""

from condiff.core.codec import Codec
from condiff.core.condition import (
    ClassLabel,
    Condition,
    Embeddings,
    Kind,
    Picture,
    Series,
    TokenIds,
    Vector,
    schema_from_json,
    schema_to_json,
)
from condiff.core.denoiser import Denoiser, bind
from condiff.core.drivers import rollout, sample, trajectory
from condiff.core.estimate import Affine, Categorical, Estimate, Moments
from condiff.core.likelihood import log_likelihood
from condiff.core.objective import Loss, Objective
from condiff.core.process import Draw, Ended, Flowing, NoiseLaw, Noisy, Process, Rowed, Schedule, Target, Tiltable
from condiff.core.rng import Rng, RowRng, SharedRng, key
from condiff.core.shapes import expand, host, instant
from condiff.core.solver import Solver, State
from condiff.core.system import Call, System

__all__ = [
    "Affine",
    "Call",
    "Categorical",
    "ClassLabel",
    "Codec",
    "Condition",
    "Denoiser",
    "Draw",
    "Embeddings",
    "Ended",
    "Estimate",
    "Flowing",
    "Kind",
    "Loss",
    "Moments",
    "NoiseLaw",
    "Noisy",
    "Objective",
    "Picture",
    "Process",
    "Rng",
    "RowRng",
    "Rowed",
    "Schedule",
    "Series",
    "SharedRng",
    "Solver",
    "State",
    "System",
    "Target",
    "Tiltable",
    "TokenIds",
    "Vector",
    "bind",
    "expand",
    "host",
    "instant",
    "key",
    "log_likelihood",
    "rollout",
    "sample",
    "schema_from_json",
    "schema_to_json",
    "trajectory",
]
