"""Imports point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "condiff"
PARTS = ("process", "guidance", "solvers", "objectives", "codecs", "nn", "oracles", "data")
LAYERS = [
    ("core",),
    PARTS,
    ("train", "evaluate"),
    ("tasks",),
    ("recipes",),
    ("files", "claims", "serve", "interop"),
    ("cli",),
]
RANK = {name: k for k, layer in enumerate(LAYERS) for name in layer}


def edges():
    for path in SOURCE.rglob("*.py"):
        home = path.relative_to(SOURCE).with_suffix("").parts[0]
        if home not in RANK:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively, which this test cannot place"
            if isinstance(node, ast.ImportFrom) and node.module == "condiff":
                for name in node.names:
                    yield path, home, name.name, f"condiff.{name.name}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("condiff."):
                yield path, home, (node.module + ".").split(".")[1], node.module
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name.startswith("condiff"):
                        yield path, home, (name.name + ".").split(".")[1], name.name


def test_imports_point_one_way():
    backward = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path, home, other, module in edges()
        if other in RANK and RANK[other] > RANK[home]
    ]
    assert not backward, "\n".join(backward)


def test_the_core_imports_nothing_else():
    found = [(path.name, home, other, module) for path, home, other, module in edges()]
    assert [edge for edge in found if edge[1] == "core"], "nothing was looked at"
    assert not [edge for edge in found if edge[1] == "core" and edge[2] != "core"]


def test_every_package_has_a_layer():
    found = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert found <= RANK.keys(), found - RANK.keys()


@pytest.mark.parametrize(
    "code",
    [
        "import condiff",
        "from condiff.cli.main import main; main(['--help'])",
        "from condiff.cli.main import main; main(['train', '--help'])",
        "from condiff.cli.main import main; main(['train', 'digits', '--help'])",
        "from condiff.cli.main import main; main(['systems', '--json'])",
        "from condiff.cli.main import main; main(['sample', '--help'])",
        "from condiff.cli.main import main; main(['eval', '--bogus'])",
        "from condiff.cli.main import main; main(['bench', '--help'])",
        "from condiff.cli.main import main; main(['bench', 'solvers'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    script = f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r})\n{code}\nassert not {{'torch', 'tokenizers'}} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
