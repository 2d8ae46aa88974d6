"""How a stream is doing: counters that only rise, and latencies of the last frames."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, final

WINDOW = 256
"""How many frames the latencies are taken over."""


@final
@dataclass
class Stats:
    """Counters and latencies of one stream, or of all that a server has had.

    Args:
        received: Frames that came in.
        made: Frames that went through the network and came out.
        skipped: Frames answered by the last picture, because the input stood still.
        dropped: Frames replaced by a newer one before their turn.
        late: Frames whose turn came after their deadline, so that they were not made.
        missed: Frames that came out after their deadline.
        errors: Messages that could not be understood, and frames that failed.
    """

    received: int = 0
    made: int = 0
    skipped: int = 0
    dropped: int = 0
    late: int = 0
    missed: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), repr=False)
    instants: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), repr=False)

    def out(self, latency: float, now: float) -> None:
        """Note a frame that came out, `latency` seconds after it came in."""
        self.latencies.append(latency)
        self.instants.append(now)

    def counters(self) -> dict[str, int]:
        """Return the counters by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int)}

    def add(self, other: Stats) -> None:
        """Add the counters of another, and take its last latencies in."""
        for name, value in other.counters().items():
            setattr(self, name, getattr(self, name) + value)
        self.latencies.extend(other.latencies)
        self.instants.extend(other.instants)

    def summary(self) -> dict[str, Any]:
        """Return the counters, frames a second, latency in milliseconds at three quantiles, and jitter.

        Jitter is the standard deviation of the time between two frames that came out, in milliseconds.
        """
        latencies, instants = sorted(self.latencies), sorted(self.instants)
        gaps = [b - a for a, b in itertools.pairwise(instants)]
        span = instants[-1] - instants[0] if len(instants) > 1 else 0.0
        return {
            **self.counters(),
            "fps": round(len(gaps) / span, 2) if span > 0 else 0.0,
            **{f"p{q}": round(1000 * quantile(latencies, q / 100), 2) for q in (50, 95, 99)},
            "jitter": round(1000 * statistics.pstdev(gaps), 2) if len(gaps) > 1 else 0.0,
        }


def quantile(ordered: list[float], share: float) -> float:
    """Return the smallest value that is not below a share of the ordered values; 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def prometheus(summary: dict[str, Any], gauges: dict[str, float]) -> str:
    """Write a summary and some gauges in Prometheus' text format."""
    lines = []
    for name in Stats().counters():
        lines += [f"# TYPE condiff_frames_{name}_total counter", f"condiff_frames_{name}_total {summary[name]}"]
    lines.append("# TYPE condiff_latency_seconds summary")
    lines += [f'condiff_latency_seconds{{quantile="0.{q}"}} {summary[f"p{q}"] / 1000:g}' for q in (50, 95, 99)]
    gauges = {"fps": summary["fps"], "jitter_seconds": summary["jitter"] / 1000, **gauges}
    for name, value in gauges.items():
        lines += [f"# TYPE condiff_{name} gauge", f"condiff_{name} {value:g}"]
    return "\n".join(lines) + "\n"
