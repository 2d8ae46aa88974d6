"""`condiff doctor`."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError
from condiff.cli.output import emit
from condiff.cli.parser import Parser

EXTRAS = {
    "dist": ("accelerate",),
    "plot": ("matplotlib",),
    "series": ("statsmodels",),
    "text": ("tokenizers",),
    "trackers": ("tensorboard", "wandb", "trackio", "mlflow"),
}


def run(words: list[str]) -> int:
    """Look at the machine, or at data or a run."""
    parser = Parser(prog="condiff doctor", description="Look at the machine, or at data or a run before using them.")
    parser.add_argument("path", metavar="PATH", nargs="?", help="data, or a run folder; the machine if left out")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    if arguments.path is None:
        return _machine(arguments.json)
    path = Path(arguments.path)
    if path.suffix == ".safetensors" or (path.is_dir() and (path / "config.yaml").is_file()):
        if not path.exists():
            raise UsageError(f"nothing at {path}; give data, a run folder or a checkpoint")
        return _run_folder(path, arguments.json)

    from condiff.data.inspect import inspect

    try:
        found = inspect(arguments.path)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        emit(found.to_json())
    else:
        print("\n".join(found.lines()))
    return 0 if found.good else 1


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine(as_json: bool) -> int:
    import torch

    from condiff import __version__
    from condiff.cli.train_verb import memory
    from condiff.nn.pack import has_bf16

    facts: dict[str, Any] = {
        "condiff": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "bf16_fast": has_bf16(),
        "gpus": torch.cuda.device_count(),
        "memory_gib": round(memory() / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "packages": {name: _installed(name) for name in ("numpy", "pillow", "safetensors", "pyyaml", "tqdm")},
        "extras": {extra: {name: _installed(name) for name in names} for extra, names in EXTRAS.items()},
    }
    if as_json:
        emit(facts)
        return 0
    for name, value in facts.items():
        if not isinstance(value, dict):
            print(f"{name:<15} {value}")
    for extra, names in EXTRAS.items():
        there = [f"{name} {_installed(name)}" for name in names if _installed(name)]
        print(f"{'[' + extra + ']':<15} {', '.join(there) or f'not installed: pip install condiff[{extra}]'}")
    return 0


def _run_folder(path: Path, as_json: bool) -> int:
    """Check that a run can be sampled and resumed, and how its losses went."""
    import json

    from condiff.train import checkpoint

    problems: list[str] = []
    header: Mapping[str, Any] = {}
    try:
        header = checkpoint.read(path).header
    except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    folders = checkpoint.checkpoints(path)
    for folder in folders:
        for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
            try:
                checkpoint.tensors_of(folder / name)
            except ValueError as error:
                problems.append(str(error))
    lines = []
    if (path / "metrics.jsonl").is_file():
        for text in (path / "metrics.jsonl").read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                problems.append(f"metrics.jsonl has a damaged line after step {lines[-1]['step'] if lines else 0}")
                break
    held_out = [line["validation_loss"] for line in lines if "validation_loss" in line]
    warnings = []
    if len(held_out) >= 2 and held_out[-1] > 1.1 * min(held_out):
        warnings.append(
            f"validation loss rose from {min(held_out):.4g} to {held_out[-1]:.4g}: the model is overfitting; "
            "stop earlier or bring more data"
        )
    facts = {
        "path": str(path),
        "kind": "run" if path.is_dir() else "checkpoint",
        "recipe": header.get("recipe"),
        "step": header.get("step"),
        "checkpoints": [folder.name for folder in folders],
        "last": lines[-1] if lines else None,
        "problems": problems,
        "warnings": warnings,
    }
    if as_json:
        emit(facts)
    else:
        for name, value in facts.items():
            print(f"{name:<12} {value if value else '-'}")
    return 1 if problems else 0
