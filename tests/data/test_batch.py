"""The in-memory type and the keyed order of training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.data.batch import Dataset, Splits, batch_index, permutation


def small(n: int = 5) -> Dataset:
    return Dataset(
        torch.arange(n * 2, dtype=torch.float32).reshape(n, 2),
        {"label": torch.arange(n), "caption": torch.arange(n * 3, dtype=torch.int16).reshape(n, 3)},
        {"label": torch.arange(n) > 0, "caption": torch.ones(n, dtype=torch.bool)},
        name="small",
        kind="vectors",
        labels={"label": tuple("abcde")[:n]},
        meta={"split": "train"},
    )


def test_rows_gather_data_values_and_flags_in_the_order_asked_for() -> None:
    data, cond = small().rows(torch.tensor([3, 0, 3]))
    assert data.tolist() == [[6, 7], [0, 1], [6, 7]]
    assert cond.values["label"].tolist() == [3, 0, 3]
    assert cond.present["label"].tolist() == [True, False, True]
    assert cond.values["caption"].dtype == torch.int64  # what an embedding takes
    assert cond.values["caption"][1].tolist() == [0, 1, 2]


def test_rows_accept_a_mask_and_widen_integer_data() -> None:
    tokens = Dataset(torch.tensor([[1], [256]], dtype=torch.int16), {}, {}, name="t", kind="text")
    data, cond = tokens.rows(torch.tensor([False, True]))
    assert data.dtype == torch.int64
    assert data.tolist() == [[256]]
    assert len(cond) == 0
    assert cond.values == {}


def test_where_and_take_keep_everything_aligned() -> None:
    part = small().where(torch.tensor([4, 1])).take(1)
    assert len(part) == 1
    assert part.data.tolist() == [[8, 9]]
    assert part.conditions["label"].tolist() == [4]
    assert part.present["label"].tolist() == [True]
    assert part.labels == small().labels
    assert part.meta == {"split": "train"}
    assert len(small().take(100)) == 5
    with pytest.raises(ValueError, match="cannot take -1 rows"):
        small().take(-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"present": {}}, "condition names differ"),
        ({"conditions": {"a": torch.zeros(4)}, "present": {"a": torch.ones(5, dtype=torch.bool)}}, "must have 5 rows"),
        ({"conditions": {"a": torch.zeros(5)}, "present": {"a": torch.ones(5)}}, "must be bool"),
        ({"labels": {"nothing": ("a",)}}, "labels for 'nothing'"),
        ({"data": torch.tensor(1.0)}, "single number"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    parts = {"data": torch.zeros(5, 2), "conditions": {}, "present": {}, "name": "bad", "kind": "vectors"}
    if "present" in changes and "conditions" not in changes:
        parts["conditions"] = {"a": torch.zeros(5)}
    with pytest.raises(ValueError, match=message):
        Dataset(**{**parts, **changes})  # type: ignore[arg-type]


def test_parts_of_different_shape_are_refused() -> None:
    other = Dataset(torch.zeros(2, 3), {}, {}, name="small", kind="vectors")
    with pytest.raises(ValueError, match="validation has example shape"):
        Splits(Dataset(torch.zeros(2, 2), {}, {}, name="small", kind="vectors"), other, other)


@given(n=st.integers(1, 300), seed=st.integers(-(2**63), 2**64), epoch=st.integers(0, 2**40))
@settings(deadline=None, max_examples=30)
def test_a_permutation_has_every_row_once(n: int, seed: int, epoch: int) -> None:
    order = permutation(n, seed, epoch)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def scrambled(x: int) -> int:
    """The same hash in plain integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_the_order_is_a_sort_by_keyed_hash() -> None:
    # The rule in plain integers: a change of it would break the resumption of every older run.
    for n, seed, epoch in ((10, 0, 0), (33, 7, 2), (5, 2**64 - 1, 2**33)):
        key = scrambled(scrambled(seed) + epoch)
        expected = sorted(range(n), key=lambda row: scrambled((row + key) % 2**64))
        assert permutation(n, seed, epoch).tolist() == expected
    assert permutation(10, 0, 1).tolist() != permutation(10, 0, 0).tolist()
    assert permutation(10, 1, 0).tolist() != permutation(10, 0, 0).tolist()
    assert permutation(10, 0, 1).tolist() != permutation(10, 1, 0).tolist()


def test_the_order_is_even() -> None:
    # Row 0 lands in every place equally often: 4,000 orders of 4 rows, 5 standard deviations of a binomial.
    places = torch.stack([permutation(4, 3, epoch).argsort() for epoch in range(4000)])
    counts = torch.stack([(places[:, 0] == place).sum() for place in range(4)])
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


@given(n=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_batches_are_the_epochs_laid_end_to_end(n: int, batch_size: int, seed: int) -> None:
    steps = 3 * n // batch_size + 2
    joined = torch.cat([batch_index(n, batch_size, seed, step) for step in range(steps)])
    epochs = torch.cat([permutation(n, seed, epoch) for epoch in range(len(joined) // n + 1)])
    assert torch.equal(joined, epochs[: len(joined)])


def test_batches_do_not_depend_on_what_was_asked_before_or_on_global_state() -> None:
    state = torch.random.get_rng_state()
    late = batch_index(1000, 64, 5, 10**6)
    for step in range(50):
        batch_index(1000, 64, 5, step)
    mine = batch_index(1000, 64, 5, 10**6)
    assert torch.equal(late, mine)
    mine.zero_()  # a caller may write into its own copy
    assert torch.equal(batch_index(1000, 64, 5, 10**6), late)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        batch_index(0, 1, 0, 0)
    with pytest.raises(ValueError, match="step=-1"):
        batch_index(4, 1, 0, -1)
    with pytest.raises(ValueError, match="epoch=-1"):
        permutation(4, 0, -1)
