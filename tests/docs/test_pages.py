"""What pages say about the package agrees with it, and what they point to is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from condiff.cli.catalogue import SYSTEMS
from condiff.cli.main import VERBS
from condiff.data.kinds import BUNDLED
from condiff.recipes import names
from condiff.tasks.generate import SOLVERS

sys.path.insert(0, str(Path(__file__).parent))
from pages import PAGES, ROOT


def cells(page):
    """Return the rows of a page's tables as lists of cells."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "docs/papers.md"])
def test_tables_list_every_system(page):
    rows = {row[0].strip("`"): row for row in cells(page)}
    for entry in SYSTEMS:
        assert entry.slug in rows, f"{page} has no row for {entry.slug}"
        assert str(entry.year) in rows[entry.slug]
        assert any(entry.recipe in cell for cell in rows[entry.slug][1:])


def test_the_command_line_page_has_every_verb_and_solver():
    text = (ROOT / "docs/concepts/command-line.md").read_text()
    assert not [verb for verb in VERBS if f"`{verb}`" not in text]
    assert not [name for name in SOLVERS if f"`{name}`" not in text]


def test_the_data_page_has_every_bundled_set():
    assert {row[0].strip("`") for row in cells("docs/data.md")} >= set(BUNDLED)


def test_the_training_page_has_every_setting():
    from dataclasses import fields

    from condiff.train import Training

    rows = {row[0].strip("`"): row[1] for row in cells("docs/concepts/training.md") if len(row) == 3}
    assert {field.name: str(field.default).strip("()") for field in fields(Training)}.items() <= {
        name: default.strip("()") for name, default in rows.items()
    }.items()


def test_every_recipe_is_named():
    text = (ROOT / "docs/papers.md").read_text()
    assert not [name for name in names() if f"`{name}`" not in text]


def test_every_page_is_in_the_table_of_contents():
    listed = set()
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            listed |= {page.parent / f"{name}.md" for name in block.split("\n") if name and not name.startswith(":")}
    docs = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {ROOT / "docs/index.md"}
    assert listed == docs
