"""Is a stream the same pictures for fewer calls, and residual guidance the same use for fewer rows? Real digits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from condiff.claims.claim import Result, Row, over_seeds, single
from condiff.claims.lab import Talk, plot, show, trained
from condiff.codecs import Identity
from condiff.core.condition import Condition
from condiff.core.denoiser import Denoiser
from condiff.core.drivers import trajectory
from condiff.core.rng import RowRng, key
from condiff.core.system import System
from condiff.data import Splits, read
from condiff.evaluate import judge8
from condiff.guidance import CFG, ResidualCFG, by_first, by_input
from condiff.nn import DiT, DiTSize, Grid, UNet, UNetSize
from condiff.process import Gaussian, Preconditioned, Table, V
from condiff.recipes import streamdiffusion
from condiff.serve import MeanSquare, SimilarityFilter, StreamBatch, descent
from condiff.serve.clip import still_clip
from condiff.serve.filter import Reference
from condiff.serve.stream import unchanged
from condiff.tasks.generate import Counted

CLAIM = (
    "frames streamed through one batch equal frames made alone, for one call a frame; residual guidance costs half of "
    "classifier-free guidance and still turns a picture into the class asked for"
)
STRENGTH, STEPS = 0.64, 4
MODES = ("none", "full", "one-time", "self")
GAMMAS = (1.2, 1.5)
DELTA = 0.5
LARGE = (UNetSize((64, 128)), 32)
"""A network whose time is that of its arithmetic: widths, and side of the pictures."""
JUDGED = 0.964
"""The judge's accuracy on real test digits at 8x8: what a perfect model would be read with."""


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        num_seeds: Networks.
        steps: Training steps of each.
        frames: Pictures turned into another class, for each way of guiding.
        clip: Frames of the clip for the filter.
        repeats: Frames timed for each network.
    """

    num_seeds: int
    steps: int
    frames: int
    clip: int = 300
    repeats: int = 60


QUICK = Budget(1, 1500, 500, repeats=30)
FULL = Budget(3, 4000, 1000)


def run(*, quick: bool, seed: int, out: Path | None, talk: Talk) -> Result:
    """Train with each seed, turn pictures into other classes, then count, time and filter a stream."""
    budget = QUICK if quick else FULL
    splits = read("digits8")
    settings = replace(streamdiffusion.training, steps=budget.steps, learning_rate=1e-3)
    found: dict[str, list[float]] = {}
    kept: System[Any, Any] | None = None
    calls = 0
    for number in range(seed, seed + budget.num_seeds):
        system = trained(streamdiffusion, splits, seed=number, talk=talk, settings=settings)
        counted = Counted(system.denoiser)
        used = replace(system, denoiser=counted)
        for name, one in _turned(used, splits, budget.frames, number, out if number == seed else None).items():
            found.setdefault(name, []).append(one)
        calls += counted.calls
        kept = system if kept is None else kept
        best = f"accuracy, self, scale {GAMMAS[-1]:g}"
        talk(f"seed {number}: {best}: {found[best][-1]:.3f}")
    assert kept is not None
    rows = [over_seeds(name, values, "", budget.frames * len(values)) for name, values in found.items()]
    rows += _same(kept, splits, seed)
    rows += _counted(kept, splits)
    rows += _timed(kept, budget.repeats, talk)
    rows += _filtered(kept, splits, budget.clip, seed, out)
    value = {row.name: row.value for row in rows}
    return Result(
        system="streamdiffusion",
        claim=CLAIM,
        data=f"bundled digits at 8x8, {budget.steps} training steps, {budget.num_seeds} seed(s), {budget.frames} test "
        f"digits turned into another class from t = {STRENGTH:g} in {STEPS} steps",
        seed=seed,
        rows=rows,
        effect=f"largest difference {value['largest difference of stream and alone']:.1e}; one call a frame, "
        f"{value['time alone over stream, perceptron']:.2f}x less time; self-negative guidance takes "
        f"{value['time of self over full guidance, large']:.2f} of full guidance, one-time "
        f"{value['time of one-time over full guidance, large']:.2f}; "
        f"accuracy {value['accuracy, none']:.3f} without guidance, {value['accuracy, self, scale 1.5']:.3f} self, "
        f"{value['accuracy, full, scale 1.5']:.3f} full",
        expected="equal to rounding, at least 1.3x less time on a small network, self <= 0.60 and one-time <= 0.72 of "
        f"the time of full guidance on a large one, guided accuracy at least {JUDGED:g}, distance to the source "
        "growing with the scale and larger than under full guidance, at most 60 % of a 70 % still clip made",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: Sequence[Row]) -> bool:
    """Tell whether every part of the claim holds in the rows."""
    value = {row.name: row.value for row in rows}
    grows = all(
        value["distance to the source, none"] < value[f"distance to the source, {mode}, scale 1.2"]
        and value[f"distance to the source, {mode}, scale 1.2"] < value[f"distance to the source, {mode}, scale 1.5"]
        for mode in MODES[1:]
    )
    stronger = all(
        value[f"distance to the source, {mode}, scale 1.5"] > value["distance to the source, full, scale 1.5"]
        for mode in ("one-time", "self")
    )
    return (
        value["largest difference of stream and alone"] <= 1e-4
        and value["calls a frame, stream"] == 1.0
        and value["calls a frame, alone"] == STEPS
        and value["time alone over stream, perceptron"] >= 1.3
        and value["time of self over full guidance, large"] <= 0.60
        and value["time of one-time over full guidance, large"] <= 0.72
        and all(value[f"accuracy, {mode}, scale {scale:g}"] >= JUDGED for mode in MODES[2:] for scale in GAMMAS)
        and grows
        and stronger
        and value["share of a 70 % still clip that is made"] <= 0.6
        and value["largest mean error of a frame not made"] <= 0.02
    )


def guided(system: System[Any, Any], mode: str, scale: float) -> tuple[Denoiser[Any], Callable[..., Any]]:
    """Return a denoiser guided in one of the ways, and what its stream remembers of a new frame."""
    if mode == "none":
        return system.denoiser, unchanged
    if mode == "full":
        return CFG(system.denoiser, scale), unchanged
    return ResidualCFG(system.denoiser, system.process, scale, DELTA), by_first if mode == "one-time" else by_input


def streamed(system: System[Any, Any], mode: str = "none", scale: float = 1.0, **more: Any) -> StreamBatch[Any]:  # noqa: ANN401 - as StreamBatch
    """Build the stream of a system."""
    denoiser, remember = guided(system, mode, scale)
    times = descent(STRENGTH, STEPS)
    return StreamBatch(system.process, denoiser, system.solver, times, codec=system.codec, remember=remember, **more)


def alone(batch: StreamBatch[Any], data: Tensor, cond: Condition, frames: Sequence[int]) -> Tensor:
    """Turn pictures (B, *S) one after another's rules but all at once: no stream, every step a call."""
    streams = [key(batch.seed, "stream", 0 if batch.still else frame) for frame in frames]
    rng = RowRng(0, streams)
    coded = batch.codec.encode(data)
    cond = batch.remember(cond, coded) or cond
    x = batch.process.draw(coded, torch.full((len(data),), batch.times[0], dtype=torch.float64), rng=rng).x
    denoiser, grid = batch.denoiser, torch.tensor(batch.times, dtype=torch.float64)
    if batch.remember is by_first:
        assert isinstance(denoiser, ResidualCFG)
        first = denoiser(x, grid[0].expand(len(x)), cond).aux
        cond = cond.adding(**{name: first[name] for name in first.keys() & cond.values.keys()})
    *_, last = trajectory(batch.process, denoiser, batch.solver, x, grid, cond=cond, rng=rng)
    return batch.codec.decode(last.x)


@torch.no_grad()
def _turned(system: System[Any, Any], splits: Splits, num: int, seed: int, out: Path | None) -> dict[str, float]:
    """Turn test digits into the next class in every way; measure what they read as and how far they went."""
    part = splits.test.take(num)
    data, wanted = part.data, (part.conditions["label"] + 1) % 10
    cond, found = Condition.of(label=wanted), {}
    for mode in MODES:
        for scale in (1.0,) if mode == "none" else GAMMAS:
            batch = streamed(system, mode, scale, seed=seed, still=False)
            made = alone(batch, data, cond, range(len(data)))
            name = mode if mode == "none" else f"{mode}, scale {scale:g}"
            found[f"accuracy, {name}"] = float((judge8().classify(made) == wanted).double().mean())
            found[f"distance to the source, {name}"] = float((made - data).square().mean())
            if mode in ("none", "self") and scale in (1.0, 1.5):
                facts = {"made_by": "condiff reproduce streamdiffusion", "seed": seed}
                show(out, f"{mode}.png", torch.cat([data[:20], made[:20]]), facts, columns=20)
    return found


@torch.no_grad()
def _same(system: System[Any, Any], splits: Splits, seed: int, num: int = 30) -> list[Row]:
    part = splits.test.take(num)
    worst = 0.0
    for mode in MODES:
        batch = streamed(system, mode, 1.4, seed=seed)
        flight, made = None, dict[int, Tensor]()
        for k in range(num):
            flight, done = batch.push(flight, k, part.data[k : k + 1], _label(part, k))
            made |= dict(done)
        for k, frame in made.items():
            by_itself = alone(batch, part.data[k : k + 1], _label(part, k), [k])
            worst = max(worst, float((frame - by_itself).abs().max()))
    return [single("largest difference of stream and alone", worst, num * len(MODES))]


def _label(part: Any, k: int) -> Condition:  # noqa: ANN401 - a Dataset
    return Condition.of(label=(part.conditions["label"][k : k + 1] + 1) % 10)


def _counted(system: System[Any, Any], splits: Splits) -> list[Row]:
    """Count calls and rows of the network in the steady state."""
    part, rows = splits.test.take(12), []
    for mode in MODES:
        counted = Counted(system.denoiser)
        batch = streamed(replace(system, denoiser=counted), mode, 1.4)
        flight, before = None, (0, 0)
        for k in range(12):
            before = (counted.calls, counted.rows) if k == 11 else before
            flight, _ = batch.push(flight, k, part.data[k : k + 1], _label(part, k))
        rows.append(single(f"rows a frame, {mode}", counted.rows - before[1], 1, "rows"))
        if mode == "none":
            rows.append(single("calls a frame, stream", counted.calls - before[0], 1, "calls"))
            began = counted.calls
            alone(batch, part.data[:1], _label(part, 0), [0])
            rows.append(single("calls a frame, alone", counted.calls - began, 1, "calls"))
    return rows


@torch.no_grad()
def _timed(system: System[Any, Any], repeats: int, talk: Talk) -> list[Row]:
    """Time a steady stream against frames alone, and the ways of guiding, in CPU time on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        process = Gaussian(Table.scaled_linear())
        schema = system.schema
        nets: dict[str, tuple[nn.Module | None, tuple[int, ...]]] = {
            "perceptron": (None, (1, 8, 8)),
            "transformer, 16 tokens of 64": (DiT(Grid(1, 2), DiTSize(64, 2, 32), patch=2, schema=schema), (1, 8, 8)),
            "U-Net, 16 channels, 16x16": (UNet(Grid(1, 2), UNetSize((16, 32)), schema=schema), (1, 16, 16)),
        }
        for name, (net, shape) in nets.items():
            used = system
            if net is not None:
                used = replace(system, denoiser=Preconditioned(net.eval(), process, V(), 0.5), codec=Identity())
            batch, cond = streamed(used), Condition.of(label=torch.zeros(1, dtype=torch.int64))
            data, flight = torch.zeros(1, *shape), None
            for k in range(STEPS):
                flight, _ = batch.push(flight, k, data, cond)
            x = batch.codec.encode(data)
            many, four = x.expand(STEPS, *x.shape[1:]), cond.rows(torch.zeros(STEPS, dtype=torch.int64))
            t = torch.linspace(0.1, 0.6, STEPS, dtype=torch.float64)
            pairs: dict[str, Callable[..., object]] = {
                "stream": lambda b=batch, f=flight, d=data, c=cond: b.push(f, 0, d, c),
                "alone": lambda b=batch, d=data, c=cond: alone(b, d, c, [0]),
                "one": lambda u=used, x=x, c=cond, t=t: [u.denoiser(x, one[None], c).parts["data"] for one in t],
                "all": lambda u=used, x=many, c=four, t=t: u.denoiser(x, t, c).parts["data"],
            }
            took = _medians(pairs, repeats)
            gain, amortised = took["alone"] / took["stream"], took["one"] / took["all"]
            rows.append(single(f"time alone over stream, {name}", gain, repeats, "x"))
            rows.append(single(f"time of {STEPS} calls over one call of {STEPS} rows, {name}", amortised, repeats, "x"))
            talk(f"{name}: stream {gain:.2f}x, network alone {amortised:.2f}x")
        # Rows are all that counts on a large network; on a small one, eight rows cost less than twice four.
        for size, widths, side in (("28x28 digits", UNetSize.digits(), 28), ("large", *LARGE)):
            inner = UNet(Grid(1, 2), widths, schema=schema).eval()
            used = replace(system, denoiser=Preconditioned(inner, process, V(), 0.5), codec=Identity())
            steps, data = {}, torch.zeros(1, 1, side, side)
            for mode in MODES:
                batch, flight, cond = streamed(used, mode, 1.4), None, Condition.of(label=torch.tensor([0]))
                for k in range(STEPS):
                    flight, _ = batch.push(flight, k, data, cond)
                steps[mode] = lambda b=batch, f=flight, d=data, c=cond: b.push(f, 0, d, c)
            took = _medians(steps, repeats if size != "large" else max(5, repeats // 6))
            for mode in MODES:
                if mode != "full":
                    rows.append(
                        single(f"time of {mode} over full guidance, {size}", took[mode] / took["full"], repeats)
                    )
        return rows
    finally:
        torch.set_num_threads(threads)


def _medians(jobs: Mapping[str, Callable[..., object]], repeats: int) -> dict[str, float]:
    """Time jobs in turn, so that what disturbs one disturbs all; medians of CPU seconds."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for k in range(repeats + 3):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            if k >= 3:
                took[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in took.items()}


@torch.no_grad()
def _filtered(system: System[Any, Any], splits: Splits, length: int, seed: int, out: Path | None) -> list[Row]:
    """Stream a clip that stands still seven frames of ten, with and without the filter."""
    clip = still_clip(splits.test.data, length)
    chooser = SimilarityFilter(similarity=MeanSquare())
    batch, cond = streamed(system, seed=seed), Condition.of(label=torch.tensor([3]))
    u = RowRng(seed, [0]).uniform((1, length))[0].tolist()
    last, chosen = Reference(), []
    for k in range(length):
        make, last = chooser(clip[k], last, u[k])
        chosen.append(make)
    every = alone(batch, clip, cond.rows(torch.zeros(length, dtype=torch.int64)), range(length))
    shown, latest = [], every[0]
    for k, make in enumerate(chosen):
        latest = every[k] if make else latest
        shown.append(latest)
    errors = (torch.stack(shown) - every).abs().mean((1, 2, 3))

    def seconds(frames: list[int]) -> float:
        began, flight = time.process_time(), None
        for k in frames:
            flight, _ = batch.push(flight, k, clip[k : k + 1], cond)
        return time.process_time() - began

    whole, some = seconds(list(range(length))), seconds([k for k, make in enumerate(chosen) if make])
    show(out, "clip.png", torch.cat([clip[:20], torch.stack(shown[:20])]), {"made_by": "condiff reproduce"}, columns=20)

    def chart(figure: Any) -> None:  # noqa: ANN401 - matplotlib is optional
        axes = figure.subplots()
        axes.plot(errors[:100].tolist(), label="mean error of what is shown")
        made = [k for k in range(min(100, length)) if chosen[k]]
        axes.plot(made, [0.0] * len(made), "|", label="frames made")
        axes.set(xlabel="frame")
        axes.legend()

    plot(out, "filter.png", chart)
    return [
        single("share of a 70 % still clip that is made", sum(chosen) / length, length),
        single("largest mean error of a frame not made", float(errors.max()), length),
        single("CPU time with the filter over without", some / max(whole, 1e-9), length),
    ]
