"""condiff: conditional diffusion and flow models for any data.

    system = condiff.load("runs/demo")
    images = condiff.sample(system, num_samples=10, cond={"label": list(range(10))}, guidance_scale=2.0, seed=0)

Names are loaded when first used, so that the command line answers `--help` without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condiff import (
        codecs,
        core,
        data,
        evaluate,
        guidance,
        nn,
        objectives,
        oracles,
        process,
        recipes,
        solvers,
        tasks,
        train,
    )
    from condiff.core.condition import Condition
    from condiff.core.system import System
    from condiff.files import load, save
    from condiff.tasks.generate import sample
    from condiff.tasks.ready import prepare
    from condiff.train.fit import fit

__version__ = "0.1.0"

_PACKAGES = (
    "codecs", "core", "data", "evaluate", "guidance", "nn", "objectives", "oracles", "process", "recipes", "solvers",
    "tasks", "train",
)  # fmt: skip
_HOMES = {
    "Condition": "core.condition",
    "System": "core.system",
    "fit": "train.fit",
    "load": "files",
    "prepare": "tasks.ready",
    "sample": "tasks.generate",
    "save": "files",
}

__all__ = [
    "Condition",
    "System",
    "__version__",
    "codecs",
    "core",
    "data",
    "evaluate",
    "fit",
    "guidance",
    "load",
    "nn",
    "objectives",
    "oracles",
    "prepare",
    "process",
    "recipes",
    "sample",
    "save",
    "solvers",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    if name in _PACKAGES:
        return import_module(f"condiff.{name}")
    if name in _HOMES:
        return getattr(import_module(f"condiff.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'condiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
