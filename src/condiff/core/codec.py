"""The codec protocol: between what a user holds and what the process corrupts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from condiff.core.condition import Condition


class Codec(Protocol):
    """Identity, Standardize, Haar, an autoencoder, tokens. Some decode with the condition (a reference image)."""

    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Map data to the space of the process."""
        ...

    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Map samples of the process back to data."""
        ...
