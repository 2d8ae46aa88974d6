"""Sets whose examples carry an input."""

from __future__ import annotations

import pytest
import torch

from condiff.data import Dataset, Splits
from condiff.data.pairs import NAME, between, degraded, jittered
from condiff.recipes.measure import schema_of


def splits(count=6, shape=(1, 2, 2)):
    def part(start):
        data = torch.arange(start, start + count).float().reshape(-1, *(1,) * len(shape)).expand(count, *shape).clone()
        return Dataset(
            data,
            {"label": torch.arange(count) % 3, "size": data.flatten(1)[:, :1]},
            {name: torch.ones(count, dtype=torch.bool) for name in ("label", "size")},
            name="toy",
            kind="images",
            labels={"label": ("a", "b", "c")},
            meta={"conditions": {"label": {"kind": "class", "num_classes": 3}, "size": {"kind": "vector"}}},
        )

    return Splits(part(0), part(100), part(200))


def test_a_class_is_kept_and_another_is_its_input():
    made = between(splits(), source=1, target=2)
    assert made.train.data[:, 0, 0, 0].tolist() == [2.0, 5.0]
    assert made.train.conditions[NAME][:, 0, 0, 0].tolist() == [1.0, 4.0]
    assert made.test.conditions[NAME][:, 0, 0, 0].tolist() == [201.0, 204.0]
    assert "label" not in made.train.conditions
    assert sorted(schema_of(made.train)) == [NAME, "size"]
    assert made.train.conditions["size"].flatten().tolist() == [2.0, 5.0]


def test_too_few_of_a_class_are_used_in_turn():
    made = between(splits(7), source=1, target=0)  # classes 0 1 2 0 1 2 0: three of 0, two of 1
    assert made.train.conditions[NAME][:, 0, 0, 0].tolist() == [1.0, 4.0, 1.0]
    with pytest.raises(ValueError, match="0 rows of class 5"):
        between(splits(), source=5, target=0)
    with pytest.raises(ValueError, match="no condition 'digit'"):
        between(splits(), source=1, target=0, name="digit")


def test_a_spoiled_version_is_the_input():
    made = degraded(splits(), lambda x: 0.5 * x)
    torch.testing.assert_close(made.validation.conditions[NAME], 0.5 * made.validation.data)
    assert made.train.conditions["label"].tolist() == [0, 1, 2, 0, 1, 2]
    flat = degraded(splits(shape=(4,)), lambda x: -x)
    assert schema_of(flat.train)[NAME].size == 4
    with pytest.raises(ValueError, match="inputs have shape"):
        degraded(splits(), lambda x: x[:, :, :1])


def test_noise_is_fixed_and_leaves_other_conditions_alone():
    plain = degraded(splits(400), lambda x: x.clone())
    one, again = jittered(plain, 0.1), jittered(plain, 0.1)
    assert torch.equal(one.train.data, again.train.data)
    assert float((one.train.data - plain.train.data).std()) == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(one.train.data, one.train.conditions[NAME])
    assert torch.equal(one.train.conditions["size"], plain.train.conditions["size"])
