"""A loss curve drawn with pillow alone, so that every run has one whatever is installed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from condiff.train.atomic import write_atomically

_INK, _GREY, _GRID = (40, 40, 40), (120, 120, 120), (228, 228, 228)
_COLOURS = ((31, 119, 180), (214, 90, 20))


def draw_curve(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, title: str, size: tuple[int, int] = (900, 520)
) -> Image.Image:
    """Draw lines over a linear x axis and a logarithmic y axis.

    Args:
        series: Up to two pairs (name, points), points (x, y) with y > 0; others are left out.
        title: Written above.
        size: Width and height in pixels.

    Returns: An RGB picture.
    """
    width, height = size
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    left, right, top, bottom = 84, width - 24, 48, height - 56
    pen.text((left, 14), title, fill=_INK, font=font)
    clean = [(name, [(x, y) for x, y in points if y > 0 and math.isfinite(y)]) for name, points in series]
    everything = [point for _, points in clean for point in points]
    if not everything:
        pen.text((left, (top + bottom) // 2), "nothing to draw yet", fill=_GREY, font=font)
        return picture
    x_end = max(1.0, *(x for x, _ in everything))
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    low, high = math.log10(low) - 0.03, math.log10(high) + 0.03
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / x_end, bottom - (bottom - top) * (math.log10(y) - low) / (high - low)

    for value in _log_ticks(low, high):
        _, y = place(0.0, value)
        pen.line((left, y, right, y), fill=_GRID)
        pen.text((left - 10, y), f"{value:.3g}", fill=_GREY, font=small, anchor="rm")
    for value in _ticks(x_end):
        x, _ = place(value, 10**low)
        pen.line((x, top, x, bottom), fill=_GRID)
        pen.text((x, bottom + 8), f"{value:g}", fill=_GREY, font=small, anchor="ma")
    pen.rectangle((left, top, right, bottom), outline=_GREY)
    pen.text(((left + right) // 2, bottom + 30), "step", fill=_INK, font=small, anchor="ma")
    for k, (name, points) in enumerate(clean):
        colour = _COLOURS[k % len(_COLOURS)]
        if len(points) > 1:
            pen.line([place(x, y) for x, y in points], fill=colour, width=2, joint="curve")
        for x, y in points if len(points) <= 60 else ():
            cx, cy = place(x, y)
            pen.ellipse((cx - 3, cy - 3, cx + 3, cy + 3), fill=colour)
        if points:
            pen.text(
                (right - 12, top + 10 + 20 * k), f"{name}: {points[-1][1]:.4g}", fill=colour, font=font, anchor="ra"
            )
    return picture


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 9 values between 10^low and 10^high, round where the range allows."""
    fine = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 1.5, 2, 3, 4, 5, 6, 7, 8)]
    inside = [value for value in fine if low <= math.log10(value) <= high]
    coarse = [value for value in inside if round(value / 10.0 ** math.floor(math.log10(value)), 6) in (1, 2, 5)]
    if len(inside) < 3:
        step = (10**high - 10**low) / 4
        return [10**low + step * k for k in range(1, 4)]
    if len(inside) <= 9:
        return inside
    if len(coarse) <= 9:
        return coarse
    decades = [10.0**e for e in range(math.ceil(low), math.floor(high) + 1)]
    return decades[:: -(-len(decades) // 9)]


def _ticks(end: float) -> list[float]:
    """Return about six round values from 0 to end."""
    raw = end / 6
    base = 10.0 ** math.floor(math.log10(raw))
    step = min((m * base for m in (1, 2, 5, 10)), key=lambda value: abs(value - raw))
    return [step * k for k in range(int(end / step + 1e-9) + 1)]


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    write_atomically(path, buffer.getvalue())
