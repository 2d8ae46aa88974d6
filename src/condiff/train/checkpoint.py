"""Checkpoints: safetensors and JSON, whole or absent whatever kills the process.

A run folder holds `checkpoint-<step>/` (model, ema and optimizer weights, state.json) and `model.safetensors`, the
averaged weights with a header that is enough to build the system again. Everything is written under a temporary name in
the same folder, flushed to the disk, and then renamed: a reader sees the old one or the new one, never a part.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from condiff.core.condition import schema_to_json
from condiff.core.system import System
from condiff.train.atomic import named, sync_folder
from condiff.train.atomic import write_atomically as write_atomically
from condiff.train.fit import Progress, lay_out, module_of
from condiff.train.packing import KEY, brief, pack
from condiff.train.packing import tensors_of as tensors_of
from condiff.train.recipe import Recipe
from condiff.train.settings import Training

FORMAT = 1
WEIGHTS = "model.safetensors"
_PREFIX = "checkpoint-"


@final
@dataclass(frozen=True)
class Stored:
    """What a weights file holds.

    Args:
        path: The file.
        header: Recipe, arguments, schema, shape, data and versions, as plain JSON.
        tensors: Weights by name.
    """

    path: Path
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def header_of(system: System[Any, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - plain JSON
    """Describe a system so that it can be built again.

    Raises:
        ValueError: If the system was not made by a recipe.
    """
    from condiff import __version__

    if system.call is None:
        raise ValueError(
            "only a system made by a recipe can be saved: decorate its function with condiff.recipes.recipe"
        )
    return {
        "format": FORMAT,
        "library": __version__,
        "torch": torch.__version__,
        "recipe": system.call.name,
        "arguments": dict(system.call.arguments),
        "schema": schema_to_json(system.schema),
        "shape": list(system.shape),
        "num_steps": system.num_steps,
        "guidance_scale": system.guidance_scale,
        "data": dict(system.data),
        **more,
    }


def save(system: System[Any, Any], path: str | os.PathLike[str], **more: Any) -> None:  # noqa: ANN401 - plain JSON
    """Save a system's weights to one file that is enough by itself.

    Args:
        system: A system made by a recipe, with a module as denoiser.
        path: A `.safetensors` file.
        **more: Further plain values for the header, such as step and seed.

    Raises:
        ValueError: If the system was not made by a recipe.
        TypeError: If its denoiser has no weights.
    """
    write_atomically(Path(path), pack(module_of(system).state_dict(), header_of(system, **more)))


def read(path: str | os.PathLike[str]) -> Stored:
    """Read weights and header from a run folder, a checkpoint folder or a single file.

    A checkpoint folder's averaged weights are read.

    Raises:
        FileNotFoundError: If there is nothing to read.
        ValueError: If the file is damaged, of a newer format, or not written by this library.
    """
    file = weights_file(Path(path))
    header = read_header(file)
    return Stored(file, header, tensors_of(file))


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file's header without its tensors; errors as for `read`."""
    file = weights_file(Path(path))
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged or not a safetensors file ({brief(error)}); use another checkpoint"
        ) from None
    if KEY not in metadata:
        raise ValueError(f"{file} was not written by condiff: its header names no recipe")
    try:
        header = json.loads(metadata[KEY])
        version = int(header["format"])
        if version <= FORMAT and not (isinstance(header["recipe"], str) and isinstance(header["arguments"], dict)):
            raise TypeError("recipe and arguments")
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{file} has a header that cannot be read; use another checkpoint") from None
    if version > FORMAT:
        raise ValueError(
            f"{file} is of format {version} (condiff {header.get('library', '?')}), newer than {FORMAT}, "
            "this library's; upgrade condiff"
        )
    return dict(header)


def weights_file(path: Path) -> Path:
    """Find the weights file of a run folder, a checkpoint folder (its averaged weights) or a file itself.

    Raises:
        FileNotFoundError: If there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        for name in (WEIGHTS,) if not path.name.startswith(_PREFIX) else ("ema.safetensors",):
            if (path / name).is_file():
                return path / name
        newest = latest(path)
        if newest is not None:
            return newest / "ema.safetensors"
        raise FileNotFoundError(f"{path} holds no {WEIGHTS} and no checkpoint; train first, or give another folder")
    raise FileNotFoundError(f"nothing at {path}; expected a run folder, a checkpoint folder or a .safetensors file")


def load(path: str | os.PathLike[str], find: Callable[[str], Recipe]) -> System[Any, Any]:
    """Build the system that a file describes by calling its recipe again, and give it the file's weights.

    Args:
        path: Run folder, checkpoint folder or file.
        find: Looks a recipe up by name.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If the file is damaged, newer, or does not fit its recipe.
    """
    stored = read(path)
    recipe = find(str(stored.header["recipe"]))
    try:
        system = recipe(**stored.header["arguments"])
    except TypeError as error:
        raise ValueError(
            f"{stored.path}: recipe {recipe.name!r} of this version does not take its arguments: {error}"
        ) from None
    restore(lay_out(system).eval(), stored.tensors, stored.path)
    return system


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a module its weights, all of them.

    Raises:
        ValueError: If a name or shape differs; the message names the first.
    """
    own = module.state_dict()
    different = sorted(own.keys() ^ tensors.keys())
    if different:
        where = "lacks" if different[0] in own else "has unknown"
        raise ValueError(f"{path} {where} weight {different[0]!r}: it belongs to another network")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise ValueError(f"{path}: weight {name!r} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}")
    module.load_state_dict(dict(tensors))


def checkpoints(run: Path) -> list[Path]:
    """List a run's complete checkpoint folders, oldest first."""
    found = [
        path
        for path in run.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdecimal() and (path / "state.json").is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def latest(run: str | os.PathLike[str]) -> Path | None:
    """Return a run's newest checkpoint folder, or None."""
    found = checkpoints(Path(run))
    return found[-1] if found else None


def write(
    run: Path,
    progress: Progress,
    settings: Training,
    seed: int,
    *,
    lead: bool = True,
    **more: Any,  # noqa: ANN401 - plain JSON
) -> Path:
    """Write a checkpoint of a run, then the run's `model.safetensors`, then drop the oldest checkpoints.

    A step, a seed and a recipe decide a checkpoint, so one that is there already is kept.

    Args:
        run: The run folder.
        progress: What to save.
        settings: Settings of the run; `keep` checkpoints stay.
        seed: Seed of the run.
        lead: Does this worker write? The others only hand in their parts of what is sharded.
        **more: Further plain values for state.json.

    Returns: The checkpoint folder.

    Raises:
        RuntimeError: If weights are not finite: such a checkpoint would replace a good one.
        OSError: If the disk is full; what was there before is untouched.
    """
    final = run / f"{_PREFIX}{progress.step}"
    progress.collect()
    weights, moments = progress.weights(), progress.optimizer_tensors()
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise RuntimeError(f"weights are not finite at step {progress.step}; the last checkpoint was kept")
    if not lead:
        return final
    run.mkdir(parents=True, exist_ok=True)
    clean(run)
    header = header_of(progress.system, step=progress.step, seed=seed)
    state = {
        "step": progress.step,
        "seconds": progress.seconds,
        "seed": seed,
        "settings": asdict(settings),
        **header,
        **more,
    }
    average = pack(progress.average.state_dict(), header)
    temporary = run / f".{final.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir()
        for name, content in (
            (WEIGHTS, pack(weights, header)),
            ("ema.safetensors", average),
            ("optimizer.safetensors", pack(moments, header)),
            ("state.json", json.dumps(state, indent=1).encode()),
        ):
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(temporary)
        if final.exists():
            shutil.rmtree(temporary)
        else:
            os.rename(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise named(error, final) from None
    sync_folder(run)
    write_atomically(run / WEIGHTS, average)
    for old in checkpoints(run)[: -settings.keep]:
        # Renamed first: a kill while a folder is removed must not leave a checkpoint that looks complete.
        gone = run / f".{old.name}.{os.getpid()}.tmp"
        os.rename(old, gone)
        shutil.rmtree(gone, ignore_errors=True)
    return final


def clean(run: Path) -> None:
    """Remove what a killed process left behind."""
    for path in [*run.glob(f".{_PREFIX}*.tmp"), *run.glob(f".{WEIGHTS}.*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def state_of(path: Path) -> dict[str, Any]:
    """Read a checkpoint folder's state.json.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        state = dict(json.loads((path / "state.json").read_text()))
        int(state["step"]), float(state["seconds"]), int(state["seed"]), str(state["recipe"])
        dict(state["arguments"]), dict(state["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path / 'state.json'} cannot be read ({brief(error)}); remove {path} to use an older one"
        ) from None
    return state


def resume(path: Path, progress: Progress) -> dict[str, Any]:
    """Bring a fresh `Progress` to where a checkpoint folder stands.

    Returns: The checkpoint's state.json.

    Raises:
        ValueError: If a file is damaged or belongs to another system. An older checkpoint is never used instead: a
            rename is whole or absent, so a damaged one means a damaged disk, which somebody should hear about.
    """
    state = state_of(path)
    restore(module_of(progress.system), tensors_of(path / WEIGHTS), path / WEIGHTS)
    restore(progress.average, tensors_of(path / "ema.safetensors"), path / "ema.safetensors")
    progress.restore_optimizer(tensors_of(path / "optimizer.safetensors"))
    progress.step, progress.seconds = int(state["step"]), float(state["seconds"])
    return state
