"""The example scripts run, and what they show is so."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _one_thread():
    """Run on one thread: on networks this small, two threads wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {"own_solver", "train_flow", "guidance"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_own_solver_has_its_order():
    errors = load("own_solver").main()
    for name, order in (("Euler", 1), ("Heun", 2), ("Ralston", 2)):
        assert math.log2(errors[name][32] / errors[name][64]) == pytest.approx(order, abs=0.25)


def test_train_flow_learns_its_condition(capsys):
    assert load("train_flow").main() > 0.95  # 0.995 when written; an unconditional model gives 0.5
    assert "step 600" in capsys.readouterr().out


def test_guidance_composes():
    means = list(load("guidance").main().values())
    plain, strong, interval, pulled, both = means
    # 500 samples of spread 0.5 leave 0.02 a coordinate.
    assert plain.tolist() == pytest.approx([1.0, 0.0], abs=0.08)
    assert strong[0] > interval[0] > plain[0] + 0.05
    assert abs(strong[1] - plain[1]) < 0.05
    assert pulled[1] > plain[1] + 0.8
    assert abs(pulled[0] - plain[0]) < 0.05
    assert both[0] > pulled[0] + 0.05
    assert both[1] > strong[1] + 0.5
