"""A denoiser with other modules beside it."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from condiff.core.condition import Condition


@final
class Beside(nn.Module):
    """Another denoiser, and modules that are no part of it but belong to the system: saved and loaded with its weights.

    Args:
        inner: The denoiser that is trained.
        others: Modules by name, such as a reward; each is an attribute.
    """

    def __init__(self, inner: nn.Module, **others: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        for name, module in others.items():
            self.add_module(name, module)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Any:  # noqa: ANN401 - the inner's estimate
        """Estimate what made x (B, *S) at time t."""
        return self.inner(x, t, cond)
