"""fit: the algorithm against a hand-written loop, exact resume, and independence of how a batch is split."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from train.toy import FAST, data, toy

from condiff.core.rng import SharedRng
from condiff.data.batch import batch_index
from condiff.objectives import Denoising
from condiff.process import Stratified, UniformTime, Velocity
from condiff.train import Progress, fit
from condiff.train.fit import average_decay, learning_rate


def run(system, progress=None, *, settings=FAST, seed=5, upto=None):
    progress = progress or Progress.begin(system, settings)
    losses = []
    for report in fit(system, data(), settings=settings, seed=seed, progress=progress):
        losses.append(float(report.loss))
        if report.step == upto:
            break
    return progress, losses


def tensors(progress):
    found = {f"model.{k}": v for k, v in progress.system.denoiser.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in progress.average.state_dict().items()}
    return {k: v.clone() for k, v in (found | progress.optimizer_tensors()).items()}


def same(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different[:3]


def test_fit_is_the_loop_written_by_hand():
    settings = replace(FAST, ema=0.9, clip=1.2, weight_decay=0.1)
    progress, losses = run(toy(), settings=settings)
    system, rows = toy(), data().train
    net = system.denoiser
    names = [name for name, _ in net.named_parameters()]
    average = {name: p.detach().clone() for name, p in net.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in average.items()} for _ in range(2))
    clipped = 0
    for k in range(settings.steps):
        x, cond = rows.rows(batch_index(len(rows), 8, 5, k))
        loss = system.objective(net, x, cond, rng=SharedRng(5, "train", k)).total()
        assert losses[k] == pytest.approx(loss.item(), abs=1e-5)
        gradients = dict(zip(names, torch.autograd.grad(loss, list(net.parameters())), strict=True))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        clipped += norm > 1.2
        done = k / 12
        rate = 1e-2 * min(1, (k + 1) / 3) * (0.5 * (1 + math.cos(math.pi * (done - 0.5) / 0.5)) if done > 0.5 else 1)
        with torch.no_grad():
            for name, p in net.named_parameters():
                g = gradients[name] * min(1.0, 1.2 / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.99 * second[name] + 0.01 * g * g
                p -= rate * 0.1 * p
                a, b = first[name] / (1 - 0.9 ** (k + 1)), second[name] / (1 - 0.99 ** (k + 1))
                p -= rate * a / (b.sqrt() + 1e-8)
                decay = min(0.9, (1 + k) / (10 + k))
                average[name] = decay * average[name] + (1 - decay) * p
    assert 0 < clipped < settings.steps  # both branches of clipping were taken
    for name, p in net.named_parameters():
        torch.testing.assert_close(dict(progress.system.denoiser.named_parameters())[name], p, atol=2e-5, rtol=0)
        torch.testing.assert_close(dict(progress.average.named_parameters())[name], average[name], atol=2e-5, rtol=0)


def test_buffers_follow_and_whole_numbers_are_copied():
    progress, _ = run(toy())
    assert int(progress.average.net.calls) == int(progress.system.denoiser.net.calls) == 12


@given(stop=st.integers(1, 11), accumulate=st.sampled_from([1, 2]))
@budget(max_examples=6, deadline=None)
def test_stopping_anywhere_and_going_on_is_bit_equal(stop, accumulate):
    settings = replace(FAST, accumulate=accumulate)
    whole, losses = run(toy(dropout=0.5), settings=settings)
    torch.manual_seed(stop)  # whatever else used torch's own stream must not matter
    half, early = run(toy(dropout=0.5), settings=settings, upto=stop)
    torch.rand(stop)
    _, late = run(half.system, half, settings=settings)
    assert early + late == losses
    same(tensors(whole), tensors(half))


def stratified():
    made = toy()
    return replace(made, objective=Denoising(made.process, Velocity(), Stratified(UniformTime())))


@pytest.mark.parametrize("system", [toy, stratified])
def test_accumulation_and_batch_agree_to_rounding(system):
    one, a = run(system())
    four, b = run(system(), settings=replace(FAST, accumulate=4))
    assert a == pytest.approx(b, abs=2e-6)
    mine, its = tensors(one), tensors(four)
    for name in set(mine) - {"model.net.calls", "ema.net.calls"}:
        torch.testing.assert_close(mine[name], its[name], atol=2e-5, rtol=1e-4)


def test_seed_decides_order_and_noise():
    assert run(toy(), seed=5)[1] == run(toy(), seed=5)[1]
    assert run(toy(), seed=5)[1] != run(toy(), seed=6)[1]


def test_training_leaves_the_callers_random_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run(toy(dropout=0.5))
    assert torch.equal(torch.rand(3), expected)


def test_training_learns_and_the_average_is_the_better_model():
    from condiff.train import held_out_loss

    settings = replace(FAST, steps=300, batch_size=32, ema=0.97)
    system, before = toy(), held_out_loss(toy(), data().validation)
    progress, _ = run(system, settings=settings)
    assert held_out_loss(progress.averaged, data().validation) < 0.6 * before
    assert not system.denoiser.training


def test_bf16_keeps_weights_and_average_in_float32():
    progress, losses = run(toy(), settings=replace(FAST, precision="bf16"))
    assert {p.dtype for p in progress.system.denoiser.parameters()} == {torch.float32}
    assert {p.dtype for p in progress.average.parameters()} == {torch.float32}
    exact = run(toy())[1]
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)


def test_a_weight_of_the_learning_rate_is_named_by_the_step():
    settings = replace(FAST, steps=100, warmup_steps=10, decay=0.4, learning_rate=2.0)
    rates = [learning_rate(settings, k) for k in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[60] == 2.0
    assert rates[80] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 0.975)))
    assert learning_rate(replace(settings, decay=0.0), 99) == 2.0
    clocked = replace(settings, seconds=10.0)
    assert learning_rate(clocked, 20, 8.0) == pytest.approx(1.0)
    assert learning_rate(clocked, 20, 1.0) == 2.0
    # Of 10 s: warm-up ends after 1 s, or after 100 steps if that is earlier.
    slow = replace(clocked, steps=10**6, warmup_steps=100)
    assert learning_rate(slow, 0, 0.5) == pytest.approx(1.0)
    assert learning_rate(slow, 7, 1.0) == 2.0
    assert learning_rate(slow, 49, 0.1) == pytest.approx(1.0)
    assert learning_rate(slow, 99, 0.1) == 2.0
    assert [average_decay(settings, k) for k in (0, 10)] == [0.1, 0.55]
    assert average_decay(settings, 10**6) == settings.ema


def test_a_clock_ends_training():
    settings = replace(FAST, steps=10**6, seconds=0.15)
    progress, losses = run(toy(), settings=settings)
    assert 0.15 <= progress.seconds < 2.0
    assert progress.step == len(losses) < 10**6


def test_divergence_names_the_step_and_keeps_the_weights():
    system = toy()
    progress, _ = run(system, upto=4)
    before = tensors(progress)
    with torch.no_grad():
        system.denoiser.net.last.bias[0] = math.nan
    with pytest.raises(RuntimeError, match="diverged by step 5: loss nan.*lower learning_rate"):
        run(system, progress)
    assert progress.step == 4
    before["model.net.last.bias"][0] = math.nan
    after = tensors(progress)
    for name in set(before) - {"model.net.calls"}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, equal_nan=True)


class Reads(TorchDispatchMode):
    """Count what would make a device wait: reading one number back."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_but_for_the_check(monkeypatch):
    # The check runs at every step only where reading is free; without it nothing may be read.
    monkeypatch.setattr(sys.modules[fit.__module__], "_finite", lambda *_: None)
    with Reads() as reads:
        for _ in fit(toy(), data(), settings=FAST):
            pass
    assert reads.count == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s, d: (s, replace(d, data=d.data[:, :3])), ValueError, r"shape \(3,\).*\(4,\)"),
        (lambda s, d: (s, d.take(0)), ValueError, "no examples"),
        (lambda s, d: (replace(s, schema={}), d), ValueError, "condition 'y'"),
        (lambda s, d: (replace(s, denoiser=lambda x, t, cond: None), d), TypeError, "denoiser with weights"),
        (lambda s, d: (replace(s, denoiser=torch.nn.Identity()), d), TypeError, "Identity has none"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(change, error, words):
    system, rows = change(toy(), data().train)
    with pytest.raises(error, match=words):
        fit(system, rows, settings=FAST)
