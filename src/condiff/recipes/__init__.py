"""Recipes: one function a system. Its keyword arguments are the configuration; composition only, no formula."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

from condiff.recipes.cdcd import cdcd
from condiff.recipes.ctrldiff import ctrldiff
from condiff.recipes.diffusia import diffusia
from condiff.recipes.digits import digits
from condiff.recipes.evodiff import evodiff
from condiff.recipes.images import images
from condiff.recipes.interpolants import interpolants
from condiff.recipes.overview import overview
from condiff.recipes.painters import painters
from condiff.recipes.pfgmpp import pfgmpp
from condiff.recipes.principles import principles
from condiff.recipes.radd import radd
from condiff.recipes.series import series
from condiff.recipes.streamdiffusion import streamdiffusion
from condiff.recipes.text import text
from condiff.recipes.tsdiff import tsdiff
from condiff.recipes.tsdiff_cond import tsdiff_cond
from condiff.recipes.vectors import vectors
from condiff.recipes.wcfm import wcfm
from condiff.train.recipe import Recipe, recipe

__all__ = [
    "Recipe",
    "cdcd",
    "ctrldiff",
    "diffusia",
    "digits",
    "evodiff",
    "find",
    "images",
    "interpolants",
    "names",
    "overview",
    "painters",
    "pfgmpp",
    "principles",
    "radd",
    "recipe",
    "series",
    "streamdiffusion",
    "text",
    "tsdiff",
    "tsdiff_cond",
    "vectors",
    "wcfm",
]

_OURS = {
    made.name: made
    for made in (
        cdcd,
        ctrldiff,
        diffusia,
        digits,
        evodiff,
        images,
        interpolants,
        overview,
        painters,
        pfgmpp,
        principles,
        radd,
        series,
        streamdiffusion,
        text,
        tsdiff,
        tsdiff_cond,
        vectors,
        wcfm,
    )
}


def names() -> list[str]:
    """List every recipe's name, those of plugins (entry-point group `condiff.recipes`) included."""
    return sorted({*_OURS, *(point.name for point in entry_points(group="condiff.recipes"))})


def find(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        ValueError: If there is none of that name; the message gives the nearest.
    """
    if name in _OURS:
        return _OURS[name]
    for point in entry_points(group="condiff.recipes"):
        if point.name == name:
            made = point.load()
            if isinstance(made, Recipe):
                return made
            raise ValueError(f"plugin {point.value} offers recipe {name!r}, but it is a {type(made).__name__}")
    near = difflib.get_close_matches(name, names(), 1, 0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no recipe named {name!r}{hint} There are {', '.join(names())}")
