"""The wrong pairings stay rejected by the type checker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")
FILE = Path(__file__).with_name("rejected.py")
TWIN = Path(__file__).with_name("accepted.py")


def test_wrong_pairings_do_not_type_check(tmp_path):
    root = Path(__file__).parents[2]
    out, errors, _ = api.run(
        ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(tmp_path), "--follow-imports", "silent",
         "--disable-error-code", "empty-body", str(FILE), str(TWIN)]
    )  # fmt: skip
    assert not errors
    assert "accepted.py" not in out, out
    found = {int(line) for line in re.findall(r"rejected\.py:(\d+): error", out)}
    marked = {k for k, text in enumerate(FILE.read_text().splitlines(), 1) if "# REJECTED" in text}
    assert len(marked) >= 11
    assert found == marked, out
