"""Codecs: between what a user holds and what a process corrupts."""

from condiff.codecs.identity import Flatten, Identity, Standardize

__all__ = ["Flatten", "Identity", "Standardize"]
