"""What can be changed while a stream runs: its values, their limits, and the stream they make of a system."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import ClassLabel, Condition, Picture, Vector
from condiff.core.denoiser import Denoiser
from condiff.core.system import System
from condiff.guidance import CFG, ResidualCFG, by_first, by_input
from condiff.process import Gaussian, Mapped
from condiff.serve.filter import MeanSquare, SimilarityFilter
from condiff.serve.stream import StreamBatch, descent, unchanged
from condiff.solvers import Renoise
from condiff.tasks.generate import condition_of, evaluating

GUIDING = ("none", "full", "one-time", "self")
"""Ways of guiding: not at all, by a second estimate a step, by the first of them, or by the input itself."""


@final
@dataclass(frozen=True)
class Settings:
    """The live controls of one stream.

    Args:
        cond: Classes and numbers by condition name; a name that is left out is asked for nothing.
        strength: How far an input is dissolved, in (0, 1]; at 1 nothing of it is left.
        steps: Steps of a frame, 1 to 16: its calls of the network, and the frames it is late.
        guidance: Guidance scale, 0 to 10.
        delta: Share of the virtual noise in residual guidance, 0 to 1.
        guiding: One of `GUIDING`.
        threshold: Similarity from which still frames may be skipped, 0 to 1; 1 never skips.
        max_skip: Most frames skipped in a row, 0 to 1000.
        seed: Of all noise.
        still: The same noise in every frame.
    """

    cond: Mapping[str, Any] = field(default_factory=dict)
    strength: float = 0.64
    steps: int = 4
    guidance: float = 1.2
    delta: float = 0.5
    guiding: str = "self"
    threshold: float = 1.0
    max_skip: int = 10
    seed: int = 0
    still: bool = True


@final
class Streamer:
    """Makes streams of one system for any settings, and says which settings there are.

    Args:
        system: A system that makes images by a Gaussian process or a flow map on one. A picture condition, if it has
            one, is given the input frame.

    Raises:
        ValueError: If it makes something else.
    """

    def __init__(self, system: System[Any, Any]) -> None:
        if not isinstance(system.process, Gaussian | Mapped):
            kind = type(system.process).__name__
            raise ValueError(f"only systems on noise can be streamed, this one is on {kind}; sample it instead")
        shape = tuple(system.codec.decode(torch.zeros(1, *system.shape)).shape[1:])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"only images of 1 or 3 channels can be streamed, this system makes {shape}")
        strange = [name for name, kind in system.schema.items() if not isinstance(kind, ClassLabel | Vector | Picture)]
        if strange:
            raise ValueError(
                f"condition {strange[0]!r} is neither a class, numbers nor a picture, so it has no control"
            )
        self.system = evaluating(system)
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.pictures = [name for name, kind in system.schema.items() if isinstance(kind, Picture)]
        self.named = {name: kind for name, kind in system.schema.items() if name not in self.pictures}
        residual = isinstance(system.process, Gaussian)
        self.guiding = (GUIDING if residual else GUIDING[:2]) if self.named else GUIDING[:1]
        self.begin = replace(
            Settings(),
            cond={name: 0 for name, kind in self.named.items() if isinstance(kind, ClassLabel)},
            steps=max(1, min(16, system.num_steps)) if system.num_steps <= 8 else 4,
            guiding=self.guiding[-1],
        )

    def schema(self) -> dict[str, Any]:
        """Return the settings as a JSON schema with a title, limits and a default for every control."""
        conditions: dict[str, Any] = {}
        for name, kind in self.named.items():
            if isinstance(kind, ClassLabel):
                labels = list(kind.labels) or [str(k) for k in range(kind.num_classes)]
                conditions[name] = {
                    "title": name, "type": ["integer", "null"], "minimum": 0, "maximum": kind.num_classes - 1,
                    "labels": labels, "default": 0,
                }  # fmt: skip
            elif isinstance(kind, Vector):
                conditions[name] = {
                    "title": name, "type": ["array", "null"], "items": {"type": "number"},
                    "minItems": kind.size, "maxItems": kind.size, "default": None,
                }  # fmt: skip

        def number(title: str, low: float, high: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
            return {"title": title, "type": "number", "minimum": low, "maximum": high, **more}

        def whole(title: str, low: int, high: int) -> dict[str, Any]:
            return {"title": title, "type": "integer", "minimum": low, "maximum": high}

        controls: dict[str, Any] = {
            "cond": {"title": "conditions", "type": "object", "properties": conditions, "additionalProperties": False},
            "strength": number("strength", 0.05, 1.0, description="1 forgets the input"),
            "steps": whole("steps", 1, 16),
            "guidance": number("guidance", 0.0, 10.0, description="residual guidance explodes above 1.6"),
            "delta": number("delta", 0.0, 1.0, description="strength of the virtual negative"),
            "guiding": {"title": "guiding", "type": "string", "enum": list(self.guiding)},
            "threshold": number("skip still frames from", 0.0, 1.0, description="1 never skips"),
            "max_skip": whole("at most in a row", 0, 1000),
            "seed": whole("seed", 0, 2**31 - 1),
            "still": {"title": "the same noise in every frame", "type": "boolean"},
        }
        defaults = self.to_json(self.begin)
        for name, control in controls.items():
            control["default"] = defaults[name]
        return {"type": "object", "properties": controls, "additionalProperties": False}

    @staticmethod
    def to_json(settings: Settings) -> dict[str, Any]:
        """Return settings as plain JSON."""
        return {name: getattr(settings, name) for name in Settings.__dataclass_fields__} | {"cond": dict(settings.cond)}

    def changed(self, settings: Settings, change: object) -> Settings:
        """Apply a change, JSON of some of the settings.

        Raises:
            ValueError: If it is no object, or a name or value is wrong; the settings then stay as they are.
        """
        controls = self.schema()["properties"]
        wanted = _object(change, "settings")
        for name, value in wanted.items():
            _known(name, controls, "setting")
            if name != "cond":
                _check(name, value, controls[name])
        cond = dict(settings.cond)
        for name, value in _object(wanted.get("cond", {}), "cond").items():
            _known(name, controls["cond"]["properties"], "condition")
            _check(name, value, controls["cond"]["properties"][name])
            cond[name] = value
        return replace(
            settings, **{**wanted, "cond": {name: value for name, value in cond.items() if value is not None}}
        )

    def condition(self, settings: Settings, frame: Tensor) -> Condition | None:
        """Return the condition of one frame, (1, ...) each; a name without a value is absent."""
        cond = condition_of(self.system, {name: [value] for name, value in settings.cond.items()}, range(1))
        return cond if cond is None else cond.adding(**dict.fromkeys(self.pictures, frame))

    def stream(self, settings: Settings) -> StreamBatch[Any]:
        """Return the stream of these settings."""
        system, remember = self.system, unchanged
        denoiser: Denoiser[Any] = system.denoiser
        asked = any(value is not None for value in settings.cond.values())
        if asked and settings.guiding == "full":
            denoiser = CFG(denoiser, settings.guidance, tuple(self.named))
        elif asked and settings.guiding in ("self", "one-time"):
            denoiser = ResidualCFG(denoiser, system.process, settings.guidance, settings.delta, tuple(self.named))
            chosen: Callable[..., Any] = by_input if settings.guiding == "self" else by_first
            remember = chosen
        return StreamBatch(
            system.process,
            denoiser,
            Renoise() if isinstance(system.process, Gaussian) else system.solver,
            descent(settings.strength, settings.steps),
            codec=system.codec,
            seed=settings.seed,
            still=settings.still,
            remember=remember,
        )

    @staticmethod
    def filter(settings: Settings) -> SimilarityFilter:
        """Return the filter of these settings."""
        return SimilarityFilter(settings.threshold, settings.max_skip, MeanSquare())


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def _known(name: str, names: Mapping[str, Any], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(str(name), list(names), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names) or 'none'}"
        raise ValueError(f"no {what} is named {str(name)[:40]!r}{hint}")


def _check(name: str, value: object, control: Mapping[str, Any]) -> None:
    """Check one value against its control."""
    kinds = control["type"] if isinstance(control["type"], list) else [control["type"]]
    if value is None and "null" in kinds:
        return
    flag = isinstance(value, bool)
    if "boolean" in kinds and flag:
        return
    if "string" in kinds and value in control["enum"]:
        return
    low, high = control.get("minimum", -math.inf), control.get("maximum", math.inf)
    if "integer" in kinds and isinstance(value, int) and not flag and low <= value <= high:
        return
    if "number" in kinds and isinstance(value, int | float) and not flag and low <= value <= high:
        return
    if "array" in kinds and isinstance(value, list) and len(value) == control["minItems"]:
        if all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in value):
            return
    limits = control.get("enum") or (f"{low:g} to {high:g}" if "minimum" in control else "see the schema")
    raise ValueError(f"{name} must be {' or '.join(kinds)} ({limits}), got {str(value)[:40]!r}")
