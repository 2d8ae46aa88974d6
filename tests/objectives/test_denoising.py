"""A loss is the squared residual of one row, whatever the network predicts."""

from __future__ import annotations

import pytest
import torch
from laws.cases import DTYPE, FLOW, Linear, denoiser, labels, rng

from condiff.core import Moments
from condiff.objectives import Denoising, Dropping, MinSNR
from condiff.process import (
    EDM,
    VP,
    Data,
    Flow,
    Gaussian,
    Importance,
    LogLinear,
    Noise,
    Preconditioned,
    Score,
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
