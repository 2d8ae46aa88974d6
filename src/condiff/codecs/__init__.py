"""Codecs: between what a user holds and what a process corrupts."""

from condiff.codecs.identity import Flatten, Identity, Standardize
from condiff.codecs.lagged import Lagged
from condiff.codecs.tokens import Levels, VectorQuantized
from condiff.codecs.vqvae import VQAutoencoder

__all__ = ["Flatten", "Identity", "Lagged", "Levels", "Standardize", "VQAutoencoder", "VectorQuantized"]
