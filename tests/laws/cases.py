"""A small instance of every public implementation. `test_coverage.py` fails if a public name has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condiff import codecs, guidance, objectives, oracles, process, solvers
from condiff import nn as nets
from condiff.core import ClassLabel, Condition, RowRng, Vector, expand
from condiff.process import Flow, Gaussian

torch.set_num_threads(1)

DTYPE = torch.float64
SCHEDULES = {
    "VP": process.VP(),
    "Cosine": process.Cosine(),
    "VE": process.LogLinear.ve(),
    "EDM": process.LogLinear.edm(),
    "Flow": Flow(),
    "FlowMin": Flow(0.01),
    "Trig": process.Trig(),
    "Table": process.Table.linear(),
    "ScaledLinear": process.Table.scaled_linear(),
    "Merged": process.Merged(process.Straight(process.Brownian())),
}
TARGETS = {
    "Data": process.Data(),
    "Noise": process.Noise(),
    "V": process.V(),
    "Velocity": process.Velocity(),
    "Score": process.Score(),
    "EDM": process.EDM(0.5),
}
NOISES = {"Normal": process.Normal(), "Student": process.Student(6.0), "Offset": process.Offset(0.3)}
LATENTS = {
    "Still": process.Still(),
    "Brownian": process.Brownian(0.98),
    "Parabola": process.Parabola(2.0),
    "SineSquared": process.SineSquared(0.9),
    "Sigmoids": process.Sigmoids(),
}
BRIDGES = {
    "Straight": process.Straight(process.Brownian(0.98)),
    "Trigonometric": process.Trigonometric(process.Brownian(0.32)),
    "TrigSine": process.Trigonometric(process.SineSquared(0.9)),
    "EncodingDecoding": process.EncodingDecoding(),
    "bare": process.Straight(),
}
GRIDS = {
    "Uniform": process.Uniform(),
    "Trailing": process.Trailing(),
    "Karras": process.Karras(),
    "LogSNR": process.LogSNR(),
    "FlowTime": process.FlowTime(0.5),
    "Times": process.Times(process.Uniform(), Flow()),
}
TIME_LAWS = {
    "UniformTime": process.UniformTime(0.1, 0.9),
    "LogitNormal": process.LogitNormal(0.3, 0.8),
    "LogNormalSigma": process.LogNormalSigma(),
    "Stratified": process.Stratified(process.UniformTime()),
    "Importance": process.Importance((1.0, 3.0, 2.0)),
    "LossAware": process.LossAware(3),
}
COUPLINGS = {
    "Independent": process.Independent(),
    "Gibbs": process.Gibbs(0.8),
    "MinibatchOT": process.MinibatchOT(4),
    "Sinkhorn": process.Sinkhorn(0.5),
    "PerClass": process.PerClass(process.MinibatchOT(), "label"),
}
CLOCKS = {
    "ProcessTime": process.ProcessTime(),
    "Ratio": process.Ratio(),
    "FlowClock": process.FlowClock(0.7),
    "Natural": process.Natural(0.8),
}


class Shrinking:
    """A closed form for laws that hold for any: x_s = x_t (s + 1) / (t + 1), on states of any shape and process."""

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x * expand((s + 1.0) / (t + 1.0), x).to(x.dtype)

    def marginal(self, shape: tuple[int, ...], t: Tensor, *, rng: RowRng) -> Tensor:
        z = rng.normal(shape)
        return z * expand(t.to(z.device) + 0.5, z).to(z.dtype)


# name -> (solver, order on a smooth stretch of the flow)
ORDERS = {
    "Jump": (solvers.Jump(), 1),
    "Euler": (solvers.Euler(), 1),
    "EulerFlow": (solvers.Euler(process.FlowClock()), 1),
    "Heun": (solvers.Heun(), 2),
    "HeunRatio": (solvers.Heun(process.Ratio()), 2),
    "Midpoint": (solvers.Midpoint(), 2),
    "Multistep1": (solvers.Multistep(1), 1),
    "Multistep2": (solvers.Multistep(2), 2),
    # The published third-order multistep formula takes half the second difference it needs: it converges at order 2,
    # with exact starting values too (measured 2.0 to 2.2). It is kept as published.
    "Multistep3": (solvers.Multistep(3), 2),
    "UniPC": (solvers.UniPC(), 3),  # order 2 predicted, 3 corrected
    "Adams2": (solvers.Adams(2), 2),
    "Adams3": (solvers.Adams(3), 3),
    "EVODiff": (solvers.EVODiff(), 1),
    "EVODiffPredicted": (solvers.EVODiff(solvers.Predicted(), solvers.PerSample(), process.ProcessTime(), 4), 1),
    "EVODiffReleased": (solvers.EVODiff(solvers.Released(), num_steps=40), 1),
    "SDE0": (solvers.SDE(solvers.Proportional(0.0)), 1),
}
STOCHASTIC = {
    "DDPM": solvers.Jump(1.0),
    "HalfEta": solvers.Jump(0.5),
    "SDE": solvers.SDE(solvers.Anderson()),
    "SDEProportional": solvers.SDE(solvers.Proportional(0.5)),
    "Langevin": solvers.Langevin(2),
    "Corrected": solvers.Corrected(solvers.Multistep(2), 1),
    "Perturbed": solvers.Perturbed(solvers.Heun(), 0.2),
    "Renoise": solvers.Renoise(),
    "SelfGuided": solvers.SelfGuided(guidance.Classifier(lambda x, t, cond: -0.5 * x.square().sum(1)), 0.5),
    "SelfGuidedAfter": solvers.SelfGuided(guidance.Classifier(lambda x, t, cond: -x.square().sum(1)), 0.5, "after"),
    "Prior": solvers.Prior(Shrinking(), 0.55, solvers.Jump(1.0)),
    # Not random themselves; here they get every law but the measured order, which needs a matching closed form.
    "Teleport": solvers.Teleport(Shrinking(), 0.55, solvers.Adams(2)),
    "TeleportDDPM": solvers.Teleport(Shrinking(), 0.55, solvers.Jump(1.0)),
}


def gaussian(proc: Gaussian, dims: int = 4, seed: int = 0) -> oracles.GaussianData:
    """A Gaussian of full covariance, moderately scaled."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dims, dims, generator=generator, dtype=DTYPE) / dims**0.5
    mean = 0.5 * torch.randn(dims, generator=generator, dtype=DTYPE)
    return oracles.GaussianData.of(proc, mean, root @ root.T + 0.05 * torch.eye(dims, dtype=DTYPE))


def mixture(proc: Gaussian, name: str | None = "label") -> oracles.MixtureData:
    """Two Gaussians in the plane, selectable by class."""
    means = torch.tensor([[-1.0, 0.3], [1.0, -0.2]], dtype=DTYPE)
    return oracles.MixtureData.isotropic(proc, torch.tensor([0.3, 0.7], dtype=DTYPE), means, [0.3, 0.5], name)


def labels(*values: int) -> Condition:
    return Condition.of(label=torch.tensor(values))


def rng(*rows: int, seed: int = 0) -> RowRng:
    return RowRng(seed, rows, dtype=DTYPE)


class Linear(nn.Module):
    """A net (B, D) -> (B, D) that depends on x, t and the class; enough for laws about denoisers."""

    def __init__(self, dims: int = 2, out: int | None = None, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.x, self.c = nn.Linear(dims + 1, out or dims).double(), nn.Embedding(3, out or dims).double()

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        times = t.to(x.dtype).reshape(-1, 1).expand(len(x), 1) if t.ndim <= 1 else t.to(x.dtype)
        out = torch.tanh(self.x(torch.cat([x, times], 1)))
        if cond is None:
            return out + self.c.weight[2]
        return out + self.c(torch.where(cond.present["label"], cond.values["label"], 2))


BRIDGE = process.Interpolant(process.Straight(process.Brownian(0.98)))


def heads(proc: process.Interpolant = BRIDGE, seed: int = 0) -> process.Heads:
    """A velocity and a noise head over (B, 2) states."""
    return process.Heads(Linear(2, 4, seed=seed), proc, (process.Velocity(), process.Noise()))


def bridge_oracle(proc: process.Interpolant, dims: int = 2) -> oracles.MixtureBridge:
    """Two Gaussians to three."""
    rows = torch.linspace(-1.0, 1.0, 3 * dims, dtype=DTYPE).reshape(3, dims)
    source = oracles.Mixture.of(rows[:2].flip(1), 0.3, torch.tensor([0.4, 0.6], dtype=DTYPE))
    return oracles.MixtureBridge(proc, oracles.Mixture.of(2.0 * rows, 0.1), source)


def denoiser(proc: Gaussian, target: object = None) -> process.Preconditioned:
    return process.Preconditioned(Linear(), proc, target or process.V())


def flow_map(proc: Gaussian, target: object = None, seed: int = 0) -> process.FlowMap:
    """A flow map whose network really depends on x, t, the class and the span."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        schema = {"label": ClassLabel(3), **process.FlowMap.reads()}
        net = nets.MLP(2, 16, 1, schema=schema, min_frequency=0.05, max_frequency=5.0).double()
        for weight in net.parameters():
            nn.init.normal_(weight, std=0.3)
    return process.FlowMap(process.Preconditioned(net, proc, target or process.V(), sigma_data=0.7))


def guidance_stacks(proc: Gaussian) -> dict[str, object]:
    """Denoisers with every kind of guidance around them, each over (B, 2) states with a class."""
    plain, weak = denoiser(proc), process.Preconditioned(Linear(seed=1), proc, process.V())

    def likes_right(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        return -0.5 * (x[:, 0] - 1.0).square()

    return {
        "plain": plain,
        "CFG": guidance.CFG(plain, 2.5),
        "Interval": guidance.CFG(plain, 2.5, when=guidance.Interval(0.3, 0.8)),
        "Rescaled": guidance.Rescaled(plain, 2.5),
        "ResidualCFG": guidance.ResidualCFG(plain, proc, 1.5),
        "Autoguidance": guidance.Autoguidance(plain, weak, 1.7),
        "Composed": guidance.Composed(plain, {"label": 2.0}),
        "ByTime": guidance.ByTime((plain, weak), (0.5,)),
        "Guided": guidance.Guided(plain, proc, guidance.Classifier(likes_right), 0.5),
        "CleanLoss": guidance.Guided(
            plain, proc, guidance.Sum(((0.3, guidance.CleanLoss(lambda data, cond: data.square().sum(1))),))
        ),
        "LinearReward": guidance.Guided(
            plain, proc, guidance.LinearReward(proc, torch.tensor([1.0, -2.0], dtype=DTYPE), 3.0, 0.4)
        ),
        "CFG of Guided": guidance.CFG(
            guidance.Guided(plain, proc, guidance.Classifier(likes_right), 0.5), 1.5, when=guidance.Everywhere()
        ),
    }


FLOW = Gaussian(Flow())
SPACE = nets.EmbeddingSpace(5, 4)
EMBEDDED = process.Embedded(process.Recalling(process.Positionwise(FLOW, process.AdaptiveTimes(3))), 4, 5)
TOWERS = nets.TwoTower(SPACE, nets.DiTSize(16, 1, head_width=8), nets.Spiral(), recalls=True)
TABLE = oracles.TokenTable(process.Absorbing(3), torch.tensor([[0, 1], [2, 2]]), torch.tensor([0.4, 0.6]))
SCHEMA = {"label": ClassLabel(3), "size": Vector(2)}
INSTANCES: dict[str, object] = {
    # process
    **{
        type(value).__name__: value
        for group in (SCHEDULES, TARGETS, NOISES, BRIDGES, GRIDS, TIME_LAWS, CLOCKS, COUPLINGS, LATENTS)
        for value in group.values()
    },
    "Gaussian": FLOW,
    "FixedSmall": process.FixedSmall(),
    "FixedLarge": process.FixedLarge(),
    "Drift": process.Drift(),
    "Mirror": process.Mirror(process.Brownian(2.0)),
    "Interpolant": BRIDGE,
    "Fields": process.Fields(BRIDGE, torch.ones(2, 2), torch.tensor(0.5), {"velocity": torch.ones(2, 2)}),
    "Absorbing": process.Absorbing(3),
    "Blockwise": process.Blockwise(nets.TokenDiT(3, nets.DiTSize(16, 1, head_width=8), block=64), process.Absorbing(3)),
    "EqualBlocks": process.EqualBlocks(2),
    "RandomBlocks": process.RandomBlocks((1, 2)),
    "MaskAndReplace": process.MaskAndReplace(3, 10),
    "TokenLogits": process.TokenLogits(nets.TokenMLP(3, 2, 16, 1)),
    "Preconditioned": denoiser(FLOW),
    "Heads": heads(),
    "OneSided": process.OneSided(heads(), process.Interpolant(BRIDGE.bridge, process.Normal())),
    "AdaptiveTimes": EMBEDDED.inner.inner.times,
    "Positionwise": EMBEDDED.inner.inner,
    "Recalling": EMBEDDED.inner,
    "Embedded": EMBEDDED,
    "Rounding": process.Rounding(TOWERS, EMBEDDED),
    "Unmasked": process.Unmasked(nn.Embedding(4, 3), process.Absorbing(3)),
    "LinearMasking": process.LinearMasking(1e-3),
    "GeometricMasking": process.GeometricMasking(),
    "TimeFree": process.TimeFree(nets.TokenDiT(3, nets.DiTSize(16, 1, head_width=8))),
    "FlowMap": flow_map(FLOW),
    "Mapped": process.Mapped(FLOW),
    "Diagonal": process.Diagonal(flow_map(FLOW)),
    "Jumps": flow_map(FLOW)(torch.zeros(1, 2, dtype=DTYPE), torch.tensor(0.5), None),
    "LearnedVariance": process.LearnedVariance(FLOW),
    "VarianceHead": process.VarianceHead(Linear(2, 4)),
    # solvers
    **{type(solver).__name__: solver for solver, _ in ORDERS.values()},
    **{type(solver).__name__: solver for solver in STOCHASTIC.values()},
    "Anderson": solvers.Anderson(),
    "Bump": solvers.Bump(),
    "Constant": solvers.Constant(),
    "Proportional": solvers.Proportional(),
    "Implicit": solvers.Implicit(),
    "TokenEuler": solvers.TokenEuler(),
    "Gained": solvers.Gained(),
    "Ordered": solvers.Ordered(),
    "Nucleus": solvers.Nucleus(solvers.Ordered(), 0.7),
    "FirstHitting": solvers.FirstHitting(),
    "Direct": solvers.Direct(),
    "Predicted": solvers.Predicted(),
    "Released": solvers.Released(),
    "PerChannel": solvers.PerChannel(),
    "PerSample": solvers.PerSample(),
    # guidance
    **{type(value).__name__: value for value in guidance_stacks(FLOW).values()},
    "Classifier": guidance.Classifier(lambda x, t, cond: x.sum(1)),
    "CleanLoss": guidance.CleanLoss(lambda data, cond: data.sum(1)),
    "Everywhere": guidance.Everywhere(),
    "Interval": guidance.Interval(0.2, 0.8),
    "Sum": guidance.Sum(()),
    "LinearReward": guidance.LinearReward(FLOW, torch.ones(2), 1.0, 0.1),
    "SquaredError": guidance.SquaredError(),
    "Pinball": guidance.Pinball(),
    "Memo": guidance.Memo(TABLE),
    "GivenTokens": guidance.GivenTokens(process.Rounding(TOWERS, EMBEDDED), EMBEDDED, SPACE, torch.tensor([[1, 5, 0]])),
    "Temperature": guidance.Temperature(TABLE, 0.7),
    "TopK": guidance.TopK(TABLE, 2),
    "BestTokens": guidance.BestTokens(2),
    "EveryToken": guidance.EveryToken(),
    "Taylor": guidance.Taylor(),
    "Classified": guidance.Classified(TABLE, process.Absorbing(3), lambda hot: hot[..., 0].sum(1)),
    "TopP": guidance.TopP(TABLE, 0.9),
    # objectives
    "Antithetic": objectives.Antithetic(objectives.Denoising(BRIDGE, process.Velocity())),
    "Denoising": objectives.Denoising(FLOW, process.Velocity()),
    "Coupled": objectives.Coupled(objectives.Denoising(FLOW, process.Velocity()), FLOW, process.MinibatchOT()),
    "Revealing": objectives.Revealing(objectives.Denoising(FLOW, process.Velocity(), cells="counted"), 2),
    "Dropping": objectives.Dropping(objectives.Denoising(FLOW, process.Velocity()), {"label": 0.5}),
    "MaskedTokens": objectives.MaskedTokens(process.Absorbing(3)),
    "ScoreEntropy": objectives.ScoreEntropy(process.Absorbing(3)),
    "TimeCrossEntropy": objectives.TimeCrossEntropy(process.Absorbing(3)),
    "BlockOrder": objectives.BlockOrder(process.Absorbing(3), process.EqualBlocks(2)),
    "CleanError": objectives.CleanError(),
    "CleanNats": objectives.CleanNats(),
    "Contrastive": objectives.Contrastive(
        objectives.StepBound(process.MaskAndReplace(3)),
        objectives.StepNats(process.MaskAndReplace(3)),
        objectives.OtherRows("label"),
    ),
    "Difference": objectives.Difference(),
    "ImportanceSampled": objectives.ImportanceSampled(
        objectives.StepBound(process.MaskAndReplace(3)), process.MaskAndReplace(3), process.LossAware(100), 100
    ),
    "InfoNCE": objectives.InfoNCE(),
    "Listed": objectives.Listed(),
    "OtherRows": objectives.OtherRows("label"),
    "Shuffled": objectives.Shuffled(),
    "StepBound": objectives.StepBound(process.MaskAndReplace(3)),
    "StepNats": objectives.StepNats(process.MaskAndReplace(3)),
    "EmbeddingDenoising": objectives.EmbeddingDenoising(EMBEDDED, 10),
    "SelfConditioned": objectives.SelfConditioned(objectives.EmbeddingDenoising(EMBEDDED, 10), EMBEDDED.inner),
    "AnyOrder": objectives.AnyOrder(process.Absorbing(3)),
    "MinSNR": objectives.MinSNR(),
    "PseudoLabels": objectives.PseudoLabels(objectives.Denoising(FLOW, process.Velocity()), nets.Ridge(2), "size", 0.1),
    "MeanFlow": objectives.MeanFlow(process.Mapped(FLOW)),
    "Consistency": objectives.Consistency(process.Mapped(FLOW)),
    "CTM": objectives.CTM(process.Mapped(FLOW), reach=2),
    "Curriculum": objectives.Curriculum(100),
    "Lagrangian": objectives.Lagrangian(process.Mapped(FLOW), denoiser(FLOW)),
    "Eulerian": objectives.Eulerian(process.Mapped(FLOW), denoiser(FLOW)),
    "Semigroup": objectives.Semigroup(process.Mapped(FLOW)),
    "Bound": objectives.Bound(FLOW, 10),
    "Hiding": objectives.Hiding(objectives.Denoising(FLOW, process.Velocity()), 2, "random"),
    "Measured": objectives.Measured(objectives.Denoising(FLOW, process.Velocity(), cells="counted")),
    "Hybrid": objectives.Hybrid(objectives.Denoising(FLOW, process.Noise()), objectives.Bound(FLOW, 10)),
    # oracles
    "GaussianMap": oracles.GaussianMap(gaussian(FLOW)),
    "Unpaired": objectives.Unpaired(objectives.Denoising(FLOW, process.Velocity()), ("label",)),
    # oracles
    "GaussianData": gaussian(FLOW),
    "Mixture": bridge_oracle(BRIDGE).data,
    "MixtureBridge": bridge_oracle(BRIDGE),
    "MixtureData": mixture(FLOW),
    "DataSetIdeal": oracles.DataSetIdeal(FLOW, torch.randn(5, 2, generator=torch.Generator().manual_seed(0))),
    "TokenTable": TABLE,
    "EmbeddedTokens": oracles.EmbeddedTokens(process.Embedded(FLOW, 4, 5), SPACE, torch.ones(5) / 5, 0.1),
    "Fitted": oracles.Fitted(denoiser(FLOW), FLOW, (2,), 1),
    "Spectrum": oracles.Spectrum.of(torch.zeros(2), torch.eye(2), 1),
    # codecs
    "Identity": codecs.Identity(),
    "Standardize": codecs.Standardize((1.0, -2.0), (0.5, 3.0)),
    "Lagged": codecs.Lagged((1, 2)),
    "Levels": codecs.Levels(4, (1, 2, 2)),
    "VectorQuantized": codecs.VectorQuantized(((0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)), 2, (1, 2, 2)),
    "VQAutoencoder": codecs.VQAutoencoder((1, 4, 4), 4, 2, width=8, features=4, steps=4),
    "Flatten": codecs.Flatten((2, 3)),
    # networks
    "MLP": nets.MLP(6, 16, 1, schema=SCHEMA),
    "Beside": nets.Beside(denoiser(FLOW), reward=nets.Ridge(2)),
    "Ridge": nets.Ridge(2),
    "SubspaceScore": nets.SubspaceScore(6, nets.MLP(2, 16, 1), 2, Flow()),
    "UNet": nets.UNet(nets.Grid(1, 2), nets.UNetSize((8, 16), embed_width=16, head_width=8), schema=SCHEMA),
    "TokenMLP": nets.TokenMLP(4, 3, 16, 1, schema=SCHEMA),
    "TokenDiT": nets.TokenDiT(5, nets.DiTSize(16, 1, head_width=8), schema=SCHEMA),
    "S4": nets.S4(4, 12, 8),
    "S4D": nets.S4D(4, 8),
    "Waves": nets.Waves(2, 8, 1),
    "EmbeddingSpace": SPACE,
    "Spiral": TOWERS.read,
    "Parallel": nets.Parallel(),
    "EncoderDecoder": nets.EncoderDecoder(),
    "TowerBlock": TOWERS.targets[0],
    "TwoTower": TOWERS,
    "OneTower": nets.OneTower(SPACE, nets.DiTSize(16, 1, head_width=8)),
    "Observing": nets.Observing(nets.Waves(1, 8, 1), ()),
    "LookBack": nets.LookBack(nets.MLP(6, 16, 1, schema=SCHEMA), ()),
    "DiT": nets.DiT(nets.Grid(1, 2), nets.DiTSize(16, 1, head_width=8), patch=2, schema=SCHEMA),
}
