"""Training as a generator: the caller's `for` logs, evaluates, saves and stops.

Everything random in step k is a pure function of (seed, k): which rows are read, what noise corrupts them, which
conditions are dropped. A run that stops and goes on from its saved `Progress` is therefore bit-equal to one that never
stopped.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.rng import SharedRng, key
from condiff.core.system import System
from condiff.data.batch import Dataset, Splits, batch_index
from condiff.train.settings import Training
from condiff.train.workers import ALONE, Workers, local, whole


@runtime_checkable
class Measuring(Protocol):
    """A module inside a denoiser that reads statistics off the data before the first training step (buffers)."""

    def measure(self, batches: Callable[[], Iterable[tuple[Tensor, Condition]]]) -> None:
        """Take them; `batches` starts a fresh pass over the encoded training rows (B, *S) with their conditions."""
        ...


@runtime_checkable
class LearnedCodec(Protocol):
    """A codec that is trained before the first training step, and is a part of the denoiser, which saves it."""

    def learn(self, batches: Callable[[], Iterable[tuple[Tensor, Condition]]]) -> None:
        """Train it; `batches` starts a fresh pass over the training rows (B, *S) as they are, with their conditions."""
        ...


def module_of(system: System[Any, Any]) -> nn.Module:
    """Return a system's denoiser as the module it must be to have weights.

    Raises:
        TypeError: If it is not a module.
    """
    if not isinstance(system.denoiser, nn.Module):
        raise TypeError(f"this needs a denoiser with weights, got {type(system.denoiser).__name__}")
    return system.denoiser


def lay_out(system: System[Any, Any]) -> nn.Module:
    """Put a system's weights into the memory layout in which it is trained and sampled; returns its denoiser.

    Training and loading share it, because another layout adds up in another order: samples would differ in a last bit.
    """
    denoiser = module_of(system)
    if len(system.shape) == 3:  # convolutions in 2-D run up to 2.3 times faster on a CPU in this layout
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return denoiser


@final
@dataclass(eq=False)
class Progress:
    """Where training stands: everything that must be saved to go on exactly.

    Args:
        system: The system being trained; its denoiser holds the weights.
        average: A copy of the denoiser with the averaged weights.
        optimizer: AdamW over the denoiser's parameters.
        step: Steps done.
        seconds: Training time so far.
    """

    system: System[Any, Any]
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    _names: list[str] = field(default_factory=list)
    _shards: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, system: System[Any, Any], settings: Training, device: torch.device | str = "cpu") -> Progress:
        """Start at step 0.

        Raises:
            TypeError: If the system's denoiser is not a module with parameters.
        """
        denoiser = module_of(system)
        if not any(p.requires_grad for p in denoiser.parameters()):
            raise TypeError(f"training needs a denoiser with parameters, and {type(denoiser).__name__} has none")
        lay_out(system).to(device)
        average = copy.deepcopy(denoiser).eval().requires_grad_(False)
        trained = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [p for _, p in trained],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return cls(system, average, optimizer, _names=[name for name, _ in trained])

    @property
    def averaged(self) -> System[Any, Any]:
        """The system with the averaged weights, for sampling and scoring."""
        return replace(self.system, denoiser=self.average)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's state as named tensors: exp_avg, exp_avg_sq and step of each parameter."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{self._names[index]}/{name}": whole(torch.as_tensor(value))
            for index, entry in state.items()
            for name, value in entry.items()
        }

    def weights(self) -> dict[str, Tensor]:
        """Return the denoiser's state, whole; where it is sharded, all workers must call this."""
        return {name: whole(value) for name, value in module_of(self.system).state_dict().items()}

    def collect(self) -> None:
        """Bring `average` up to date where it is sharded, which all workers must do at once; elsewhere do nothing."""
        if self._shards:
            own = self.average.state_dict()
            for name, value in self._shards.items():
                own[name].copy_(whole(value))

    def restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Take the optimiser's state from named tensors.

        Raises:
            ValueError: If a name belongs to no parameter.
        """
        index = {name: k for k, name in enumerate(self._names)}
        parameters = self.optimizer.param_groups[0]["params"]
        state: dict[int, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            name, _, entry = full.rpartition("/")
            if name not in index:
                raise ValueError(f"the optimiser's state has {full!r}, but the system has no such parameter")
            if value.ndim:
                # The fused kernel walks raw memory, so moments must lie as their parameter does (channels last).
                value = torch.empty_like(parameters[index[name]]).copy_(value)
            state.setdefault(index[name], {})[entry] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


@final
@dataclass(frozen=True)
class Report:
    """One step's outcome. Tensors stay on their device: reading one waits for it, so read them only when needed.

    Args:
        step: Steps done, 1 after the first.
        loss: Mean loss of the step's rows, a scalar tensor.
        gradient_norm: Norm before clipping, a scalar tensor.
        learning_rate: Rate used.
        progress: The training state after the step.
    """

    step: int
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    progress: Progress


def learning_rate(settings: Training, step: int, seconds: float = 0.0) -> float:
    """Return the rate of a step (counted from 0): linear warm-up, constant, then a cosine to 0 over the decay share.

    Where a clock ends the run, warm-up takes a tenth of its time at most: a machine that does few steps in that time
    would otherwise spend most of them warming up.
    """
    done, warm = step / settings.steps, (step + 1) / max(1, settings.warmup_steps)
    if settings.seconds > 0:
        done = max(done, seconds / settings.seconds)
        warm = max(warm, seconds / (0.1 * settings.seconds))
    rate = settings.learning_rate * min(1.0, warm)
    if settings.decay > 0 and done > 1.0 - settings.decay:
        rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - 1.0 + settings.decay) / settings.decay)))
    return rate


def average_decay(settings: Training, step: int) -> float:
    """Return the averaging decay of a step (counted from 0): min(ema, (1 + step) / (10 + step))."""
    return min(settings.ema, (1 + step) / (10 + step))


def fit(
    system: System[Any, Any],
    data: Dataset | Splits,
    *,
    settings: Training | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Iterator[Report]:
    """Train a system's denoiser in place, one report a step.

    Args:
        system: A system whose denoiser is a module with parameters.
        data: Training rows, or splits whose `train` is used.
        settings: How to train.
        seed: Names the order of the data and all noise.
        progress: Where an earlier run stopped; a fresh start if None.
        workers: Who shares each batch; this process alone if None.

    Returns: The reports. Bad arguments are refused at the call, before the first step.

    Raises:
        TypeError: If the system's denoiser is not a module with parameters.
        ValueError: If the data are empty or not of the system's shape, or workers and parts do not divide the batch.
        RuntimeError: If loss or gradient stop being finite: before that step's update on a CPU; elsewhere at the next
            log line, because looking at every step would stall the device, so go on from the last checkpoint.
    """
    settings = settings or Training()
    crew = workers or ALONE
    rows = data.train if isinstance(data, Splits) else data
    parts = settings.accumulate * crew.size
    if settings.batch_size % parts:
        raise ValueError(f"batch_size {settings.batch_size} does not split over {parts} workers and parts")
    if not len(rows):
        raise ValueError(f"{rows.name}: there are no examples to train on")
    _check_shape(system, rows)
    progress = progress or Progress.begin(system, settings, crew.device)
    return _steps(system, rows, settings, seed, progress, crew)


def _measure(system: System[Any, Any], rows: Dataset, progress: Progress, device: torch.device) -> None:
    """Train a learned codec, then let the modules that want it measure the rows; every worker finds the same."""

    def plain() -> Iterator[tuple[Tensor, Condition]]:
        for index in torch.split(torch.arange(len(rows)), 1024):
            data, cond = rows.rows(index)
            yield data.to(device), cond.to(device)

    def batches() -> Iterator[tuple[Tensor, Condition]]:
        for data, cond in plain():
            yield system.codec.encode(data, cond), cond

    if isinstance(system.codec, LearnedCodec):
        system.codec.learn(plain)
        progress.average.load_state_dict(module_of(system).state_dict())
    for root in (module_of(progress.system), progress.average):
        for module in root.modules():
            if isinstance(module, Measuring):
                module.measure(batches)


def _steps(
    system: System[Any, Any], rows: Dataset, settings: Training, seed: int, progress: Progress, crew: Workers
) -> Iterator[Report]:
    denoiser = module_of(progress.system)
    if progress.step == 0:  # not at the call: a run that goes on is given its progress between the two
        _measure(system, rows, progress, crew.device)
    module, optimizer = crew.prepare(denoiser, progress.optimizer)
    progress._shards = crew.shards(progress.average, denoiser)
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    pairs = _pairs({**progress.average.state_dict(), **progress._shards}, denoiser.state_dict())
    parts = settings.accumulate * crew.size
    size = settings.batch_size // parts
    layout = torch.channels_last if len(system.shape) == 3 else torch.contiguous_format
    quiet = getattr(module, "no_sync", contextlib.nullcontext)
    began = time.perf_counter() - progress.seconds
    denoiser.train()
    try:
        while progress.step < settings.steps and not 0 < settings.seconds <= progress.seconds:
            step = progress.step
            rate = learning_rate(settings, step, progress.seconds)
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = batch_index(len(rows), settings.batch_size, seed, step)
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=crew.device)
            for part in range(settings.accumulate):
                first = (crew.rank * settings.accumulate + part) * size
                batch, cond = rows.rows(index[first : first + size])
                cond = cond.to(crew.device)
                x = system.codec.encode(batch.to(crew.device), cond)
                x = x.contiguous(memory_format=layout) if x.ndim == 4 else x
                share = None if parts == 1 else (first, settings.batch_size)
                rng = SharedRng(seed, "train", step, device=crew.device, part=share)
                with contextlib.nullcontext() if part == settings.accumulate - 1 else quiet():
                    with _own_stream(key(seed, "module", step, first), crew.device):
                        with torch.autocast(crew.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                            loss = system.objective(module, x, cond if cond.values else None, rng=rng).total()
                    (loss / settings.accumulate).backward()
                total = total + loss.detach() / settings.accumulate
            norm = whole(nn.utils.clip_grad_norm_(trained, settings.clip if settings.clip > 0 else math.inf))
            total = crew.mean(total)
            if crew.device.type == "cpu" or (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
                _finite(total, norm, step + 1)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(pairs[0], pairs[1], 1.0 - average_decay(settings, step))
                for mine, its in zip(pairs[2], pairs[3], strict=True):
                    mine.copy_(its)
            seconds = time.perf_counter() - began
            # Only a clock that decides something must be one clock: asking for it costs a round between the workers.
            progress.seconds = crew.agree(seconds) if settings.seconds > 0 else seconds
            progress.step = step + 1
            yield Report(progress.step, total, norm, rate, progress)
    finally:
        denoiser.eval()


def _pairs(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Pair up what is averaged (floating point tensors) and what is copied (the rest), each worker's own part."""
    mine, its = ({name: local(value) for name, value in tensors.items()} for tensors in (average, weights))
    # Tied weights stand in the state under several names, and must move once a step.
    once = list({(mine[name].data_ptr(), mine[name].shape): name for name in mine}.values())
    smooth = [name for name in once if mine[name].is_floating_point()]
    rest = [name for name in once if name not in smooth]
    return [mine[n] for n in smooth], [its[n] for n in smooth], [mine[n] for n in rest], [its[n] for n in rest]


@contextlib.contextmanager
def _own_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Give what a network draws by itself (dropout) a stream named by the step, and put torch's own back as it was.

    Without this a resumed run would drop other units than the run that never stopped.
    """
    if device.type == "cpu":  # torch.random.fork_rng does the same at thirty times the price
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(state)
        return
    with torch.random.fork_rng(devices=[device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def _check_shape(system: System[Any, Any], rows: Dataset) -> None:
    data, cond = rows.rows(torch.zeros(1, dtype=torch.int64))
    shape = tuple(system.codec.encode(data, cond).shape[1:])
    if shape != tuple(system.shape):
        raise ValueError(f"{rows.name}: examples have shape {shape}, but the system is for {tuple(system.shape)}")
    unknown = sorted(set(cond.values) - set(system.schema))
    if unknown:
        raise ValueError(f"{rows.name}: has condition {unknown[0]!r}, but the system takes {sorted(system.schema)}")


def _finite(loss: Tensor, norm: Tensor, step: int) -> None:
    if not math.isfinite(float(loss)) or not math.isfinite(float(norm)):
        raise RuntimeError(
            f"training diverged by step {step}: loss {float(loss):g}, gradient norm {float(norm):g}; "
            "lower learning_rate, or train with precision fp32"
        )
