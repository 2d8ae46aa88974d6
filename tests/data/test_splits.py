"""Fixed splits: their sizes, their stability, and that nothing is in two parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.data.splits import TEST, TRAIN, VALIDATION, borders, keyed_split, mix, split_rows


def test_mix_is_splitmix64() -> None:
    # First outputs of SplitMix64 started at 1234567 (published test vector of the algorithm).
    gamma = np.uint64(0x9E3779B97F4A7C15)
    states = np.array([1234567], np.uint64) + np.arange(3, dtype=np.uint64) * gamma
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_shares_are_met_on_many_names() -> None:
    parts = split_rows(20_000, (0.05, 0.1))
    for code, share in ((VALIDATION, 0.05), (TEST, 0.1)):
        spread = (share * (1 - share) / 20_000) ** 0.5
        assert abs((parts == code).mean() - share) < 5 * spread


def test_adding_files_moves_none_of_the_others() -> None:
    names = [f"class/{number}.png" for number in range(400)]
    before = keyed_split(names)
    after = keyed_split([*names, *(f"new/{number}.png" for number in range(300))])
    assert (after[:400] == before).all()
    assert {TRAIN, VALIDATION, TEST} == set(before.tolist())


def test_the_order_of_names_does_not_matter() -> None:
    names = [f"{number}.png" for number in range(100)]
    assert (keyed_split(names)[::-1] == keyed_split(names[::-1])).all()
    assert (keyed_split(names, seed=1) != keyed_split(names)).any()


@given(n=st.integers(3, 40), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_no_part_is_ever_empty(n: int, seed: int) -> None:
    parts = split_rows(n, seed=seed)
    assert {TRAIN, VALIDATION, TEST} == set(parts.tolist())


@pytest.mark.parametrize(
    ("names", "fractions", "message"),
    [
        (["a", "b"], (0.1, 0.1), "found 2 example"),
        (["a", "b", "a"], (0.1, 0.1), "same name"),
        (["a", "b", "c"], (0.5, 0.5), "below 1 together"),
        (["a", "b", "c"], (0.0, 0.5), "must be positive"),
    ],
)
def test_impossible_splits_are_refused(names: list[str], fractions: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keyed_split(names, fractions)


def test_borders_of_time() -> None:
    assert borders(100, 0.8, 0.1) == (80, 90)
    assert borders(17520, 0.8, 0.1) == (14016, 15768)
