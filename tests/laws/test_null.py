"""Null law: what stands behind an absent condition, nan included, reaches no output of guidance or oracle."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, FLOW, guidance_stacks, labels, mixture, rng
from torch import nn

from condiff.core import Condition, instant
from condiff.guidance import CFG, Composed, Rescaled
from condiff.oracles import DataSetIdeal
from condiff.process import Preconditioned, V

X = rng(0, 1, 2).normal((3, 2))
T = torch.tensor([0.2, 0.5, 0.8], dtype=DTYPE)


def means(est):
    return torch.cat([est.parts["data"], est.parts["noise"]], 1)


class Reader(nn.Module):
    """Reads a float condition, with a null of its own."""

    def forward(self, x, t, cond):
        return torch.tanh(x) + torch.where(cond.present["size"][:, None], cond.values["size"], 0.25)


@pytest.mark.parametrize("make", [
    lambda d: CFG(d, 2.5), lambda d: Rescaled(d, 2.5), lambda d: Composed(d, {"size": 2.0}),
], ids=["CFG", "Rescaled", "Composed"])  # fmt: skip
@pytest.mark.parametrize("t", [T, instant(0.4)], ids=["rows", "shared"])
def test_guidance_of_rows_that_lack_the_condition_is_plain(make, t):
    plain = Preconditioned(Reader(), FLOW, V())
    present = {"size": torch.tensor([True, False, True])}
    size = rng(7, 8, 9).normal((3, 2))
    clean = Condition({"size": size}, present)
    dirty = Condition({"size": torch.where(present["size"][:, None], size, torch.nan)}, present)
    guided = means(make(plain)(X, t, dirty))
    torch.testing.assert_close(guided, means(make(plain)(X, t, clean)), atol=0.0, rtol=0.0)
    torch.testing.assert_close(guided[1], means(plain(X, t, clean))[1])
    assert not torch.allclose(guided[0], means(plain(X, t, clean))[0])


@pytest.mark.parametrize("stack", guidance_stacks(FLOW))
def test_an_absent_class_may_hold_any_number(stack):
    net = guidance_stacks(FLOW)[stack]
    absent = labels(0, 1, 0).null()
    other = Condition({"label": torch.tensor([1, 0, 2])}, absent.present)
    torch.testing.assert_close(means(net(X, T, other)), means(net(X, T, absent)), atol=0.0, rtol=0.0)


@pytest.mark.parametrize("make", [
    lambda: mixture(FLOW), lambda: DataSetIdeal(FLOW, rng(*range(6)).normal((6, 2)), "label", torch.tensor([0, 1] * 3)),
], ids=["Mixture", "DataSetIdeal"])  # fmt: skip
def test_oracles_ignore_an_absent_class(make):
    oracle = make()
    mixed = Condition({"label": torch.tensor([1, 99, -5])}, {"label": torch.tensor([True, False, False])})
    out = means(oracle(X, T, mixed))
    torch.testing.assert_close(out[1:], means(oracle(X, T, None))[1:])
    torch.testing.assert_close(out[0], means(oracle(X, T, labels(1, 1, 1)))[0])
    assert not torch.allclose(out[0], means(oracle(X, T, None))[0])


def test_a_mixture_given_its_class_is_that_component():
    oracle = mixture(FLOW)
    torch.testing.assert_close(means(oracle(X, T, labels(1, 1, 1))), means(oracle.components[1](X, T, None)))
