"""Recipes: functions whose keyword arguments are the whole configuration of a system."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from condiff.core.system import Call, System
from condiff.data.batch import Splits
from condiff.train.settings import Training


@final
@dataclass(frozen=True)
class Recipe:
    """A named function of keyword arguments that returns a system.

    Calling it records the bound arguments in the system, so that a checkpoint can call it again.

    Args:
        name: The name users type.
        build: The function itself.
        data: Name of the data it is trained on by default; "" if the user must bring some.
        measure: Reads the arguments that data decide (shape, classes, statistics) off the splits; see `measured`.
        training: Default training settings.
        columns: Options whose values name conditions that the data must have; columns of a table are read as such.
        reads: Options of `read` that its data are read with unless the user says otherwise.
        told: Options that `measure` wants to know, as keyword arguments, where they are given.
    """

    name: str
    build: Callable[..., System[Any, Any]]
    data: str
    measure: Callable[..., Mapping[str, Any]]
    training: Training
    columns: tuple[str, ...] = ()
    reads: Mapping[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ()

    def measured(self, splits: Splits, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the arguments for data: what the splits decide, and over it the options that are given."""
        told = {name: options[name] for name in self.told if name in options}
        return {**self.measure(splits, **told), **options}

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @property
    def signature(self) -> inspect.Signature:
        """The function's signature; its parameters are the options."""
        return inspect.signature(self.build)

    def __call__(self, **arguments: Any) -> System[Any, Any]:  # noqa: ANN401
        """Build the system with defaults filled in.

        Raises:
            TypeError: If an argument is unknown, or cannot be written as JSON.
        """
        bound = self.signature.bind(**arguments)
        bound.apply_defaults()
        try:
            plain = json.loads(json.dumps(bound.arguments, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(f"arguments of recipe {self.name!r} must be plain JSON values: {error}") from None
        return replace(self.build(**arguments), call=Call(self.name, plain))


def recipe(
    *,
    data: str = "",
    measure: Callable[..., Mapping[str, Any]] | None = None,
    training: Training | None = None,
    columns: tuple[str, ...] = (),
    reads: Mapping[str, Any] | None = None,
    told: tuple[str, ...] = (),
) -> Callable[[Callable[..., System[Any, Any]]], Recipe]:
    """Turn a function of keyword arguments into a recipe of its name.

    Args:
        data: Name of the data it is trained on by default.
        measure: Reads the arguments that data decide off the splits; none by default.
        training: Default training settings.
        columns: Options whose values name conditions that the data must have.
        reads: Options of `read` that its data are read with unless the user says otherwise.
        told: Options that `measure` wants to know, as keyword arguments, where they are given.
    """

    def wrap(build: Callable[..., System[Any, Any]]) -> Recipe:
        return Recipe(
            build.__name__,
            build,
            data,
            measure or (lambda splits: {}),
            training or Training(),
            columns,
            reads or {},
            told,
        )

    return wrap
