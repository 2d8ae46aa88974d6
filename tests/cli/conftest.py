from __future__ import annotations

import shutil

import pytest

from condiff.cli.main import main

TINY = ["--steps", "3", "--batch-size", "8", "--widths", "8,16", "--log-every", "1", "--validate-every", "0",
        "--sample-every", "0", "--precision", "fp32"]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder of a tiny digit model, trained for three steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "digits", "--out", str(run), *TINY]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run that a test may damage."""
    return shutil.copytree(trained, tmp_path / "run")
