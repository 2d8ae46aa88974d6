"""G15: what `import condiff` costs on top of torch, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.paired import Effort, Row

_PROBE = """
import resource, sys, time
import torch
begin, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{statement}
now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
heavy = sorted({{"transformers", "torchvision", "scipy", "matplotlib", "diffusers"}} & set(sys.modules))
print(time.process_time() - begin, (now - size) / 1024, begin, ",".join(heavy) or "none")
"""

_OURS = """
import condiff
for name in ("sample", "System", "load", "save"):
    getattr(condiff, name)
"""


def _cost(statement: str) -> tuple[float, float, float, str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(statement=statement)], capture_output=True, text=True, check=True
    )
    seconds, size, base, heavy = done.stdout.split()
    return float(seconds), float(size), float(base), heavy


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G15."""
    runs = [_cost(_OURS) for _ in range(effort.pick(7, 1))]
    seconds, size, base, heavy = (*(statistics.median(run[i] for run in runs) for i in range(3)), runs[0][3])
    near: dict[str, float | str] = {}
    for name, statement in {
        "diffusers scheduler": "from diffusers import DDIMScheduler",
        "azula": "import azula.sample, azula.noise, azula.denoise",
        "flow_matching": "import flow_matching.solver",
    }.items():
        try:
            near[name] = _cost(statement)[0] / seconds
        except subprocess.CalledProcessError:
            near[name] = "skipped: not installed"
    return [
        Row("G15", "import: CPU time on top of torch, in units of 0.3 s", seconds / 0.3, 1.0, ours=f"{seconds:.2f} s",
            floor=f"torch {base:.2f} s", neighbours=near, note=f"{seconds / base:.0%} of torch's own import"),
        Row("G15", "import: memory on top of torch, in units of 30 MiB", size / 30.0, 1.0, ours=f"{size:.0f} MiB"),
        Row("G15", "import: heavy packages loaded", 0 if heavy == "none" else heavy.count(",") + 1, 0, ours=heavy),
    ]  # fmt: skip
