"""Ridge regression: its normal equations, its leave-one-out noise and its error bars."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE

from condiff.core import Condition, SharedRng
from condiff.nn import Ridge


def problem(rows=40, features=5, noise=0.3, seed=0):
    draw = SharedRng(seed, dtype=DTYPE)
    x = draw.normal((rows, features)) * torch.tensor([3.0, 1.0, 1.0, 0.5, 0.1], dtype=DTYPE)[:features] + 2.0
    theta = torch.tensor([1.0, -2.0, 0.5, 0.0, 4.0], dtype=DTYPE)[:features]
    return x, x @ theta + 7.0 + noise * draw.normal((rows,)), theta


def test_weights_minimise_the_penalised_error():
    x, y, _ = problem()
    model = Ridge(5, penalty=2.0).double()
    model.solve(x, y)

    def cost(theta, bias):
        return (y - x @ theta - bias).square().sum() + 2.0 * theta.square().sum()

    theta, bias = model.theta.clone().requires_grad_(), model.bias.clone().requires_grad_()
    for gradient in torch.autograd.grad(cost(theta, bias), (theta, bias)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0.0)
    torch.testing.assert_close(model(x), x @ model.theta + model.bias)


def test_noise_is_the_error_on_rows_left_out():
    x, y, _ = problem(rows=12)
    model = Ridge(5).double()
    model.solve(x, y)
    errors = []
    for k in range(12):
        rest = torch.arange(12) != k
        alone = Ridge(5).double()
        alone.solve(x[rest], y[rest])
        errors.append(float(y[k] - alone(x[k : k + 1])))
    # the shortcut keeps the centre of all rows where the refit has its own; with an intercept both agree exactly
    assert float(model.noise) == pytest.approx(float(torch.tensor(errors).square().mean().sqrt()), rel=1e-6)


def test_errors_grow_away_from_the_labelled_rows_and_cover():
    x, y, _ = problem(rows=30)
    model = Ridge(5).double()
    model.solve(x, y)
    near, far = model.error(x.mean(0, keepdim=True)), model.error(x.mean(0, keepdim=True) + 50.0)
    assert float(near) == pytest.approx(float(model.noise) * (1.0 + 1.0 / 30.0) ** 0.5)
    assert float(far) > 5.0 * float(near)
    fresh, labels, _ = problem(rows=500, seed=9)
    gap = (model(fresh) - labels).abs()
    assert 0.9 < float((gap < 2.0 * model.error(fresh)).double().mean()) < 0.995


def explicit(x, penalty):
    """(X^T X + penalty I)^-1 with X centred."""
    centred = x - x.mean(0)
    return centred, torch.linalg.inv(centred.T @ centred + penalty * torch.eye(x.shape[1], dtype=DTYPE))


@pytest.mark.parametrize("rows", [9, 40], ids=["fewer rows than features", "more"])
def test_both_sides_of_the_normal_equations_agree(rows):
    draw = SharedRng(4, dtype=DTYPE)
    x, y = draw.normal((rows, 20)), draw.normal((rows,))
    model = Ridge(20, penalty=0.7).double()
    model.solve(x, y)
    centred, inverse = explicit(x, 0.7)
    torch.testing.assert_close(model.theta, inverse @ centred.T @ (y - y.mean()))
    probe = draw.normal((6, 20)) * 3.0
    away = probe - x.mean(0)
    spread = ((away @ inverse) * away).sum(1)
    torch.testing.assert_close(model.error(probe), model.noise * (1.0 + 1.0 / rows + spread).sqrt())


def test_directions_that_were_cut_off_only_widen_the_error(monkeypatch):
    draw = SharedRng(4, dtype=DTYPE)
    x, y, probe = draw.normal((40, 20)), draw.normal((40,)), draw.normal((6, 20))
    whole = Ridge(20).double()
    whole.solve(x, y)
    monkeypatch.setattr("condiff.nn.ridge.RANK", 5)
    small = Ridge(20).double()
    small.solve(x, y)
    assert small.basis.shape == (20, 5)
    torch.testing.assert_close(small.theta, whole.theta)
    assert bool((small.error(probe) >= whole.error(probe)).all())


def test_it_measures_the_rows_that_have_a_label():
    x, y, _ = problem()
    there = torch.arange(40) % 2 == 0
    value = torch.where(there, y, 1e6)[:, None]
    model, direct = Ridge(5, "reward").double(), Ridge(5).double()
    model.measure(lambda: [(x[k : k + 16], Condition({"reward": value[k : k + 16]}, {"reward": there[k : k + 16]}))
                           for k in range(0, 40, 16)])  # fmt: skip
    direct.solve(x[there], y[there])
    torch.testing.assert_close(model.theta, direct.theta)
    assert int(model.rows) == 20
    with pytest.raises(ValueError, match="no condition 'profit'"):
        Ridge(5, "profit").measure(lambda: [(x, Condition({"reward": value}, {"reward": there}))])


def test_it_is_checked():
    with pytest.raises(ValueError, match="at least 3 labelled rows, got 2"):
        Ridge(2).solve(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Ridge(1).solve(torch.tensor([[1.0], [torch.nan], [2.0]]), torch.zeros(3))
    with pytest.raises(ValueError, match="penalty > 0"):
        Ridge(2, penalty=0.0)
