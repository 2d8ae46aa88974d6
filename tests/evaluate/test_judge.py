"""The packaged digit judge, on the real test digits."""

from __future__ import annotations

from importlib import resources

import pytest
import torch
from torch import Tensor

from condiff.data import read
from condiff.evaluate import Judge, agreement, judge, judge_facts


@pytest.fixture(scope="module")
def test_digits() -> tuple[Tensor, Tensor]:
    test = read("digits").test
    return test.data, test.conditions["label"]


def test_accuracy_on_the_test_digits(test_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = test_digits
    assert len(labels) == 1000
    got = agreement(images, labels, classify=judge().classify, definition=judge().definition)
    assert got.value >= 0.98
    assert min(got.details.values()) >= 0.95  # no digit is given up
    assert got.value == pytest.approx(float(judge_facts()["test_accuracy"]), abs=0.002)


def test_it_does_not_read_mirrored_digits_as_well(test_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = test_digits
    assert (judge().classify(images.flip(-1)) == labels).double().mean().item() < 0.7


def test_a_row_does_not_depend_on_its_batch(test_digits: tuple[Tensor, Tensor]) -> None:
    images = test_digits[0][:24]
    whole = judge().logits(images)
    for rows in (images[:1], images[5:9], images.flip(0)):
        index = [int((images == row).flatten(1).all(1).nonzero()[0]) for row in rows]
        torch.testing.assert_close(judge().logits(rows), whole[index], atol=1e-5, rtol=1e-5)


def test_features_are_what_the_logits_read(test_digits: tuple[Tensor, Tensor]) -> None:
    net, images = judge(), test_digits[0][:8]
    features = net.features(images)
    assert features.shape == (8, 64)
    assert float(features.min()) == 0.0  # after the ReLU, as the definition says
    torch.testing.assert_close(features @ net.head.weight.T + net.head.bias, net.logits(images))
    assert torch.equal(net(images), net.logits(images))
    assert torch.equal(net.classify(images), net.logits(images).argmax(-1))
    assert net.classify(images[:0]).shape == (0,)


def test_loading_is_cached_frozen_and_leaves_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    judge.cache_clear()
    net = judge()
    assert torch.equal(state, torch.get_rng_state())
    assert judge() is net
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_it_can_guide(test_digits: tuple[Tensor, Tensor]) -> None:
    x = test_digits[0][:2].clone().requires_grad_()
    judge().logits(x)[:, 3].sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_the_file_is_small_and_says_what_it_is() -> None:
    file = resources.files("condiff.evaluate") / "weights" / "judge.safetensors"
    assert len(file.read_bytes()) < 600_000
    facts = judge_facts()
    assert "rows 0-7999" in facts["split"]
    assert float(facts["validation_accuracy"]) >= 0.98
    assert {"data", "training", "licence", "made_by"} <= facts.keys()


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 28, 28), torch.zeros(2, 3, 28, 28), torch.zeros(2, 1, 28, 28, dtype=torch.uint8)]
)
def test_other_data_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, 28, 28\)"):
        Judge().features(x)
