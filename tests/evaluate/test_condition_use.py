"""Condition use, on losses whose dependence on the condition is built in."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condiff.core.condition import Condition
from condiff.evaluate import condition_use, exchange

B = 60


def noise(seed: int, n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 5


def setting() -> tuple[Tensor, Condition]:
    digit = torch.arange(B) % 5
    return digit[:, None].float(), Condition.of(digit=digit, colour=torch.arange(B).flip(0) // 12)


def using(data: Tensor, cond: Condition | None, seed: int) -> Tensor:
    """Loss 1 if the digit is wrong, 0.25 if it is absent, 0 if right; the same strong noise in every case."""
    assert cond is not None
    wrong = (cond.values["digit"] != data[:, 0]).double()
    return torch.where(cond.present["digit"], wrong, 0.25) + noise(seed, len(data)) + 20


def ignoring(data: Tensor, cond: Condition | None, seed: int) -> Tensor:
    return noise(seed, len(data)) + 20


def misled(data: Tensor, cond: Condition | None, seed: int) -> Tensor:
    assert cond is not None
    return 2 - (cond.values["digit"] != data[:, 0]).double()


def test_a_used_condition_is_found_through_the_noise() -> None:
    data, cond = setting()
    got = condition_use(using, data, cond, seed=0, name="digit")
    assert got.shuffled is not None
    # Pairing cancels the noise (standard deviation 5) entirely, so the differences are exact.
    assert got.shuffled.value == pytest.approx(1.0, abs=1e-6)
    assert got.shuffled.interval == pytest.approx((1.0, 1.0), abs=1e-5)
    assert got.dropped.value == pytest.approx(0.25, abs=1e-6)
    assert got.used
    assert "'digit' is used" in got.verdict
    assert (got.shuffled.n, got.dropped.n, got.loss.n) == (B, B, B)


def test_an_unused_condition_is_not_claimed() -> None:
    data, cond = setting()
    got = condition_use(ignoring, data, cond, seed=0, name="digit")
    assert got.shuffled is not None
    assert got.shuffled.value == 0.0
    assert not got.used
    assert got.verdict.startswith("No use of the condition 'digit' can be shown")


def test_a_misleading_condition_is_told() -> None:
    data, cond = setting()
    got = condition_use(misled, data, cond, seed=0, name="digit")
    assert not got.used
    assert "misleads" in got.verdict


def test_noise_that_differs_by_condition_gives_an_interval_around_zero() -> None:
    data, cond = setting()

    def loss(x: Tensor, given: Condition | None, seed: int) -> Tensor:
        assert given is not None
        shift = int(given.values["digit"][0]) + 10 * int(given.present["digit"][0])
        return noise(seed + shift, len(x))

    got = condition_use(loss, data, cond, seed=3, name="digit")
    assert got.shuffled is not None
    assert got.shuffled.interval[0] < 0 < got.shuffled.interval[1]
    assert not got.used


def test_several_names_are_reported_together_and_alone() -> None:
    data, cond = setting()
    got = condition_use(using, data, cond, seed=0)
    assert got.name == "colour + digit"
    assert [part.name for part in got.parts] == ["colour", "digit"]
    assert [part.used for part in got.parts] == [False, True]
    assert got.parts[0].shuffled is not None
    assert got.parts[0].shuffled.value == 0.0  # the digit stayed true while the colour moved
    assert got.shuffled is not None
    assert got.shuffled.value > 0.5
    text = json.loads(json.dumps(got.to_json()))
    assert text["parts"][1]["used"] is True
    assert text["verdict"] == got.verdict


def test_rows_without_the_condition_are_left_out() -> None:
    data, cond = setting()
    cond = Condition(cond.values, {**cond.present, "digit": torch.arange(B) % 2 == 0})
    seen = []

    def loss(x: Tensor, given: Condition | None, seed: int) -> Tensor:
        assert given is not None
        seen.append(given.present["digit"].clone())
        return using(x, given, seed)

    got = condition_use(loss, data, cond, seed=0, name="digit", num_draws=1)
    assert got.dropped.n == B // 2
    assert got.dropped.value == pytest.approx(0.25, abs=1e-6)
    assert got.shuffled is not None
    assert got.shuffled.value == pytest.approx(1.0, abs=1e-6)
    assert [int(flags.sum()) for flags in seen[2:]] == [B // 2, 0, B // 2]  # true, dropped, exchanged


def test_a_constant_condition_cannot_be_judged() -> None:
    data, _ = setting()
    got = condition_use(using, data, Condition.of(digit=torch.zeros(B, dtype=torch.int64)), seed=0)
    assert got.shuffled is None
    assert not got.used
    assert "cannot be told" in got.verdict
    assert got.to_json()["shuffled"] is None


def test_a_rare_value_is_measured_on_rows_that_changed() -> None:
    digit = torch.zeros(10, dtype=torch.int64)
    digit[:2] = 1
    got = condition_use(using, digit[:, None].float(), Condition.of(digit=digit), seed=0)
    assert got.shuffled is not None
    assert got.shuffled.n == 4  # the two ones and the two zeros they went to
    assert got.shuffled.value == pytest.approx(1.0, abs=1e-6)


def test_unseeded_losses_are_refused() -> None:
    data, cond = setting()
    count = iter(range(1000))
    with pytest.raises(ValueError, match="different losses for equal arguments"):
        condition_use(lambda x, given, seed: noise(next(count), len(x)), data, cond, seed=0)


def test_wrong_calls_are_refused() -> None:
    data, cond = setting()
    with pytest.raises(KeyError, match="no condition named 'shape'"):
        condition_use(using, data, cond, seed=0, name="shape")
    with pytest.raises(ValueError, match="one condition a row"):
        condition_use(using, data[:5], cond, seed=0)
    with pytest.raises(ValueError, match="one loss a row"):
        condition_use(lambda x, given, seed: noise(seed, len(x)).mean(), data, cond, seed=0)
    with pytest.raises(ValueError, match="only 0 held-out rows"):
        condition_use(using, data, cond.null(), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        condition_use(lambda x, given, seed: torch.full((len(x),), torch.nan), data, cond, seed=0)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(0, 1000))
def test_exchange_is_the_best_derangement(values: list[int], seed: int) -> None:
    labels = [bytes([value]) for value in values]
    index = exchange(labels, seed=seed)
    n = len(values)
    assert sorted(index.tolist()) == list(range(n))
    assert not bool((index == torch.arange(n)).any())
    changed = sum(labels[i] != labels[int(j)] for i, j in enumerate(index))
    most = max(Counter(values).values())
    assert changed == min(n, 2 * (n - most))


def test_exchange_varies_with_the_seed() -> None:
    labels = [bytes([i % 7]) for i in range(30)]
    assert not torch.equal(exchange(labels, seed=0), exchange(labels, seed=1))
    assert torch.equal(exchange(labels, seed=0), exchange(labels, seed=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_any_type_of_value_can_be_exchanged(dtype: torch.dtype) -> None:
    value = (torch.arange(B * 6).reshape(B, 2, 3) % 2 + torch.arange(B)[:, None, None] % 2).to(dtype)
    data = value.float().flatten(1)

    def loss(x: Tensor, given: Condition | None, seed: int) -> Tensor:
        assert given is not None
        return (given.values["field"].float().flatten(1) != x).any(1).double()

    got = condition_use(loss, data, Condition.of(field=value), seed=0)
    assert got.shuffled is not None
    assert (got.shuffled.value, got.loss.value) == (1.0, 0.0)
