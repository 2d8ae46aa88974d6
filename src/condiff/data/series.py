"""Windows of time series, from a panel or from the bundled traffic."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from condiff.data.batch import Dataset, Splits
from condiff.data.columns import moments
from condiff.data.frequency import Frequency
from condiff.data.hours import hours
from condiff.data.panel import SHARES, Panel, filled, windows
from condiff.data.splits import PARTS, borders

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def traffic(length: int = 192, stride: int = 24) -> Splits:
    """Load windows of the traffic; conditions are the temperature over the window and the weekday it starts on.

    Data (N, 1, length) float32, zero mean and unit variance over the training hours; condition "temperature" (N, 1,
    length) likewise, and "weekday" int64 (N,), Monday = 0. Gaps of single hours are filled on a line;
    `meta["missing"]` counts them.

    Args:
        length: Hours in a window; the default is a week to look at and a day to forecast.
        stride: Hours from one window to the next; with 24 every window starts at midnight.

    Raises:
        ValueError: If the length or stride does not fit.
    """
    item = hours()
    panel = Panel((item,), ("traffic_volume", "temp"), Frequency(3600.0), 0, (), ())
    both = windowed(panel, length, stride, name="traffic", source="traffic")

    def part(whole: Dataset) -> Dataset:
        starts = whole.meta["starts"]
        assert isinstance(starts, list)  # ours: written by `windowed`
        days = np.floor(item.seconds[np.array([start for _, start in starts], np.int64)] / 86400).astype(np.int64)
        weekday = torch.from_numpy((days + 3) % 7)  # 1970-01-01 was a Thursday
        present = torch.ones(len(whole), dtype=torch.bool)
        statistics = {key: whole.meta[key] for key in ("mean", "std")}
        mean, std = np.array(statistics["mean"]), np.array(statistics["std"])
        return Dataset(
            whole.data[:, :1].contiguous(),
            {"temperature": whole.data[:, 1:].contiguous(), "weekday": weekday},
            {"temperature": present, "weekday": present},
            name="traffic",
            kind="series",
            labels={"weekday": WEEKDAYS},
            meta={
                **whole.meta,
                "channels": ["traffic_volume"],
                "mean": mean[:, :1].tolist(),
                "std": std[:, :1].tolist(),
                "conditions": {
                    "temperature": {"kind": "series", "mean": mean[:, 1:].tolist(), "std": std[:, 1:].tolist()},
                    "weekday": {"kind": "class", "num_classes": 7},
                },
            },
        )

    return Splits(part(both.train), part(both.validation), part(both.test))


def windowed(panel: Panel, length: int | None, stride: int | None, *, name: str, source: str) -> Splits:
    """Cut every series into windows, after scaling it by mean and deviation of its training part.

    Time is split 80/10/10 within every item; no window crosses a border. Missing values are filled on a line between
    their neighbours and counted in `meta["missing"]`.

    Args:
        panel: Series without problems.
        length: Steps in a window; `panel.window()` if None.
        stride: Steps from one training window to the next; an eighth of the length if None. In validation and test
            windows follow one another without overlap unless a stride is given.
        name: Name of the set.
        source: Where it came from.

    Returns: Data (N, C, length); condition "item" int64 (N,) if there are several items. `meta["starts"]` holds item
    and first step of every window, `meta["mean"]` and `meta["std"]` are (items, C).

    Raises:
        ValueError: If no window fits.
    """
    size = panel.window() if length is None else length
    shortest = min(len(item.seconds) for item in panel.items)
    room = shortest - borders(shortest, *SHARES)[1]
    if size < 2 or (stride is not None and stride < 1):
        raise ValueError(
            f"{source}: {shortest} time steps are too few for windows of {size} with stride {stride}; "
            "give at least 20 steps, a length of 2 or more and a stride of 1 or more"
        )
    scaled: list[NDArray[np.float32]] = []
    statistics = []
    for item in panel.items:
        train = borders(len(item.seconds), *SHARES)[0]
        known = item.values[:train]
        if np.isnan(known).all(axis=0).any():
            raise ValueError(
                f"{source}: item {item.name or name!r} has a column without values in its first 80 %; remove it"
            )
        values = filled(item.values)
        statistics.append(moments(values[:train]))
        scaled.append(((values - statistics[-1][0]) / statistics[-1][1]).astype(np.float32))

    def part(code: int) -> Dataset:
        step = stride if stride is not None else max(size // 8, 1) if code == 0 else size
        rows, starts = [], []
        for number, item in enumerate(panel.items):
            edges = (0, *borders(len(item.seconds), *SHARES), len(item.seconds))
            for start in windows(size, edges[code], edges[code + 1], step).tolist():
                rows.append(scaled[number][start : start + size].T)
                starts.append([number, start])
        if not rows:
            raise ValueError(
                f"{source}: no window of {size} steps fits into the {PARTS[code]} part; use a length of at most {room}"
            )
        several = len(panel.items) > 1
        number_of = torch.tensor([number for number, _ in starts])
        return Dataset(
            torch.from_numpy(np.stack(rows)),
            {"item": number_of} if several else {},
            {"item": torch.ones(len(rows), dtype=torch.bool)} if several else {},
            name=name,
            kind="series",
            labels={"item": tuple(item.name for item in panel.items)} if several else {},
            meta={
                "source": source,
                "split": PARTS[code],
                "split_rule": "80/10/10 % of every item by time",
                "channels": list(panel.channels),
                "items": [item.name for item in panel.items],
                "step_seconds": panel.step,
                "period": panel.period,
                "length": size,
                "stride": step,
                "starts": starts,
                "missing": panel.missing,
                "mean": [mean.tolist() for mean, _ in statistics],
                "std": [std.tolist() for _, std in statistics],
                "conditions": {"item": {"kind": "class", "num_classes": len(panel.items)}} if several else {},
            },
        )

    return Splits(part(0), part(1), part(2))
