"""A loss is the squared residual of one row, whatever the network predicts."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, FLOW, Linear, denoiser, labels, rng

from condiff.core import Condition, Draw, Loss, Moments, SharedRng
from condiff.objectives import Antithetic, Denoising, Dropping, MinSNR, Unpaired
from condiff.process import (
    EDM,
    VP,
    Brownian,
    Data,
    Drift,
    Flow,
    Gaussian,
    Importance,
    Interpolant,
    LogLinear,
    Noise,
    Preconditioned,
    Score,
    Straight,
    UniformTime,
    V,
    Velocity,
)  # fmt: skip

X = rng(0, 1, 2, 3).normal((4, 2))
T = torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=DTYPE)


@pytest.mark.parametrize("target", [EDM(0.5), V(), Velocity(), Noise(), Data()], ids=repr)
def test_edm_loss_is_its_weighted_data_error_whatever_is_predicted(target):
    """Karras et al. 2022, table 1: weight (sigma^2 + sd^2) / (sigma sd)^2 on the data error; equal to 2.5e-14."""
    process = Gaussian(LogLinear(0.05, 20.0))
    net = Preconditioned(Linear(), process, target)
    draw = process.draw(X, T, rng=rng(4, 5, 6, 7))
    rows = Denoising(process, EDM(0.5))(net, X, labels(0, 1, 0, 1), rng=rng(0, 1, 2, 3), draw=draw).rows
    guess = net(draw.x, T, labels(0, 1, 0, 1)).parts["data"]
    sigma = process.schedule(T)[1]
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    expected = weight * (guess - X).square().mean(1)
    # Predicting noise at sigma = 9 loses two digits in the data estimate itself.
    tolerance = 2.5e-14 if isinstance(target, EDM | V | Data) else 1e-10
    torch.testing.assert_close(rows, expected, rtol=tolerance, atol=1e-14)


@pytest.mark.parametrize("row", [Noise(), Data(), V(), Score(), Velocity(), EDM(0.7)], ids=repr)
def test_the_exact_answer_has_no_loss_and_a_wrong_one_its_distance(row):
    process = Gaussian(VP())
    draw = process.draw(X, T, rng=rng(4, 5, 6, 7))
    objective = Denoising(process, row)
    exact = objective(lambda x, t, c: Moments(draw.latents), X, None, rng=rng(0, 1, 2, 3), draw=draw).rows
    assert float(exact.abs().max()) == 0.0
    off = {**draw.latents, "noise": draw.latents["noise"] + 0.3}
    rows = objective(lambda x, t, c: Moments(off), X, None, rng=rng(0, 1, 2, 3), draw=draw).rows
    torch.testing.assert_close(rows, (0.3 * process.row(row, T)["noise"]).square())


def test_min_snr_caps_the_weight_of_clean_states_at_both_ends():
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=DTYPE)
    weight = MinSNR(5.0)(FLOW, t)
    snr = ((1 - t) / t).square()
    torch.testing.assert_close(weight[1:4], torch.minimum(snr, torch.tensor(5.0, dtype=DTYPE))[1:4] / snr[1:4])
    assert weight[[0, 4]].tolist() == [0.0, 1.0]


def test_weights_multiply_the_rows_they_belong_to():
    draw = FLOW.draw(X, T, rng=rng(4, 5, 6, 7))
    plain = Denoising(FLOW, Noise())(denoiser(FLOW), X, None, rng=rng(0, 1, 2, 3), draw=draw).rows
    law = Importance((1.0, 3.0))
    both = Denoising(FLOW, Noise(), law, MinSNR(2.0))(denoiser(FLOW), X, None, rng=rng(0, 1, 2, 3), draw=draw).rows
    torch.testing.assert_close(both, plain * law.weight(T) * MinSNR(2.0)(FLOW, T))


def test_a_time_for_every_frame_weights_frames_apart():
    x = rng(0, 1).normal((2, 3, 4))
    t = torch.tensor([[0.1, 0.4, 0.9], [0.2, 0.6, 0.8]], dtype=DTYPE)
    draw = FLOW.draw(x, t, rng=rng(4, 5))
    wrong = torch.tensor([0.1, 0.2, 0.3], dtype=DTYPE)[None, :, None]
    off = Moments({"data": x, "noise": draw.latents["noise"] + wrong})
    objective = Denoising(FLOW, Noise(), weight=MinSNR(2.0), time_axes=2)
    rows = objective(lambda x, t, c: off, x, None, rng=rng(0, 1), draw=draw).rows
    error = torch.tensor([0.01, 0.04, 0.09], dtype=DTYPE)
    torch.testing.assert_close(rows, (error * MinSNR(2.0)(FLOW, t)).mean(1))
    seen = []
    objective(lambda x, t, c: seen.append(t) or Moments({"data": x, "noise": x}), x, None, rng=rng(0, 1))
    assert seen[0].shape == (2, 3)


def test_dropping_drops_about_the_share_it_should():
    seen = []

    def spy(x, t, cond):
        seen.append(cond.present["label"])
        return Moments({"data": x, "noise": x})

    count = 2000
    objective = Dropping(Denoising(Gaussian(Flow()), Velocity(), UniformTime()), {"label": 0.2, "text": 0.9})
    cond = labels(*[0] * count)
    objective(spy, torch.zeros(count, 2, dtype=DTYPE), cond, rng=rng(*range(count)))
    share = float((~seen[0]).double().mean())
    assert share == pytest.approx(0.2, abs=4 * (0.16 / count) ** 0.5)


BRIDGE = Interpolant(Straight(Brownian()))


def test_several_targets_add_their_residuals_and_read_the_latents_of_a_bridge():
    source, noise = rng(4, 5, 6, 7).normal((4, 2)), rng(8, 9, 10, 11).normal((4, 2))
    draw = BRIDGE.draw(X, T, rng=rng(0, 1, 2, 3), source=source, noise=noise)
    rate = ((0.5 - T) / (T * (1 - T)).sqrt())[:, None]
    truth = {"velocity": source - X + rate * noise, "drift": source - X, "noise": noise, "data": X}
    for name, target in (("velocity", Velocity()), ("drift", Drift()), ("noise", Noise()), ("data", Data())):
        off = {key: value + (0.3 if key == name else 0.0) for key, value in truth.items()}
        rows = Denoising(BRIDGE, target)(lambda x, t, c, off=off: Moments(off), X, None, rng=rng(), draw=draw).rows
        torch.testing.assert_close(rows, torch.full((4,), 0.09, dtype=DTYPE))
    off = {"velocity": truth["velocity"] + 0.3, "noise": truth["noise"] - 0.4}
    both = Denoising(BRIDGE, Velocity(), also=(Noise(),))
    rows = both(lambda x, t, c: Moments(off), X, None, rng=rng(), draw=draw).rows
    torch.testing.assert_close(rows, torch.full((4,), 0.25, dtype=DTYPE))


def test_training_finds_the_source_in_its_condition():
    process, seen = Interpolant(Straight(), "input"), []

    def spy(x, t, cond):
        seen.append((x, t))
        return process.infer(x, t, {"velocity": 0.0 * x})

    cond = Condition.of(input=2.0 * X)
    rows = Denoising(process, Velocity())(spy, X, cond, rng=rng(0, 1, 2, 3)).rows
    torch.testing.assert_close(rows, X.square().mean(1))  # source - data = X
    torch.testing.assert_close(seen[0][0], (1.0 + seen[0][1][:, None]) * X)


def gradients(objective, t, count=4000):
    """Gradients of the weight of a linear velocity head at a fixed data, source and t, one a latent noise."""
    process = objective.inner.process if isinstance(objective, Antithetic) else objective.process
    data, source = torch.full((count, 1), 0.7, dtype=DTYPE), torch.full((count, 1), -1.1, dtype=DTYPE)
    weight = torch.ones(count, dtype=DTYPE, requires_grad=True)
    at = torch.full((count,), t, dtype=DTYPE)
    draw = process.draw(data, at, rng=SharedRng(0, dtype=DTYPE), source=source)

    def head(x, t, cond):
        return process.infer(x, t, {"velocity": weight[:, None] * x})

    rows = objective(head, data, None, rng=SharedRng(1, dtype=DTYPE), draw=draw).rows
    (grad,) = torch.autograd.grad(rows.sum(), weight)
    return grad


def test_antithetic_pairs_bound_the_gradient_s_variance_near_the_ends():
    """Without pairs the velocity's target has a part gamma' z of variance 1 / (4 t): the gradient's variance grows so."""
    plain = Denoising(BRIDGE, Velocity())
    times = (1e-1, 1e-2, 1e-3, 1e-4)
    alone = [float(gradients(plain, t).var()) for t in times]
    pairs = [float(gradients(Antithetic(plain), t).var()) for t in times]
    assert max(pairs) < 10.0, pairs
    assert alone[-1] / alone[-2] == pytest.approx(10.0, rel=0.1), alone
    assert alone[-2] / alone[-3] == pytest.approx(10.0, rel=0.3), alone  # other terms are not yet small at t = .01
    # The mean is the same: pairs change the variance only.
    a, b = gradients(plain, 0.3), gradients(Antithetic(plain), 0.3)
    assert float(a.mean()) == pytest.approx(float(b.mean()), abs=4 * float(a.std()) / 4000**0.5)


def test_a_mirrored_draw_has_the_other_noise_and_the_same_ends():
    seen = []

    def spy(x, t, cond):
        seen.append((x, t))
        return BRIDGE.infer(x, t, {"velocity": 0.0 * x})

    source = rng(4, 5, 6, 7).normal((4, 2))
    draw = BRIDGE.draw(X, T, rng=rng(0, 1, 2, 3), source=source)
    Antithetic(Denoising(BRIDGE, Velocity()))(spy, X, None, rng=rng(), draw=draw)
    (one, t), (other, u) = seen
    assert torch.equal(t, u)
    torch.testing.assert_close(0.5 * (one + other), (1 - T)[:, None] * X + T[:, None] * source)
    assert not torch.allclose(one, other)
    flow = []  # a process with two latents has pairs too
    Antithetic(Denoising(FLOW, Velocity()))(lambda x, t, c: flow.append(x) or Moments({"data": x, "noise": x}), X, None,
                                            rng=rng(0, 1, 2, 3))  # fmt: skip
    assert len(flow) == 2


def test_unpaired_hands_sources_round_and_keeps_the_rest():
    seen = []

    class Inner:
        def __call__(self, denoiser, data, cond, *, rng, draw=None):
            seen.append(cond)
            return Loss(data.mean(1))

    cond = Condition.of(input=torch.arange(8.0)[:, None], label=torch.arange(8))
    data = torch.zeros(8, 2)
    Unpaired(Inner(), ("input",))(None, data, cond, rng=rng(*range(8)))
    assert torch.equal(seen[0].values["label"], cond.values["label"])
    assert sorted(seen[0].values["input"].flatten().tolist()) == list(range(8))
    assert not torch.equal(seen[0].values["input"], cond.values["input"])
    Unpaired(Inner(), ("input",))(None, data, cond, rng=rng(*range(8)), draw=Draw(data, T, {}))
    assert seen[1] is cond
