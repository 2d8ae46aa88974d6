"""The network a recipe puts its process around: a perceptron for vectors and tiny pictures, a U-Net for grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from condiff.codecs import Flatten, Identity
from condiff.core.codec import Codec
from condiff.core.condition import Kind, schema_to_json
from condiff.data.batch import Splits
from condiff.nn import MLP, Grid, UNet, UNetSize
from condiff.recipes.measure import about, schema_of


@final
@dataclass(frozen=True)
class Body:
    """A network, and how data are laid out for it.

    Args:
        net: Called as net(x, t, cond); x is (B, *shape).
        codec: Between data and that layout.
        shape: Shape (*S) of one state.
    """

    net: nn.Module
    codec: Codec
    shape: tuple[int, ...]


def body(
    shape: Sequence[int],
    size: str,
    *,
    schema: Mapping[str, Kind] | None = None,
    heads: int = 1,
    frequencies: tuple[float, float] = (0.1, 1000.0),
) -> Body:
    """Build a network for data of a shape.

    Args:
        shape: Shape of one example: (F,), (J, D), (C, H, W) or (C, D, H, W).
        size: "flat" is a perceptron of three blocks of 256 on flat states of any shape; "tiny", "digits", "small" and
            "base" are U-Nets on (C, *grid).
        schema: Conditions that the network reads.
        heads: How many values of the data's shape the network returns, stacked on axis 1: K - 1 for a process with K
            hidden variables.
        frequencies: Lowest and highest angular frequency of the time embedding; flow maps need (0.05, 5).

    Raises:
        ValueError: If a U-Net is asked for data without a grid, or there is no such size.
    """
    low, high = frequencies
    features = math.prod(shape)
    if size == "flat":
        net: nn.Module = MLP(
            features, 256, 3, schema=schema, out_features=heads * features, min_frequency=low, max_frequency=high
        )
        codec: Codec = Identity() if len(shape) == 1 else Flatten(tuple(shape))
        return Body(net, codec, (features,))
    if len(shape) < 2 or size not in ("tiny", "digits", "small", "base"):
        raise ValueError(f"no body of size {size!r} for data of shape {tuple(shape)}; size flat fits any data")
    channels, *grid = shape
    net = UNet(
        Grid(channels, len(grid)),
        getattr(UNetSize, size)(),
        schema=schema,
        out_channels=heads * channels,
        min_frequency=low,
        max_frequency=high,
    )
    return Body(net, Identity(), (channels, *grid))


def measured(splits: Splits) -> dict[str, Any]:
    """Read off the data what such a recipe cannot know: shape, conditions, size of the network, spread.

    Raises:
        ValueError: If the data are of a kind that these networks do not read.
    """
    data = splits.train
    if data.kind not in ("images", "volumes", "vectors", "poses"):
        raise ValueError(f"{data.name} holds {data.kind}, but this recipe needs images, volumes, vectors or poses")
    shape = data.data.shape[1:]
    cells = math.prod(shape)
    gridded = data.kind in ("images", "volumes") and cells > 256
    return {
        "shape": list(shape),
        "conditions": schema_to_json(schema_of(data)),
        "size": ("digits" if cells <= 32 * 32 else "small") if gridded else "flat",
        "std": round(float(data.data[:2000].float().std()), 3) or 1.0,
        "about": about(data),
    }
