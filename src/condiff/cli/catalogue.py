"""The systems that the package offers; plain data, so that listing them imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Entry:
    """One system: how it is named, what it is for, and where its parts are.

    Args:
        slug: The name users type for `reproduce`.
        title: Its name in words.
        year: Year of its publication.
        modality: What it generates.
        recipe: Recipe that builds it.
        claim: What its experiment tests, in one line; empty if there is none.
    """

    slug: str
    title: str
    year: int
    modality: str
    recipe: str
    claim: str

    @property
    def experiment(self) -> bool:
        """Is its experiment in the package?"""
        return (Path(__file__).parents[1] / "claims" / f"{self.slug}.py").is_file()


SYSTEMS = (
    Entry(
        "digits",
        "Class-conditional flow matching with classifier-free guidance",
        2023,
        "images",
        "digits",
        "guidance at scale 2 makes at least 98 % of sampled digits read as the class asked for, more than without",
    ),
    Entry(
        "images",
        "General recipe: images with classes, captions, numbers or input pictures",
        2023,
        "images",
        "images",
        "",
    ),
    Entry("vectors", "General recipe: table rows, poses, embeddings", 2023, "vectors", "vectors", ""),
)
