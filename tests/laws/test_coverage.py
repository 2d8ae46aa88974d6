"""Every public name has a case, so that adding an implementation adds its laws."""

from __future__ import annotations

import pytest
from condiff import codecs, guidance, objectives, oracles, process, solvers

from laws.cases import INSTANCES

# Protocols, records and functions: nothing to instantiate.
WITHOUT = {
    "Bridge", "Clock", "Frame", "Grid", "TimeLaw", "draw_times",  # process
    "Diffusion",  # solvers
    "Energy", "from_omega",  # guidance
    "Weight",  # objectives
}  # fmt: skip


@pytest.mark.parametrize("package", [process, solvers, guidance, objectives, oracles, codecs], ids=lambda p: p.__name__)
def test_every_public_name_has_a_case(package):
    missing = set(package.__all__) - WITHOUT - INSTANCES.keys()
    assert not missing, f"add small instances of {sorted(missing)} to tests/laws/cases.py"


@pytest.mark.parametrize("package", [process, solvers, guidance, objectives, oracles, codecs], ids=lambda p: p.__name__)
def test_every_public_name_exists_and_says_what_it_is(package):
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), f"{package.__name__}.{name} has no docstring"
