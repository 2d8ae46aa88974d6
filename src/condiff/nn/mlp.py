"""A residual perceptron for vectors: tables, two-dimensional toys, latents without a grid."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from condiff.core.condition import ClassLabel, Condition, Kind, Vector
from condiff.nn.embed import Conditions, TimeEmbedding
from condiff.nn.init import initialise
from condiff.nn.layout import check_time
from condiff.nn.norm import modulate, rms_norm


class MLP(nn.Module):
    """A residual perceptron on states (B, F) with one time per sample; zero when fresh.

    h = W0 x; h += down(silu(up(norm(h) * (1 + scale) + shift))) for every block; out = W1 norm(h)

    Args:
        features: F, features of a state.
        width: Features of the residual stream and of the embedding of time and condition.
        num_blocks: Number of residual blocks.
        schema: Condition names and kinds; classes and vectors only.
        out_features: Features out; those of the state if None. A net of K - 1 heads has a multiple of those.
        max_frequency: Highest angular frequency of the time embedding, see `TimeEmbedding`.
        min_frequency: Lowest angular frequency of the time embedding.

    Raises:
        ValueError: If a number is not positive.
        TypeError: If the schema has a kind that needs a grid or cross-attention.
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        num_blocks: int = 3,
        *,
        schema: Mapping[str, Kind] | None = None,
        out_features: int | None = None,
        max_frequency: float = 1000.0,
        min_frequency: float = 0.1,
    ) -> None:
        super().__init__()
        if min(features, width, num_blocks) < 1:
            raise ValueError(f"an MLP needs positive numbers, got {features=}, {width=}, {num_blocks=}")
        for name, kind in (schema or {}).items():
            if not isinstance(kind, ClassLabel | Vector):
                raise TypeError(
                    f"an MLP reads classes and vectors, {name!r} is {type(kind).__name__}; use a DiT or UNet"
                )
        self.features = features
        self.time = TimeEmbedding(width, max_frequency=max_frequency, min_frequency=min_frequency)
        self.conditions = Conditions(schema or {}, width=width, context_width=width)
        self.enter = nn.Linear(features, width)
        self.film = nn.Linear(width, 2 * num_blocks * width)
        self.up = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(num_blocks)])
        self.down = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(num_blocks)])
        self.out = nn.Linear(width, features if out_features is None else out_features)
        initialise(self, zero=[self.out, *self.down])

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: State (B, F).
            t: Process times in [0, 1], () or (B,).
            cond: Conditions by name; None, a missing name and an absent row all mean the learned null.

        Returns: A tensor shaped like x, or with out_features features, in x's dtype.

        Raises:
            ValueError: If the shape of x, t or a condition does not fit, or a condition's name is unknown.
        """
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"expected states (B, {self.features}), got shape {tuple(x.shape)}")
        check_time(t, x.shape[0], ())
        self.conditions.check(cond, x.shape[0])
        embedding = self.time(t.reshape(1) if t.ndim == 0 else t)
        said = self.conditions(cond)
        embedding = embedding if said.vector is None else embedding + said.vector
        h = self.enter(x.to(self.enter.weight.dtype))
        films = self.film(nn.functional.silu(embedding)).chunk(2 * len(self.up), -1)
        for up, down, scale, shift in zip(self.up, self.down, films[::2], films[1::2], strict=True):
            h = h + down(nn.functional.silu(up(modulate(rms_norm(h), scale, shift))))
        out: Tensor = self.out(rms_norm(h))
        return out.to(x.dtype)
