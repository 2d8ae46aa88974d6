"""The experiment on bridges, cut to two steps: it runs end to end and tells the truth."""

from __future__ import annotations

import pytest

from condiff.claims import Row, interpolants

GOOD = {
    "latent 2, SDE eps 0.2: distance": 1.6,
    "latent 2, SDE eps 0.5: distance": 1.7,
    "best SDE / its ODE": 0.8,
    "best SDE / no latent noise": 0.7,
    "latent 2, SDE eps 0.2: variance ratio": 0.85,
    "latent 2, SDE eps 0.5: variance ratio": 0.5,
    "latent 2, ODE: variance ratio": 0.78,
    "latent 2, SDE eps 0.2: read as 7": 98.0,
    "sharpened, SDE eps 0.2: distance": 2.0,
    "sharpened, ODE: distance": 3.0,
    "sharpened, mean (baseline): distance": 2.5,
    "half way, ODE": 0.3,
    "half way, SDE eps 0.5": 0.4,
    "half way, without latent noise": 1.0,
}


def verdict(**change):
    return interpolants.verdict([Row(k, v, "", 10, (v, v)) for k, v in {**GOOD, **change}.items()])


def test_the_verdict_is_a_function_of_the_rows():
    assert verdict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best SDE / its ODE", 0.86),
        ("best SDE / no latent noise", 0.76),
        ("latent 2, SDE eps 0.2: variance ratio", 0.77),
        ("latent 2, SDE eps 0.2: read as 7", 94.9),
        ("sharpened, SDE eps 0.2: distance", 2.6),
        ("sharpened, ODE: distance", 1.9),
        ("half way, ODE", 0.51),
        ("half way, SDE eps 0.5", 0.51),
        ("latent 2, SDE eps 0.5: distance", 1.5),  # then .5 is the best, and its variance ratio is too low
    ],
)
def test_every_part_can_fail(name, value):
    assert not verdict(**{name: value})


def test_it_runs_end_to_end_and_counts_its_calls(monkeypatch, tmp_path):
    budget = interpolants.Budget(steps=2, long=2, num_samples=40, num_seeds=1, num_steps=4, batch_size=8)
    monkeypatch.setattr(interpolants, "QUICK", budget)
    result = interpolants.run(quick=True, seed=0, out=tmp_path, talk=lambda text: None)
    assert result.holds is interpolants.verdict(result.rows)
    assert not result.holds  # nothing was learned
    # Nine ways from ones to sevens, three of sharpening and three from noise, each in one batch.
    assert result.calls == 4 * (9 + 3 + 3)
    assert {path.name for path in tmp_path.glob("*.png")} >= {"one_to_seven.png", "sharpened.png"}
    names = {row.name for row in result.rows}
    assert set(GOOD) <= names
    again = interpolants.run(quick=True, seed=0, out=None, talk=lambda text: None)
    assert [row.value for row in again.rows] == [row.value for row in result.rows]
