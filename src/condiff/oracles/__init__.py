"""Oracles: denoisers in closed form, to test solvers, guidance and metrics with, and to start sampling late from."""

from condiff.oracles.bridge import Mixture, MixtureBridge
from condiff.oracles.embedding import EmbeddedTokens
from condiff.oracles.fitted import Fitted
from condiff.oracles.flowmap import GaussianMap
from condiff.oracles.gaussian import DataSetIdeal, GaussianData, MixtureData
from condiff.oracles.mixtures import endpoints, patches, ring
from condiff.oracles.spectrum import Spectrum, clusters
from condiff.oracles.table import TokenTable

__all__ = [
    "DataSetIdeal",
    "EmbeddedTokens",
    "Fitted",
    "GaussianData",
    "GaussianMap",
    "Mixture",
    "MixtureBridge",
    "MixtureData",
    "Spectrum",
    "TokenTable",
    "clusters",
    "endpoints",
    "patches",
    "ring",
]
