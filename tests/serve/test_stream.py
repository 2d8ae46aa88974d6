from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condiff.core import Condition, RowRng, trajectory
from condiff.core.estimate import Moments
from condiff.core.rng import key
from condiff.guidance import ANCHOR, CFG, ResidualCFG, by_first, by_input
from condiff.process import VP, Gaussian, Noise
from condiff.serve import StreamBatch
from condiff.serve.stream import unchanged
from condiff.solvers import Jump, Multistep, Renoise

PROCESS = Gaussian(VP())
TIMES = (0.7, 0.5, 0.3, 0.1, 0.0)
SHAPE = (1, 1, 3, 3)


class Net:
    """Predicts noise by a fixed nonlinear map of state, time and class; absent rows have a class of their own."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.w = torch.randn(9, 9, generator=g, dtype=torch.float64) / 3
        self.table = torch.randn(4, 9, generator=g, dtype=torch.float64)
        self.calls, self.rows = 0, 0

    def noise(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.tanh(flat @ self.w + self.table[label] + t.reshape(-1, 1)).reshape(x.shape)

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        assert cond is not None
        assert set(cond.values) == {"label"}
        label = torch.where(cond.present["label"], cond.values["label"], 3)
        t = t.expand(len(x)) if t.ndim == 0 else t
        return PROCESS.infer(x, t, self.noise(x, t, label), Noise())


def frames(count: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=g, dtype=torch.float64) for _ in range(count)]


def label(k: int) -> Condition:
    return Condition.of(label=torch.tensor([k]))


def guides(net: Net, scale: float = 1.4, delta: float = 0.7):
    """Name: (denoiser, how a frame is remembered, samples a frame costs at 4 steps)."""
    return {
        "none": (net, unchanged, 4),
        "full": (CFG(net, scale), unchanged, 8),
        "self": (ResidualCFG(net, PROCESS, scale, delta), by_input, 4),
        "onetime": (ResidualCFG(net, PROCESS, scale, delta), by_first, 5),
    }


def stream(denoiser, remember, solver=None, **kw) -> StreamBatch:
    return StreamBatch(PROCESS, denoiser, solver or Renoise(), kw.pop("times", TIMES), remember=remember, **kw)


def run(batch: StreamBatch, source: list[Tensor], labels: list[int]) -> dict[int, tuple[int, Tensor]]:
    """Push all frames and as many empty steps as needed; return by frame the call it came out at, and the sample."""
    flight, out = None, {}
    for call, (data, k) in enumerate(zip(source, labels, strict=True)):
        flight, done = batch.push(flight, call, data, label(k))
        out |= {frame: (call, made) for frame, made in done}
    call = len(source)
    while flight is not None:
        flight, done = batch.step(flight)
        out |= {frame: (call, made) for frame, made in done}
        call += 1
    return out


def official(net: Net, z: Tensor, k: int, mode: str, gamma: float, delta: float, seed: int = 0) -> Tensor:
    """One frame by itself, by the recursion of the official code, with c_skip = 0 and c_out = 1."""
    rng = RowRng(0, [key(seed, "stream", 0)], dtype=torch.float64)
    a, b = zip(
        *[tuple(map(float, PROCESS.coefficients(torch.tensor(t, dtype=torch.float64)))) for t in TIMES], strict=True
    )
    eps = rng.normal(SHAPE)
    x = a[0] * z + b[0] * eps
    r = eps
    for i in range(len(TIMES) - 1):
        t = torch.tensor([TIMES[i]], dtype=torch.float64)
        c, u = (net.noise(x, t, torch.tensor([n])) for n in (k, 3))
        if mode == "onetime" and i == 0:
            r = u
        e = {"none": c, "full": u + gamma * (c - u)}.get(mode, delta * r + gamma * (c - delta * r))
        x0 = (x - b[i] * e) / a[i]
        eps = rng.normal(SHAPE)
        if i + 2 < len(TIMES):
            r = eps + a[i + 1] / b[i + 1] * (b[i] * r - b[i] * e) / a[i]
            x = a[i + 1] * x0 + b[i + 1] * eps
    return x0


@pytest.mark.parametrize("mode", ["none", "full", "self", "onetime"])
def test_a1_stream_equals_sequential(mode):
    """Frame k comes out at call k + n - 1 and equals the official recursion on that frame alone (gamma 1.4, delta 0.7)."""
    net, labels = Net(), [0, 1, 2, 0, 1, 2]
    denoiser, remember, _ = guides(net)[mode]
    source = frames(6)
    out = run(stream(denoiser, remember), source, labels)
    for k, (z, wanted) in enumerate(zip(source, labels, strict=True)):
        call, made = out[k]
        assert call == k + 3
        torch.testing.assert_close(made, official(net, z, wanted, mode, 1.4, 0.7), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("solver", [Jump(), Jump(1.0), Multistep(2), Renoise()])
@pytest.mark.parametrize("still", [True, False])
def test_a1_any_solver_may_stream(solver, still):
    """Each frame equals the solver's own trajectory on it, history and noise included."""
    net, source = Net(), frames(5)
    batch = stream(net, unchanged, solver, still=still, seed=4)
    out = run(batch, source, [0, 1, 2, 0, 1])
    for k, data in enumerate(source):
        rng = RowRng(0, [key(4, "stream", 0 if still else k)], dtype=torch.float64)
        x = PROCESS.draw(data, torch.full((1,), TIMES[0], dtype=torch.float64), rng=rng).x
        grid = torch.tensor(TIMES, dtype=torch.float64)
        *_, last = trajectory(PROCESS, net, solver, x, grid, cond=label([0, 1, 2, 0, 1][k]), rng=rng)
        torch.testing.assert_close(out[k][1], last.x, atol=1e-10, rtol=1e-10)


def point(m: Tensor):
    """A denoiser whose unconditional answer is the picture m, and whose conditional one is not."""

    class Point:
        def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Moments:
            given = torch.tanh(x + 1.0)
            has = cond.present["label"].reshape(-1, 1, 1, 1)
            return PROCESS.complete(x, t, torch.where(has, given, m.expand_as(x)))

    return Point()


def test_a2_residual_guidance_is_plain_guidance_where_the_negative_is_a_point():
    """m = the input: self-negative equals full guidance; any m: one-time does, and self does not."""
    (z,), other = frames(1), torch.full(SHAPE, 0.3, dtype=torch.float64)
    for m, modes in ((z, ("self", "onetime")), (other, ("onetime",))):
        found = {
            mode: run(stream(denoiser, remember), [z], [0])[0][1]
            for mode, (denoiser, remember, _) in guides(point(m), 1.4, 1.0).items()  # type: ignore[arg-type]
        }
        for mode in modes:
            torch.testing.assert_close(found[mode], found["full"], atol=1e-11, rtol=1e-11)
    assert (found["self"] - found["full"]).abs().max() > 0.1


def test_a3_limits_of_the_scales():
    """n = 1: one-time is full guidance; gamma = 1: all are none; delta = 0: noise is gamma times the conditional one."""
    net, (z,) = Net(), frames(1)
    one = {m: run(stream(d, r, times=(0.5, 0.0)), [z], [1])[0][1] for m, (d, r, _) in guides(net, 1.4, 1.0).items()}
    torch.testing.assert_close(one["onetime"], one["full"], atol=1e-12, rtol=1e-12)
    assert (one["self"] - one["full"]).abs().max() > 1e-3
    plain = {m: run(stream(d, r), [z], [1])[0][1] for m, (d, r, _) in guides(net, 1.0).items()}
    for made in plain.values():
        torch.testing.assert_close(made, plain["none"], atol=1e-12, rtol=1e-12)
    t, cond = torch.tensor([0.4], dtype=torch.float64), by_input(label(2), z)
    est = ResidualCFG(net, PROCESS, 1.4, 0.0)(z + 1.0, t, cond)
    torch.testing.assert_close(est.parts["noise"], 1.4 * net(z + 1.0, t, label(2)).parts["noise"])


def test_a4_the_virtual_noise_points_at_the_anchor():
    """The null estimate's noise is (x - alpha A) / sigma, its data A: scale 0 shows it."""
    net, (z, x) = Net(), frames(2)
    t = torch.tensor([0.4], dtype=torch.float64)
    alpha, sigma = PROCESS.coefficients(t)
    est = ResidualCFG(net, PROCESS, 0.0, 0.6)(x, t, by_input(label(0), z))
    torch.testing.assert_close(est.parts["noise"], 0.6 * (x - alpha * z) / sigma)
    torch.testing.assert_close(alpha * est.parts["data"] + sigma * est.parts["noise"], x)
    torch.testing.assert_close(ResidualCFG(net, PROCESS, 0.0)(x, t, by_input(label(0), z)).parts["data"], z)


def test_a5_frames_are_independent():
    """The gradient of output k with respect to every other frame is exactly 0."""
    net, source = Net(), [f.requires_grad_() for f in frames(5)]
    batch = stream(*guides(net)["onetime"][:2])
    flight, out = None, {}
    with torch.enable_grad():
        for k, data in enumerate(source):
            flight, done = StreamBatch.step.__wrapped__(  # type: ignore[attr-defined]
                batch,
                StreamBatch.admit.__wrapped__(batch, flight, k, data, label(k % 3)),  # type: ignore[attr-defined]
            )
            out |= dict(done)
    assert sorted(out) == [0, 1]
    grads = torch.autograd.grad(out[1].sum(), source, allow_unused=True)
    for k, grad in enumerate(grads):
        size = 0.0 if grad is None else float(grad.abs().max())
        assert (size > 1e-6) if k == 1 else (size == 0.0)


@pytest.mark.parametrize("mode", ["none", "full", "self", "onetime"])
def test_a7_counters(mode):
    """In the steady state a frame costs one call, and n, 2n, n, n + 1 rows."""
    net = Net()
    denoiser, remember, rows = guides(net)[mode]
    batch, flight = stream(denoiser, remember), None
    for k, data in enumerate(frames(8)):
        before = net.calls, net.rows
        flight, done = batch.push(flight, k, data, label(0))
        if k >= 3:
            assert (net.calls - before[0], net.rows - before[1], len(done)) == (1, rows, 1)


def test_a7_a_new_prompt_is_seen_by_every_frame_at_its_next_step():
    """Frames under way change with it; what has come out has not."""
    net = Net()
    batch = stream(*guides(net)["none"][:2])
    flight = None
    for k, data in enumerate(frames(3)):
        flight, _ = batch.push(flight, k, data, label(0))
    assert flight is not None
    changed, done = batch.step(flight.asking(label(1)))
    _, other = batch.step(flight)
    assert (done[0][1] - other[0][1]).abs().max() > 1e-3
    assert changed is not None
    assert changed.cond is not None
    assert changed.cond.values["label"].tolist() == [1, 1]


def test_a_flight_is_data_that_forks_and_joins():
    """Stepping does not change it; two users' flights in one batch give what each gives alone."""
    net = Net()
    batch = stream(*guides(net)["onetime"][:2])
    mine = batch.admit(None, 7, frames(1)[0], label(0))
    yours = batch.admit(None, 9, frames(2)[1], label(2))
    first, again = batch.step(mine)[0], batch.step(mine)[0]
    assert first is not None
    assert again is not None
    assert torch.equal(first.state.x, again.state.x)
    assert mine.at == (0,)
    both, _ = batch.step(mine.cat(yours))
    assert both is not None
    alone = batch.step(yours)[0]
    assert alone is not None
    torch.testing.assert_close(both.rows([1]).state.x, alone.state.x, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(both.rows([0]).state.x, first.state.x, atol=1e-13, rtol=1e-13)
    assert both.cond is not None
    assert bool(both.cond.present[ANCHOR].all())


def test_frames_of_unequal_step_counts_fly_together():
    net, (z, y) = Net(), frames(2)
    slow, fast = stream(net, unchanged), stream(net, unchanged, times=(0.4, 0.0))
    flight = slow.admit(None, 0, z, label(0))
    flight = fast.admit(flight, 1, y, label(1))
    left, done = slow.step(flight)
    assert [frame for frame, _ in done] == [1]
    torch.testing.assert_close(done[0][1], run(fast, [y], [1])[0][1], atol=1e-12, rtol=1e-12)
    assert left is not None
    assert left.frames == (0,)


def test_text_to_image_starts_from_noise():
    """From time 1 only the input's shape counts, and still frames are equal."""
    net, (z, y) = Net(), frames(2)
    times = (0.999, 0.5, 0.0)
    out = run(stream(net, unchanged, times=(1.0, 0.5, 0.0)), [z, y], [0, 0])
    assert torch.equal(out[0][1], out[1][1]) or torch.allclose(out[0][1], out[1][1], atol=1e-12)
    moving = run(stream(net, unchanged, times=(1.0, 0.5, 0.0), still=False), [z, y], [0, 0])
    assert not torch.allclose(moving[0][1], moving[1][1], atol=1e-3)
    assert not torch.allclose(run(stream(net, unchanged, times=times), [z, y], [0, 0])[0][1], out[0][1], atol=1e-3)


@pytest.mark.parametrize("times", [(0.5,), (0.5, 0.5, 0.0), (0.2, 0.5, 0.0), (1.2, 0.0), (0.5, 0.1)])
def test_wrong_times_are_refused(times):
    with pytest.raises(ValueError, match="decrease within"):
        stream(Net(), unchanged, times=times)


def test_a_frame_is_one_row():
    with pytest.raises(ValueError, match="one at a time"):
        stream(Net(), unchanged).admit(None, 0, torch.zeros(2, 1, 3, 3), label(0))
