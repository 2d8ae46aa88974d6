"""Oracles: exact denoisers in closed form, to test your own solvers, guidance and metrics with."""

from condiff.oracles.flowmap import GaussianMap
from condiff.oracles.gaussian import DataSetIdeal, GaussianData, MixtureData
from condiff.oracles.table import TokenTable

__all__ = ["DataSetIdeal", "GaussianData", "GaussianMap", "MixtureData", "TokenTable"]
