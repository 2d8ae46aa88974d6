"""Solvers compared at equal calls: costs are measured, errors are exact, and the advice follows from the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import FLOW

from condiff.core.rng import RowRng
from condiff.evaluate.metric import Metric
from condiff.oracles import patches
from condiff.solvers import SDE, Adams, Heun, Jump, Langevin, Multistep, Proportional
from condiff.tasks.compare import (
    OWN,
    TOKENS,
    Point,
    Truth,
    candidates,
    compare,
    costs,
    exact_systems,
    exact_truth,
    fine_ends,
    is_stochastic,
    recommend,
    spread,
    steps_for,
)  # fmt: skip
from condiff.tasks.generate import SOLVERS, batches


@pytest.fixture(scope="module")
def flow():
    return exact_systems()["2-D mixture, flow"]


@pytest.fixture(scope="module")
def edm():
    return exact_systems()["2-D mixture, EDM"]


def quiet(text):
    pass


@pytest.mark.parametrize(
    ("solver", "on_flow", "on_edm"),
    [(Jump(), (2, 1), (2, 1)), (Heun(), (3, 2), (3, 2)), (Adams(3), (3, 1), (3, 1)), (Langevin(3), (4, 3), (4, 3))],
    ids=["DDIM", "Heun", "Adams", "Langevin"],
)
def test_costs_are_counted_and_steps_stay_within_them(solver, on_flow, on_edm, flow, edm):
    """On EDM's clock a grid of N steps has N nodes and one call that reads the data off the last."""
    for (system, _), cost in ((flow, on_flow), (edm, on_edm)):
        assert costs(system, solver) == cost
        for calls in (cost[0], 7, 10):
            steps = steps_for(cost, calls)
            used = next(iter(batches(system, num_samples=1, num_steps=steps, solver=solver)))[1] if steps else 0
            more = next(iter(batches(system, num_samples=1, num_steps=steps + 1, solver=solver)))[1]
            assert used <= calls < more
    assert steps_for((3, 2), 2) == 0


@pytest.mark.parametrize("name", [name for name in SOLVERS if not isinstance(SOLVERS[name](), TOKENS)])
def test_noise_on_the_way_is_noticed(name, flow):
    assert is_stochastic(flow[0], SOLVERS[name]()) is (name in ("ddpm", "sde", "langevin"))


def test_the_systems_own_solver_is_among_them(flow):
    names = candidates(flow[0])
    assert list(names) == [name for name in SOLVERS if name not in ("first-hitting", "ordered", "token-euler")]
    assert OWN not in names  # Adams(3), which has a name
    from dataclasses import replace

    assert candidates(replace(flow[0], solver=Heun(SOLVERS["adams3"]().clock)))[OWN] == Heun(Adams(3).clock)
    assert list(candidates(flow[0], ["ddim"])) == ["ddim"]
    with pytest.raises(ValueError, match="euler"):
        candidates(flow[0], ["eule"])


def test_errors_are_distances_to_the_exact_ends_and_fall_with_calls(flow):
    system, target = flow
    truth = exact_truth(target, 64, steps=40)
    assert truth.error < 1e-3
    found = compare(
        system,
        truth,
        num_samples=64,
        calls=(5, 20),
        solvers={"ddim": Jump(), "2M": Multistep(2), "sde": SDE(Proportional())},
    )
    by = {(point.solver, point.budget): point for point in found.points}
    for name in ("ddim", "2M"):
        assert by[name, 20].error.value < 0.5 * by[name, 5].error.value
        assert by[name, 20].calls == by[name, 20].num_steps == 20
    assert by["2M", 20].error.value < 0.7 * by["ddim", 20].error.value
    assert by["sde", 20].error is None
    assert by["sde", 20].stochastic
    # The number itself: root mean square over rows and coordinates, in spreads of the end points.
    drawn = torch.cat([x for x, _ in batches(system, num_samples=64, num_steps=5, solver=Jump(), batch_size=64)])
    expected = (drawn - truth.ends).square().mean().sqrt() / spread(truth.ends)
    assert by["ddim", 5].error.value == pytest.approx(float(expected), rel=1e-5)
    assert by["ddim", 5].error.interval[0] < by["ddim", 5].error.value < by["ddim", 5].error.interval[1]
    assert found.accurate == min((p for p in found.points if p.error), key=lambda p: p.error.value)
    assert found.floor.value <= min(p.distance.value for p in found.points) + 0.05


def test_fine_ends_are_those_of_the_exact_flow(edm):
    system, target = edm
    fine, error = fine_ends(system, 32, 100, quiet, seed=0)
    truth = exact_truth(target, 32, steps=100)
    off = float((fine - truth.ends).square().mean().sqrt() / spread(truth.ends))
    assert off < 0.003
    assert 0.3 * off < error < 0.02


def metric(value, low, high):
    return Metric("m", value, (low, high), 10, "made by hand")


def point(solver, calls, distance, error=None):
    made = metric(error, error, error) if error is not None else None
    return Point(solver, calls, calls, calls, error is None, made, metric(*distance))


def test_the_advice_is_the_cheapest_that_is_as_good_as_the_best():
    points = [
        point("a", 5, (9.0, 8.0, 10.0), 0.5), point("b", 10, (2.2, 2.0, 2.4), 0.4), point("c", 10, (2.1, 1.9, 2.3)),
        point("d", 50, (2.0, 1.8, 2.15), 0.01), point("e", 20, (2.05, 1.9, 2.2), 0.02),
    ]  # fmt: skip
    chosen, accurate, why = recommend(points, "data")
    assert (chosen.solver, accurate.solver) == ("c", "d")
    assert "c with 10 steps (10 calls)" in why
    assert "by d at 50 calls" in why
    assert "inversion" in why
    chosen, accurate, why = recommend([point("c", 10, (2.1, 1.9, 2.3))], "data")
    assert (chosen.solver, accurate) == ("c", None)
    assert "inversion" not in why


def test_what_does_not_suit_is_left_out_with_its_reason(flow):
    from condiff.process import Ratio

    system, target = flow
    truth = exact_truth(target, 16, steps=20)
    found = compare(
        system, truth, num_samples=16, calls=(2, 8), solvers={"ratio": Heun(Ratio()), "heun": Heun(), "ddim": Jump()}
    )
    assert "alpha = 0" in found.left_out["ratio"]
    assert found.left_out["heun at 2 calls"] == "two steps take 3 calls"
    assert {(p.solver, p.budget) for p in found.points} == {("heun", 8), ("ddim", 2), ("ddim", 8)}
    with pytest.raises(ValueError, match="no solver suits"):
        compare(system, truth, num_samples=16, calls=(8,), solvers={"ratio": Heun(Ratio())})


def test_the_spread_is_the_distance_from_the_mean():
    rows = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    assert float(spread(rows)) == pytest.approx(math.sqrt(0.5))


def test_the_exact_targets_are_four_and_their_reference_is_drawn_from_them():
    systems = exact_systems()
    assert list(systems) == ["2-D mixture, flow", "2-D mixture, EDM", "64-D mixture, flow", "64-D mixture, EDM"]
    assert [system.shape for system, _ in systems.values()] == [(2,), (2,), (64,), (64,)]
    truth = exact_truth(patches(FLOW), 8, steps=4)
    assert isinstance(truth, Truth)
    assert truth.reference.shape == (32, 64)
    other = patches(FLOW).sample(32, rng=RowRng(1, range(32), dtype=torch.float64))
    assert torch.equal(truth.reference, other)
