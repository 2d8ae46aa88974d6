"""Conditions: flags, rows, dropping, and the schema as JSON."""

from __future__ import annotations

import json

import pytest
import torch

from condiff.core import (
    ClassLabel,
    Condition,
    Embeddings,
    Picture,
    RowRng,
    Series,
    TokenIds,
    Vector,
    rollout,
    schema_from_json,
    schema_to_json,
)  # fmt: skip

COND = Condition.of(label=torch.tensor([3, 1, 2]), size=torch.tensor([[0.1], [0.2], [0.3]]))


def test_null_marks_and_keeps_values():
    absent = COND.null("size")
    assert absent.present["label"].all()
    assert not absent.present["size"].any()
    assert torch.equal(absent.values["size"], COND.values["size"])
    assert not any(bool(flag.any()) for flag in COND.null().present.values())
    assert COND.present["size"].all(), "the original must not change"


def test_rows_and_cat_are_inverse():
    parts = [COND.rows(torch.tensor([k])) for k in range(3)]
    again = parts[0].cat(parts[1].null("label")).cat(parts[2])
    assert torch.equal(again.values["label"], COND.values["label"])
    assert again.present["label"].tolist() == [True, False, True]
    assert COND.rows(torch.tensor([False, True, True])).values["label"].tolist() == [1, 2]
    assert len(again) == 3


def test_dropping_is_independent_by_name_and_row_and_ignores_order():
    many = Condition.of(a=torch.zeros(4000), b=torch.zeros(4000), c=torch.zeros(4000))
    dropped = many.drop({"a": 0.5, "b": 0.2}, rng=RowRng(0, range(4000)))
    again = many.drop({"b": 0.2, "a": 0.5}, rng=RowRng(0, range(4000)))
    a, b = dropped.present["a"].double(), dropped.present["b"].double()
    assert torch.equal(dropped.present["a"], again.present["a"])
    assert float(a.mean()) == pytest.approx(0.5, abs=0.032)
    assert float(b.mean()) == pytest.approx(0.8, abs=0.026)
    assert float((a * b).mean()) == pytest.approx(0.4, abs=0.032)
    assert dropped.present["c"].all()


def test_a_dropped_name_stays_dropped():
    dropped = COND.null("label").drop({"label": 0.0}, rng=RowRng(0, range(3)))
    assert not dropped.present["label"].any()


def test_adding_replaces_and_marks_as_present():
    more = COND.null().adding(size=torch.ones(3, 1))
    assert more.present["size"].all()
    assert not more.present["label"].any()


@pytest.mark.parametrize(
    ("values", "present", "message"),
    [
        ({"a": torch.zeros(2)}, {}, "names differ"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": torch.ones(2).bool(), "b": torch.ones(3).bool()}, "batch"),
        ({"a": torch.tensor(1.0)}, {"a": torch.ones(1).bool()}, "batch"),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}, "bool"),
        ({"a": torch.zeros(2)}, {"a": torch.ones(3).bool()}, "bool"),
    ],
)
def test_malformed_conditions_are_refused(values, present, message):
    with pytest.raises(ValueError, match=message):
        Condition(values, present)


def test_unknown_names_are_refused():
    with pytest.raises(KeyError, match="text"):
        COND.null("text")
    with pytest.raises(KeyError, match="text"):
        COND.drop({"text": 0.1}, rng=RowRng(0, range(3)))
    with pytest.raises(ValueError, match="stack"):
        COND.cat(Condition.of(label=torch.tensor([1])))


def test_a_schema_survives_json():
    schema = {
        "label": ClassLabel(3, ("a", "b", "c")), "size": Vector(2), "text": TokenIds(5, 9), "set": Embeddings(4, 8),
        "image": Picture(3), "past": Series(2, 7),
    }  # fmt: skip
    assert schema_from_json(json.loads(json.dumps(schema_to_json(schema)))) == schema
    with pytest.raises(ValueError, match="Hologram"):
        schema_from_json({"x": {"kind": "Hologram"}})


def test_rollout_remembers_every_block():
    def generate(cond, k):
        return torch.full((1, 1), float(k)) + (0.0 if cond is None else cond.values["last"])

    blocks = list(rollout(generate, 4, lambda cond, block: Condition.of(last=block)))
    assert [float(block) for block in blocks] == [0.0, 1.0, 3.0, 6.0]
    start = Condition.of(last=torch.full((1, 1), 10.0))
    assert [float(b) for b in rollout(generate, [5, 7], lambda c, b: Condition.of(last=b), start)] == [15.0, 22.0]
