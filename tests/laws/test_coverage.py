"""Every public name has a case, so that adding an implementation adds its laws."""

from __future__ import annotations

import pytest
from laws.cases import INSTANCES

from condiff import codecs, guidance, nn, objectives, oracles, process, solvers

PACKAGES = [process, solvers, guidance, objectives, oracles, codecs, nn]
# Protocols, records and functions: nothing to instantiate.
WITHOUT = {
    "Bridge", "Clock", "Coupling", "pair_cost", "Frame", "Fresh", "Grid", "Latent", "Masking", "Paired", "Partitions", "block_ids", "Space", "TimeLaw", "draw_times",  # process
    "Diffusion", "Ending", "Pool",  # solvers
    "ANCHOR", "FLAGS", "LEVEL", "OBSERVED", "Energy", "Judge", "Ratios", "by_first", "by_input", "expected_calls", "expected_changes", "from_omega", "pinball", "pulled",  # guidance
    "SCENARIOS", "hiding", "Form", "Negatives", "Score", "Weight", "rising", "step_divergence",  # objectives
    "Known", "at_noise",  # solvers
    "clusters", "endpoints", "patches", "ring",  # oracles
    # nn: functions, sizes, and the layers inside the networks that do have cases (they have tests of their own)
    "attend", "block_causal", "conv", "group_norm", "initialise", "modulate", "rms_norm", "rounded", "UNetSize", "DiTSize",
    "diagonal_kernel", "diagonalised", "dplr_kernel", "legs", "truncated", "two_sided",
    "has_bf16", "look_back", "observations", "prepare", "Reading",
    "Encoded", "Layout", "Frames", "Tokens", "Conditions", "Conv3d", "CrossAttention", "SelfAttention", "TimeEmbedding",
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_every_public_name_has_a_case(package):
    missing = set(package.__all__) - WITHOUT - INSTANCES.keys()
    assert not missing, f"add small instances of {sorted(missing)} to tests/laws/cases.py"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_every_public_name_exists_and_says_what_it_is(package):
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), f"{package.__name__}.{name} has no docstring"


def test_no_case_is_left_over():
    public = {name for package in PACKAGES for name in package.__all__}
    assert not INSTANCES.keys() - public
    assert not WITHOUT - public
