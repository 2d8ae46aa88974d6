"""Limits of guidance, the null law, gradient guidance against Bayes, fused against two calls."""

from __future__ import annotations

import math

import pytest
import torch
from laws.cases import DTYPE, FLOW, SCHEMA, Linear, denoiser, gaussian, guidance_stacks, labels, mixture, rng

from condiff import nn as nets
from condiff.core import Categorical, Condition, Moments, TokenIds, bind, instant, trajectory
from condiff.guidance import CFG, Autoguidance, Classifier, CleanLoss, Composed, Guided, Interval, Rescaled, from_omega
from condiff.objectives import Denoising, Dropping
from condiff.process import EDM, Absorbing, Flow, Gaussian, Preconditioned, UniformTime, V, Velocity
from condiff.solvers import Jump

X = rng(0, 1, 2).normal((3, 2))
T = torch.tensor([0.2, 0.5, 0.8], dtype=DTYPE)
COND = labels(0, 1, 1)


def means(est):
    return torch.cat([est.parts["data"], est.parts["noise"]], 1)


@pytest.mark.parametrize("t", [T, instant(0.4)], ids=["rows", "shared"])
def test_scale_one_is_plain_and_zero_is_the_null(t):
    plain = denoiser(FLOW)
    assert torch.equal(means(CFG(plain, 1.0)(X, t, COND)), means(plain(X, t, COND)))
    torch.testing.assert_close(means(CFG(plain, 0.0)(X, t, COND)), means(plain(X, t, COND.null())))
    assert torch.equal(means(Rescaled(plain, 1.0)(X, t, COND)), means(plain(X, t, COND)))
    assert from_omega(0.0) == 1.0


@pytest.mark.parametrize("t", [T, instant(0.4)], ids=["rows", "shared"])
def test_guidance_extrapolates_the_means(t):
    plain = denoiser(FLOW)
    null, given = means(plain(X, t, COND.null())), means(plain(X, t, COND))
    torch.testing.assert_close(means(CFG(plain, 3.0)(X, t, COND)), null + 3.0 * (given - null))
    weak = Preconditioned(Linear(seed=1), FLOW, V())
    low = means(weak(X, t, COND))
    torch.testing.assert_close(means(Autoguidance(plain, weak, 2.0)(X, t, COND)), low + 2.0 * (given - low))


@pytest.mark.parametrize("t", [T, instant(0.4)], ids=["rows", "shared"])
@pytest.mark.parametrize("stack", guidance_stacks(FLOW))
def test_a_bound_denoiser_is_the_denoiser(stack, t):
    """Also the second time, and for another condition: nothing of a binding is left in the denoiser."""
    stacked = guidance_stacks(FLOW)[stack]
    for cond in (COND, labels(2, 2, 0)):
        bound = bind(stacked, cond)
        for x in (X, 0.5 * X):
            torch.testing.assert_close(means(bound(x, t)), means(stacked(x, t, cond)), atol=0.0, rtol=0.0)


def test_a_loop_doubles_its_condition_once(monkeypatch):
    made, cat = [], Condition.cat
    monkeypatch.setattr(Condition, "cat", lambda self, other: made.append(1) or cat(self, other))
    grid = torch.linspace(0.9, 0.1, 6, dtype=DTYPE)
    list(trajectory(FLOW, CFG(denoiser(FLOW), 2.0), Jump(), X, grid, cond=COND, rng=rng(0, 1, 2)))
    assert made == [1]


def test_hooks_of_a_denoiser_are_called_in_a_loop():
    net, seen = denoiser(FLOW), []
    net.register_forward_hook(lambda module, args, out: seen.append(float(args[1])))
    grid = torch.linspace(0.9, 0.1, 3, dtype=DTYPE)
    list(trajectory(FLOW, net, Jump(), X, grid, cond=COND, rng=rng(0, 1, 2)))
    assert seen == [0.9, 0.5]


def test_fused_equals_two_calls():
    plain = denoiser(FLOW)
    carried = COND.adding(**{"context.0.k": torch.zeros(3, 1)})
    fused, twice = CFG(plain, 2.5)(X, T, COND), CFG(plain, 2.5)(X, T, carried)
    torch.testing.assert_close(means(fused), means(twice), atol=1e-12, rtol=1e-12)


def test_interval_is_plain_outside_on_both_paths():
    plain = denoiser(FLOW)
    stack = CFG(plain, 4.0, when=Interval(0.4, 0.6))
    whole = means(stack(X, T, COND))
    for b, t in enumerate(T.tolist()):
        one, cond = X[b : b + 1], COND.rows(torch.tensor([b]))
        torch.testing.assert_close(means(stack(one, instant(t), cond))[0], whole[b], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(whole[0], means(plain(X, T, COND))[0], atol=1e-12, rtol=1e-12)
    assert not torch.allclose(whole[1], means(plain(X, T, COND))[1])


def test_one_composed_condition_is_cfg():
    plain = denoiser(FLOW)
    torch.testing.assert_close(
        means(Composed(plain, {"label": 2.5})(X, T, COND)), means(CFG(plain, 2.5)(X, T, COND)), atol=1e-12, rtol=1e-12
    )
    with pytest.raises(ValueError, match="missing"):
        Composed(plain, {"text": 1.0})(X, T, COND)


def test_rescaled_data_has_the_conditional_spread():
    plain = denoiser(FLOW)
    given, guided = plain(X, T, COND).parts["data"], Rescaled(plain, 4.0, share=1.0)(X, T, COND).parts["data"]
    torch.testing.assert_close(guided.std(1), given.std(1))


def test_guidance_without_a_condition_is_an_error():
    for stack in (CFG(denoiser(FLOW), 2.0), Rescaled(denoiser(FLOW), 2.0)):
        with pytest.raises(ValueError, match="needs a condition"):
            stack(X, T, None)


@pytest.mark.parametrize("t", [T, instant(0.5)], ids=["rows", "shared"])
def test_a_classifier_turns_the_prior_into_the_posterior(t):
    """Bayes: the unconditional oracle guided by the exact log p(class | x_t) is the conditional oracle."""
    oracle = mixture(FLOW)

    def log_prob(x, t, cond):
        return torch.log(oracle.responsibilities(x, t))[torch.arange(len(x)), cond.values["label"]]

    guided = Guided(mixture(FLOW, None), FLOW, Classifier(log_prob))(X, t, COND)
    torch.testing.assert_close(means(guided), means(oracle(X, t, COND)), atol=1e-9, rtol=1e-9)


def test_clean_loss_gradient_passes_through_the_denoiser():
    """For Gaussian data and a linear loss the tilt of the mean is alpha Cov(data | x) grad in closed form."""
    oracle, weight = gaussian(FLOW, dims=2), torch.tensor([0.7, -1.1], dtype=DTYPE)
    guided = Guided(oracle, FLOW, CleanLoss(lambda data, cond: data @ weight))(X, instant(0.5), None)
    alpha, sigma = 0.5, 0.5
    variances = oracle.variances
    posterior = oracle.basis @ torch.diag(variances * sigma**2 / (alpha**2 * variances + sigma**2)) @ oracle.basis.T
    expected = oracle(X, instant(0.5), None).parts["data"] - posterior @ weight
    torch.testing.assert_close(guided.parts["data"], expected, atol=1e-10, rtol=1e-10)


def test_a_tilt_keeps_the_state():
    est = gaussian(FLOW, dims=2)(X, T, None)
    moved = FLOW.tilt(X, T, est, torch.ones_like(X))
    alpha, sigma = (c.unsqueeze(1) for c in FLOW.schedule(T))
    torch.testing.assert_close(alpha * moved.parts["data"] + sigma * moved.parts["noise"], X)
    assert torch.equal(FLOW.tilt(X, instant(1.0), est, torch.ones_like(X)).parts["data"], est.parts["data"])


def test_an_energy_must_be_one_number_a_row():
    with pytest.raises(ValueError, match="one number a row"):
        Guided(gaussian(FLOW, 2), FLOW, Classifier(lambda x, t, cond: x))(X, T, None)


@pytest.mark.parametrize("name", guidance_stacks(FLOW))
def test_stacks_are_pure(name):
    stack = guidance_stacks(FLOW)[name]
    first = means(stack(X, T, COND))
    stack(X + 1.0, T * 0.5, labels(1, 0, 0))
    assert torch.equal(means(stack(X, T, COND)), first)


def test_categorical_lerp_is_a_product_of_experts():
    a, b = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[0.6, 0.1, 0.3]])
    mixed = Categorical(a.log()).lerp(Categorical(b.log()), 1.5).logits.exp()
    expected = a**-0.5 * b**1.5
    torch.testing.assert_close(mixed, expected / expected.sum())


def test_categorical_lerp_keeps_what_is_forbidden():
    forbidden = torch.tensor([[0.0, -math.inf, 0.0]])
    free = torch.zeros(1, 3)
    for weight in (0.5, 2.0, torch.tensor([2.0])):
        mixed = Categorical(forbidden).lerp(Categorical(free), weight).logits
        assert bool(torch.isneginf(mixed[0, 1]))
        torch.testing.assert_close(mixed.exp().sum(), torch.tensor(1.0))
    whole = Categorical(forbidden).lerp(Categorical(free), 1.0).logits
    torch.testing.assert_close(whole.exp(), torch.full((1, 3), 1 / 3))


# Null law: the value of an absent condition, even nan, reaches nothing.


def nan_behind(cond: Condition) -> Condition:
    values = {
        k: torch.where(cond.present[k].reshape(-1, *[1] * (v.ndim - 1)), v, torch.nan) if v.is_floating_point()
        else torch.where(cond.present[k].reshape(-1, *[1] * (v.ndim - 1)), v, 2)
        for k, v in cond.values.items()
    }  # fmt: skip
    return Condition(values, cond.present)


@pytest.mark.parametrize("kind", ["UNet", "DiT", "MLP"])
def test_null_law_of_networks(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        schema = dict(SCHEMA) if kind == "MLP" else {**SCHEMA, "text": TokenIds(4, 5)}
        net = {
            "UNet": lambda: nets.UNet(
                nets.Grid(1, 2), nets.UNetSize((8, 8), embed_width=16, head_width=8), schema=schema
            ),
            "DiT": lambda: nets.DiT(nets.Grid(1, 2), nets.DiTSize(16, 1, head_width=8), patch=2, schema=schema),
            "MLP": lambda: nets.MLP(16, 16, 1, schema=schema),
        }[kind]()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
        x = torch.randn(2, 16) if kind == "MLP" else torch.randn(2, 1, 4, 4)
        cond = Condition.of(label=torch.tensor([0, 1]), size=torch.randn(2, 2))
        cond = cond if kind == "MLP" else cond.adding(text=torch.tensor([[0, 1, 2, 3], [3, 3, 1, 0]]))
    t = torch.tensor([0.3, 0.6])
    for name in cond.values:
        absent = cond.null(name)
        out = net(x, t, absent)
        assert bool(torch.isfinite(out).all())
        torch.testing.assert_close(net(x, t, nan_behind(absent)), out, atol=0.0, rtol=0.0)
        assert not torch.allclose(net(x, t, cond), out, atol=1e-6), f"{name} is not read at all"
    torch.testing.assert_close(net(x, t, cond.null()), net(x, t, None))


def test_null_law_of_the_oracle():
    torch.testing.assert_close(
        means(mixture(FLOW)(X, T, COND.null())), means(mixture(FLOW, None)(X, T, None)), atol=1e-12, rtol=1e-12
    )


# Objectives


def test_an_injected_draw_is_used_and_nothing_is_dropped():
    objective = Dropping(Denoising(FLOW, Velocity()), {"label": 1.0})
    plain, draw = denoiser(FLOW, Velocity()), FLOW.draw(X, T, rng=rng(0, 1, 2))
    kept = objective(plain, X, COND, rng=rng(3, 4, 5), draw=draw).rows
    out = plain(draw.x, T, COND).parts
    expected = ((out["noise"] - out["data"]) - (draw.latents["noise"] - X)).square().mean(1)
    torch.testing.assert_close(kept, expected)
    dropped = objective(plain, X, COND, rng=rng(3, 4, 5)).rows
    source = rng(3, 4, 5)
    COND.drop({"label": 1.0}, rng=source)
    torch.testing.assert_close(dropped, objective.inner(plain, X, COND.null(), rng=source).rows)


def test_rows_of_a_loss_do_not_depend_on_their_batch():
    objective = Denoising(Gaussian(Flow()), EDM(0.5), UniformTime(0.1, 0.9))
    plain = denoiser(FLOW)
    whole = objective(plain, X, COND, rng=rng(3, 4, 5)).rows
    alone = objective(plain, X[1:2], COND.rows(torch.tensor([1])), rng=rng(4)).rows
    torch.testing.assert_close(alone[0], whole[1], atol=1e-12, rtol=1e-12)


def test_masked_tokens_is_the_bound_of_an_exact_denoiser():
    """Averaged over t and masks, the exact posterior's loss is the entropy of the data in nats a token."""
    from condiff.objectives import MaskedTokens
    from condiff.oracles import TokenTable

    process = Absorbing(2)
    sequences, p = torch.tensor([[0, 0], [0, 1], [1, 1]]), torch.tensor([0.5, 0.3, 0.2], dtype=DTYPE)
    oracle = TokenTable(process, sequences, p)
    count = 20000
    index = torch.multinomial(p, count, replacement=True, generator=torch.Generator().manual_seed(0))
    from condiff.core import SharedRng

    rows = MaskedTokens(process)(oracle, sequences[index], None, rng=SharedRng(0)).rows
    entropy = float(-(p * p.log()).sum()) / 2
    assert float(rows.mean()) == pytest.approx(entropy, abs=4 * float(rows.std()) / count**0.5)


def test_moments_lerp_uses_outputs_when_it_can():
    plain = denoiser(FLOW)
    a, b = plain(X, instant(0.3), COND.null()), plain(X, instant(0.3), COND)
    slow = Moments(dict(a.parts)).lerp(Moments(dict(b.parts)), 2.0)
    torch.testing.assert_close(means(a.lerp(b, 2.0)), means(slow), atol=1e-12, rtol=1e-12)
