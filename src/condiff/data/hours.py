"""The bundled traffic as one series. No torch here: the readers of series use it too."""

from __future__ import annotations

import csv
import gzip
from functools import lru_cache

import numpy as np

from condiff.data import resource
from condiff.data.panel import Item


@lru_cache(maxsize=1)
def hours() -> Item:
    """Load two years of hourly traffic (vehicles an hour) and temperature (kelvin), NaN where nothing was measured.

    Source: UCI Metro Interstate Traffic Volume (CC BY 4.0); see `bundled/LICENSES.md`.
    """
    text = gzip.decompress(resource.content("metro_traffic_hourly.csv.gz")).decode("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    values = np.array([[float(row[name] or "nan") for name in ("traffic_volume", "temp")] for row in rows])
    seconds = np.array([row["datetime"] for row in rows], "datetime64[s]").astype(np.float64)
    return Item("", seconds, values)
