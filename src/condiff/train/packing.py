"""Named tensors and a JSON header as one safetensors file, with a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

KEY = "condiff"
"""The file's metadata entry that holds the header."""


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> bytes:
    """Pack tensors and a header as the bytes of a safetensors file."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        # Tied weights are written under each of their names, so that a strict reader finds them all.
        plain[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    metadata = None if header is None else {KEY: json.dumps({**header, "crc32": checksum(plain)})}
    content: bytes = save(plain, metadata=metadata)
    return content


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return a checksum over names, types, shapes and bytes: the container itself would not notice a changed byte."""
    total = 0
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        if value.numel():
            total = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def brief(error: BaseException) -> str:
    """Return an error's first line, short enough for a message."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            wanted = json.loads((opened.metadata() or {}).get(KEY, "{}")).get("crc32")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({brief(error)}); use another checkpoint") from None
    if wanted is not None and wanted != checksum(tensors):
        raise ValueError(f"{file} is damaged (its checksum differs); use another checkpoint")
    return tensors
