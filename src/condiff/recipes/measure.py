"""What data decide about a recipe: sample shape, condition schema, scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from condiff.core.condition import ClassLabel, Kind, Picture, Series, TokenIds, Vector, schema_to_json
from condiff.data.batch import Dataset, Splits


def schema_of(data: Dataset) -> dict[str, Kind]:
    """Read the condition schema off a data set: names, kinds and sizes.

    Raises:
        ValueError: If a condition is of a kind that no network reads.
    """
    known = data.meta.get("conditions", {})
    facts: Mapping[str, Mapping[str, Any]] = known if isinstance(known, Mapping) else {}
    return {name: _kind(name, value.shape, data, facts.get(name, {})) for name, value in data.conditions.items()}


def _kind(name: str, shape: tuple[int, ...], data: Dataset, facts: Mapping[str, Any]) -> Kind:
    match facts.get("kind"):
        case "class":
            return ClassLabel(int(facts["num_classes"]), tuple(data.labels.get(name, ())))
        case "vector":
            return Vector(shape[1])
        case "tokens":
            return TokenIds(shape[1], int(facts["vocabulary"]))
        case "picture":
            return Picture(shape[1])
        case "series":
            return Series(shape[1], shape[2])
    raise ValueError(f"{data.name}: condition {name!r} of shape {tuple(shape)} is of no kind a network can read")


def about(data: Dataset) -> dict[str, Any]:
    """Collect what a checkpoint should remember of its data."""
    return {
        "name": data.name,
        "kind": data.kind,
        "rows": len(data),
        "labels": {name: list(labels) for name, labels in data.labels.items()},
        "meta": dict(data.meta),
    }


def images_of(splits: Splits) -> dict[str, Any]:
    """Measure images: shape, conditions and root mean square."""
    data = splits.train
    if data.kind not in ("images", "volumes"):
        raise ValueError(f"{data.name} holds {data.kind}, but this recipe needs images")
    rms = float(data.data[:2000].float().square().mean().sqrt())
    pixels = data.data.shape[-1] * data.data.shape[-2]
    return {
        "shape": list(data.data.shape[1:]),
        "conditions": schema_to_json(schema_of(data)),
        "size": "digits" if pixels <= 32 * 32 else "small",
        "rms": round(rms, 3) or 1.0,
        "about": about(data),
    }


def vectors_of(splits: Splits) -> dict[str, Any]:
    """Measure vectors or poses: number of features and conditions."""
    data = splits.train
    if data.kind not in ("vectors", "poses") or data.data.ndim < 2:
        raise ValueError(f"{data.name} holds {data.kind}, but this recipe needs vectors")
    return {"shape": list(data.data.shape[1:]), "conditions": schema_to_json(schema_of(data)), "about": about(data)}


def text_of(splits: Splits) -> dict[str, Any]:
    """Measure tokens: length, vocabulary and conditions."""
    data = splits.train
    if data.kind != "text":
        raise ValueError(f"{data.name} holds {data.kind}, but this recipe needs text")
    return {
        "length": data.data.shape[1],
        "vocabulary": int(cast(int, data.meta["vocabulary"])),
        "conditions": schema_to_json(schema_of(data)),
        "about": about(data),
    }


FEW_WINDOWS = 6000
"""Below so many training windows a network of the full width learns them by heart: on 2,742 windows of nine monthly
series, width 64 put 60 % of true values into its 90 % band, and width 32, trained shorter, 95 %."""


def windows_of(splits: Splits) -> dict[str, Any]:
    """Measure windows of series: how they are laid out, and conditions."""
    data = splits.train
    if data.kind != "series" or "window" not in data.meta:
        raise ValueError(f"{data.name} holds {data.kind} without a horizon, but this recipe needs series to forecast")
    return {
        "window": data.meta["window"],
        "conditions": schema_to_json(schema_of(data)),
        "about": about(data),
    }


def series_of(splits: Splits) -> dict[str, Any]:
    """Measure windows of series, and how large a network they can teach."""
    few = len(splits.train) < FEW_WINDOWS
    size = {"width": 32 if few else 96, "depth": 2 if few else 3, "drop": 0.5 if few else 0.1}
    return {**windows_of(splits), **size}
