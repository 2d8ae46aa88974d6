"""G7: optimal transport between the noise and the data of a batch, in chunks and exactly, beside torchcfm's sampler."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable

import torch
from benchmarks.paired import Effort, Row, ratio, sweep
from torch import Tensor

from condiff.data import read
from condiff.process import MinibatchOT, pair_cost


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G7."""
    rows = []
    for features in (2, 64, 784):
        for size, limit in ((512, 20.0), *(() if effort.smoke else ((2048, 100.0),))):
            rows += _rows(effort, features, size, limit)
    return rows


def _rows(effort: Effort, features: int, size: int, limit: float) -> list[Row]:
    data, noise = _batch(size, features), torch.randn(size, features)
    chunked, exact = MinibatchOT(), MinibatchOT(None)
    calls: dict[str, Callable[[], object]] = {
        "chunked": lambda: chunked.order(data, noise),
        "exact": lambda: exact.order(data, noise),
    }
    near: dict[str, float | str] = {}
    try:
        sampler = importlib.import_module("torchcfm.optimal_transport").OTPlanSampler(method="exact")
        calls["torchcfm"] = lambda: sampler.sample_plan(data, noise)
    except ImportError as error:
        near["torchcfm"] = f"skipped: {error}"
    # Seconds a call: the large ones are read three times, not nine.
    readings = sweep(calls, effort.rounds if size <= 512 else 3, 0.02)
    case = f"batch {size}, {features} features"
    ours = 1e3 * statistics.median(readings["chunked"])
    if "torchcfm" in calls:
        near["torchcfm"] = ratio(readings, "torchcfm", "chunked")
    whole = ratio(readings, "torchcfm", "exact") if "torchcfm" in calls else float("nan")
    took = f"{1e3 * statistics.median(readings['exact']):.0f} ms"
    return [
        Row("G7", f"OT in two rounds of chunks of 256, {case}: ms", ours, limit, neighbours=near, bound=4 * limit),
        Row("G7", f"its share of the exact reduction of cost, {case}", _share(data, noise), 0.95, above=True, bound=0.9),
        Row("G7", f"exact OT, {case}: torchcfm's cost over ours", whole, 1.2, above=True, ours=took, bound=0.2),
    ]  # fmt: skip


def _batch(size: int, features: int) -> Tensor:
    """Eight clusters on a circle in the plane; or real digits, 8x8 or 28x28."""
    if features == 2:
        angle = torch.randint(8, (size,)) * (2.0 * torch.pi / 8.0)
        return 2.5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(size, 2)
    rows = read("digits8" if features == 64 else "digits").train.data
    return rows[torch.randperm(len(rows))[:size]].flatten(1).float()


def _share(data: Tensor, noise: Tensor) -> float:
    """Return how much of the exact plan's reduction of the transport cost the chunks keep."""
    plain, chunked, exact = (
        float(pair_cost(data, noise[order]).mean())
        for order in (torch.arange(len(data)), MinibatchOT().order(data, noise), MinibatchOT(None).order(data, noise))
    )
    return (plain - chunked) / (plain - exact)
