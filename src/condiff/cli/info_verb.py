"""`condiff info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condiff.cli.errors import UsageError
from condiff.cli.output import emit
from condiff.cli.parser import Parser


def run(words: list[str]) -> int:
    """Say what is inside a file."""
    parser = Parser(prog="condiff info", description="Say what is inside a checkpoint or a generated file.")
    parser.add_argument("path", metavar="PATH", help="run folder, checkpoint, or a generated PNG, NPZ, CSV or TXT")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    path = Path(arguments.path)
    if not path.exists():
        raise UsageError(f"nothing at {path}; give a run folder, a checkpoint, or a generated PNG, NPZ, CSV or TXT")
    made = path.is_file() and path.suffix.lower() in (".png", ".npz", ".csv", ".txt")
    facts = _generated(path) if made else _checkpoint(path)
    if arguments.json:
        emit(facts)
        return 0
    for name, value in facts.items():
        text = str(value)
        print(f"{name:<16} {text if len(text) <= 160 else text[:157] + '...'}")
    return 0


def _generated(path: Path) -> dict[str, Any]:
    from condiff.cli.made import recipe_of

    return {"path": str(path), "kind": "generated", **recipe_of(path)}


def _checkpoint(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    from condiff.train.checkpoint import read_header, weights_file

    try:
        weights = weights_file(path)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    header = read_header(weights)
    with safe_open(weights, "pt") as opened:
        count = 0
        for name in opened.keys():
            size = 1
            for side in opened.get_slice(name).get_shape():
                size *= side
            count += size
    data = header.get("data", {})
    meta = data.get("meta", {})
    tokens = {"tokens": _tokens(meta)} if data.get("kind") == "text" else {}
    return {
        "path": str(weights),
        "kind": "checkpoint",
        "recipe": header["recipe"],
        "arguments": header["arguments"],
        "parameters": count,
        "shape": header["shape"],
        "conditions": header["schema"],
        **tokens,
        "data": {name: data[name] for name in ("name", "kind", "rows", "labels") if name in data},
        "step": header.get("step"),
        "seed": header.get("seed"),
        "num_steps": header["num_steps"],
        "guidance_scale": header["guidance_scale"],
        "condiff": header["library"],
        "torch": header["torch"],
        "format": header["format"],
    }


def _tokens(meta: Mapping[str, Any]) -> dict[str, Any]:
    from condiff.data.alphabet import restored

    alphabet = restored(meta.get("tokens"))
    return {"kind": alphabet.to_json()["kind"], "unit": alphabet.unit, "vocabulary": alphabet.end + 1}
