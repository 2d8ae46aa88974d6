"""Trackers: optional services that a run reports to besides its own files. Each is imported only when named."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, final


class Tracker(Protocol):
    """Somewhere to send numbers and pictures."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        ...

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture file of a step."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


def _module(name: str, package: str) -> Any:  # noqa: ANN401 - a foreign module
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"tracker needs the package {package}: pip install {package}") from None


@final
class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self._writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


@final
class WandbLike:
    """Weights & Biases, or trackio, which has the same calls."""

    def __init__(self, run: Path, config: Mapping[str, Any], package: str) -> None:
        self._module = _module(package, package)
        self._module.init(project="condiff", name=run.name, config=dict(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        self._module.log(dict(values), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture."""
        self._module.log({name: self._module.Image(str(path))}, step=step)

    def close(self) -> None:
        """End the run."""
        self._module.finish()


@final
class MLflow:
    """An MLflow run, where MLFLOW_TRACKING_URI points or under ./mlruns."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self._module = _module("mlflow", "mlflow")
        self._module.start_run(run_name=run.name)
        self._module.log_dict(dict(config), "config.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        self._module.log_metrics(dict(values), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Record a picture file."""
        self._module.log_artifact(str(path), "samples")

    def close(self) -> None:
        """End the run."""
        self._module.end_run()


_OURS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": lambda run, config: WandbLike(run, config, "trackio"),
    "wandb": lambda run, config: WandbLike(run, config, "wandb"),
}


def tracker(name: str, run: Path, config: Mapping[str, Any]) -> Tracker:
    """Open a tracker by name: ours, or a plugin's (entry-point group `condiff.trackers`).

    Raises:
        ValueError: If there is none of that name, or its package is not installed.
    """
    if name in _OURS:
        return _OURS[name](run, config)
    plugins = {point.name: point for point in entry_points(group="condiff.trackers")}
    if name in plugins:
        made: Tracker = plugins[name].load()(run, config)
        return made
    known = sorted({*_OURS, *plugins})
    near = difflib.get_close_matches(name, known, 1, 0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no tracker named {name!r}{hint} There are {', '.join(known)}")
