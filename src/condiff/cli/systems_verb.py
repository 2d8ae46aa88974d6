"""`condiff systems`."""

from __future__ import annotations

from condiff.cli.catalogue import systems
from condiff.cli.output import emit, table
from condiff.cli.parser import Parser


def run(words: list[str]) -> int:
    """List the systems."""
    parser = Parser(prog="condiff systems", description="List the systems that the package offers.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.read(words)
    if arguments.json:
        emit(
            {
                "systems": [
                    {
                        "slug": e.slug,
                        "title": e.title,
                        "year": e.year,
                        "modality": e.modality,
                        "recipe": e.recipe,
                        "claim": e.claim,
                        "experiment": e.experiment,
                    }
                    for e in systems()
                ]
            }
        )
        return 0
    rows = [(e.slug, e.title, e.year, e.modality, e.recipe, "yes" if e.experiment else "no") for e in systems()]
    print(table(rows, ("system", "title", "year", "modality", "recipe", "experiment")))
    return 0
