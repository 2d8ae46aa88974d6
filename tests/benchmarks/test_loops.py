"""What is compared is what it says: floors, our loops, and neighbours that may be missing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from benchmarks import loops, neighbours
from benchmarks.paired import Effort, Ops, Row, Stored

from condiff.core import RowRng
from condiff.core.drivers import instants
from condiff.process import Preconditioned

SHAPE = (1, 2, 3, 3)


def tensors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_floors_compute_what_they_say():
    x, out = tensors()
    floors = loops.floors(x, out, steps=3)
    table = [(0.99 - i * 1e-4, 0.01 + i * 1e-4) for i in range(3)]
    flow = x + out * sum(b for _, b in table)
    one = many = noisy = x.double()
    for i, (a, b) in enumerate(table):
        fresh = torch.randn(SHAPE, generator=torch.Generator().manual_seed(i))
        one, many, noisy = a * one + b * out, a * many + 0.5 * b * out, a * noisy + b * out + 0.1 * fresh
    expected = {
        "floor flow": flow, "floor flow, calling": flow, "floor": one, "floor, calling": one,
        "floor multistep": many, "floor stochastic": noisy,
    }  # fmt: skip
    assert floors.keys() == expected.keys()
    for name, run in floors.items():
        torch.testing.assert_close(run(), expected[name].float(), msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(x, tensors()[0], rtol=0.0, atol=0.0)  # a floor works on a copy


@pytest.mark.parametrize(
    ("name", "operations"),
    [("floor flow", 1), ("floor", 2), ("floor multistep", 3)],
)
def test_a_floor_is_the_fewest_operations(name, operations):
    x, out = tensors()
    counts = []
    for steps in (4, 8):
        with Ops() as seen:
            loops.floors(x, out, steps)[name]()
        counts.append(seen.total)
    assert counts[1] - counts[0] == 4 * operations


@pytest.mark.parametrize("name", loops._cases())
def test_our_loops_run_the_solver_they_name(name):
    """The timed loop against the solver's own steps, taken by hand."""
    process, target, solver, grid = loops._cases()[name]
    x, out = tensors()
    times = instants(grid(process.schedule, 5))
    net, rng, state = Preconditioned(Stored(out), process, target), RowRng(0, range(1)), solver.init(x, times[0])
    with torch.no_grad():
        for t, s in pairwise(times):
            state = solver.step(process, lambda x, t: net(x, t, None), state, t, s, rng)
    torch.testing.assert_close(loops.ours(loops._cases()[name], x, out, steps=5)(), state.x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "most"),
    [("flow Euler", 1), ("DDIM", 2), ("Adams 2, flow", 2), ("Adams 3, default", 5), ("DPM++ 2M", 4), ("UniPC", 5)],
)
def test_operations_a_step(name, most):
    x, out = tensors()
    assert loops._operations(loops._cases()[name], x, out) <= most


def test_every_case_has_its_rivals_and_bounds():
    cases = set(loops._cases())
    assert set(loops.RIVALS) == cases
    assert set(loops.BOUNDS) <= cases
    assert set(loops.PROMISED) == set(loops.LEAST) <= cases
    assert set(loops.FLOORS.values()) <= set(loops.floors(*tensors()))


def test_a_missing_neighbour_is_named_and_a_broken_one_is_not_hidden():
    def absent():
        raise ImportError("elsewhere is not installed")

    def broken():
        raise RuntimeError("changed its interface")

    ran, skipped = neighbours.collect({"here": lambda: lambda: None, "elsewhere": absent})
    assert set(ran) == {"here"}
    assert skipped == {"elsewhere": "skipped: elsewhere is not installed"}
    with pytest.raises(RuntimeError, match="changed its interface"):
        neighbours.collect({"broken": broken})


def test_a_neighbour_runs_its_steps_around_the_same_network():
    pytest.importorskip("diffusers")
    x, out = tensors()
    # Euler on a stored velocity is a straight line from sigma = 1 to 0, whatever the grid.
    torch.testing.assert_close(neighbours.diffusers_loop("FlowMatchEulerDiscreteScheduler", x, out, 4)(), x - out)


@pytest.mark.filterwarnings("ignore")  # neighbours' own; their imports are what takes seconds here
def test_measuring_gives_rows_of_its_goals():
    rows = loops.measure(Effort(smoke=True))
    assert {row.goal for row in rows} == {"G1", "G2", "G3", "G5"}
    assert all(isinstance(row, Row) and row.value > 0.0 for row in rows)
