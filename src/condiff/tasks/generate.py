"""Sampling a system as a user asks for it: conditions by name, a guidance scale, a seed."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast, final, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from condiff.core.condition import ClassLabel, Condition, Embeddings, Kind, Picture, Series, TokenIds, Vector
from condiff.core.denoiser import bind
from condiff.core.drivers import sample as run
from condiff.core.rng import RowRng
from condiff.core.solver import Solver
from condiff.core.system import System
from condiff.guidance.cfg import CFG
from condiff.process.clock import Natural
from condiff.solvers import (
    SDE,
    Adams,
    Euler,
    EVODiff,
    FirstHitting,
    Heun,
    Jump,
    Langevin,
    Midpoint,
    Multistep,
    Ordered,
    Proportional,
    TokenEuler,
    UniPC,
)

Anything = TypeVar("Anything")

SOLVERS: Mapping[str, Callable[[], Solver[Any, Any]]] = {
    "adams2": lambda: Adams(2),
    "adams3": lambda: Adams(3),
    "ddim": lambda: Jump(0.0),
    "ddpm": lambda: Jump(1.0),
    "dpm2m": lambda: Multistep(2),
    "dpm3m": lambda: Multistep(3),
    "euler": lambda: Euler(Natural()),
    "evodiff": lambda: EVODiff(),
    "first-hitting": lambda: FirstHitting(),
    "heun": lambda: Heun(Natural()),
    "langevin": lambda: Langevin(),
    "midpoint": lambda: Midpoint(Natural()),
    "ordered": lambda: Ordered(),
    "sde": lambda: SDE(Proportional(1.0)),
    "token-euler": lambda: TokenEuler(),
    "unipc": lambda: UniPC(),
}
"""Solvers by the names a command line uses."""


def solver_named(name: str) -> Solver[Any, Any]:
    """Look a solver up by the name a command line uses.

    Raises:
        ValueError: If there is none of that name; the message gives the nearest.
    """
    if name not in SOLVERS:
        near = difflib.get_close_matches(name, SOLVERS, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no solver named {name!r}{hint} There are {', '.join(SOLVERS)}")
    return SOLVERS[name]()


def suits(solver: Solver[Any, Any], process: object) -> bool:
    """Tell whether a solver takes a process: the type its step names is the one the type checker goes by too."""
    kind = type(solver)
    wanted = get_type_hints(kind.step)["process"]
    if isinstance(wanted, TypeVar):  # named by the class instead, as in Multistep(Linear[Gaussian])
        wanted = next(get_args(base)[0] for base in getattr(kind, "__orig_bases__", ()) if get_args(base))
    return isinstance(process, get_origin(wanted) or wanted)


def check_solver(system: System[Any, Any], solver: Solver[Any, Any] | str | None) -> Solver[Any, Any]:
    """Return the solver that a system is asked to use: its own if None.

    Raises:
        ValueError: If there is none of that name, or it does not suit the process; the message says which do.
    """
    if solver is None:
        return system.solver
    if guides(system.solver):
        raise ValueError(
            f"this system is guided by its own solver, {type(system.solver).__name__}; leave the solver out"
        )
    made = solver_named(solver) if isinstance(solver, str) else solver
    if not suits(made, system.process):
        fitting = [name for name, build in SOLVERS.items() if suits(build(), system.process)]
        kind = type(system.process).__name__
        raise ValueError(
            f"solver {solver} does not suit a system whose process is {kind}; these do: {', '.join(fitting)}"
        )
    return made


def guides(solver: Solver[Any, Any]) -> bool:
    """Tell whether a solver guides by itself, so that its `scale` is the system's guidance scale and 0 is none."""
    return bool(getattr(solver, "guides", False))


def condition_of(system: System[Any, Any], given: Mapping[str, Any] | None, rows: range) -> Condition | None:
    """Turn what a user asked for into the condition of some samples.

    Args:
        system: Whose schema to follow.
        given: By condition name: a class index or class name, a number or vector, or a list of them, which
            is repeated in turn. A name left out is absent. None asks for every class in turn.
        rows: Sample numbers.

    Returns: The condition of those rows, or None if the system takes none.

    Raises:
        ValueError: If a name or class is unknown, or a value has the wrong size; the message gives the nearest name.
    """
    schema = system.schema
    if not schema:
        if given:
            raise ValueError(f"this system takes no condition, got {sorted(given)}")
        return None
    if given is None:
        given = {name: list(range(kind.num_classes)) for name, kind in schema.items() if isinstance(kind, ClassLabel)}
    for name in given:
        if name not in schema:
            near = difflib.get_close_matches(name, schema, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"no condition named {name!r}{hint} This system has {', '.join(schema)}")
    values: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name, kind in schema.items():
        there = name in given
        values[name] = (
            _values(name, kind, given[name], rows, system) if there else _blank(kind, system.shape, len(rows))
        )
        present[name] = torch.full((len(rows),), there, dtype=torch.bool)
    return Condition(values, present)


def _values(name: str, kind: Kind, given: Any, rows: range, system: System[Any, Any]) -> Tensor:  # noqa: ANN401 - whatever a user typed
    if isinstance(kind, ClassLabel):
        listed = given.tolist() if isinstance(given, Tensor) else given
        items = list(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]
        if not items:
            raise ValueError(f"condition {name!r} got an empty list; give a class")
        classes = [_class(name, kind, item) for item in items]
        return torch.tensor([classes[row % len(classes)] for row in rows], dtype=torch.int64)
    value = torch.as_tensor(given, dtype=torch.int64 if isinstance(kind, TokenIds) else torch.float32)
    if isinstance(kind, Vector) and kind.size == 1 and value.ndim < 2:
        value = value.reshape(-1, 1)  # one number, or a list of them to use in turn
    one = _blank(kind, system.shape, 1)[0]
    value = value.unsqueeze(0) if value.ndim == one.ndim else value
    if value.ndim != one.ndim + 1 or len(value) == 0:
        raise ValueError(
            f"condition {name!r} needs a value of shape {tuple(one.shape)} or a list of them, got {tuple(value.shape)}"
        )
    if isinstance(kind, Vector):
        if value.shape[1] != kind.size:
            raise ValueError(f"condition {name!r} has {kind.size} numbers, got {tuple(value.shape[1:])}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"condition {name!r} must be finite, got {value.flatten().tolist()[:4]}")
        # Users speak in the units of their file; training standardised them by the numbers kept with the data.
        facts = system.data.get("meta", {}).get("conditions", {}).get(name, {})
        if "mean" in facts and "std" in facts:
            value = (value - torch.tensor(facts["mean"])) / torch.tensor(facts["std"])
    return value[[row % len(value) for row in rows]]


def _class(name: str, kind: ClassLabel, item: Any) -> int:  # noqa: ANN401 - whatever a user typed
    if isinstance(item, str) and item in kind.labels:
        return kind.labels.index(item)
    if isinstance(item, bool) or (not isinstance(item, int) and not (isinstance(item, str) and item.isdecimal())):
        near = difflib.get_close_matches(str(item), kind.labels, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{name} has no class {item!r}{hint} Classes are {', '.join(kind.labels) or 'numbers'}")
    if not 0 <= int(item) < kind.num_classes:
        raise ValueError(f"{name} has classes 0 to {kind.num_classes - 1}, got {item}")
    return int(item)


def _blank(kind: Kind, shape: tuple[int, ...], rows: int) -> Tensor:
    """Return zeros of the kind's shape for an absent condition."""
    match kind:
        case ClassLabel():
            return torch.zeros(rows, dtype=torch.int64)
        case Vector(size=size):
            return torch.zeros(rows, size)
        case TokenIds(length=length):
            return torch.zeros(rows, length, dtype=torch.int64)
        case Embeddings(length=length, width=width):
            return torch.zeros(rows, length, width)
        case Series(channels=channels, length=length):
            return torch.zeros(rows, channels, length)
        case Picture(channels=channels):
            return torch.zeros(rows, channels, *shape[1:])


@final
class Counted(nn.Module):
    """A denoiser that counts its calls and their rows, so that results report the network evaluations really used.

    A denoiser may offer `free(t)`, whether it answers at t without its network, as `Rounding` does where it reads
    tokens off vectors without noise; such calls do not count.
    """

    def __init__(self, inner: Any) -> None:  # noqa: ANN401 - any denoiser
        super().__init__()
        self.inner, self.calls, self.rows = inner, 0, 0

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Any:  # noqa: ANN401 - the inner's estimate
        """Call the inner denoiser."""
        return self._count(self.inner(x, t, cond), x, t)

    def bind(self, cond: Condition | None) -> Callable[[Tensor, Tensor], Any]:
        """Return the inner denoiser of one condition, counted."""
        inner = bind(self.inner, cond)
        return lambda x, t: self._count(inner(x, t), x, t)

    def _count(self, est: Any, x: Tensor, t: Tensor) -> Any:  # noqa: ANN401 - the inner's estimate
        free = getattr(self.inner, "free", None)
        if free is None or not free(t):
            self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return est


def sample(
    system: System[Any, Any],
    *,
    num_samples: int = 16,
    num_steps: int | None = None,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
    batch_size: int = 64,
    first: int = 0,
    device: torch.device | str = "cpu",
    source: Tensor | None = None,
) -> Tensor:
    """Draw samples from a system.

    Sample i of a seed starts from the same noise whatever the batch size, order or worker; outputs agree to rounding,
    and bit for bit at equal batch shape. Dropout never runs, whatever mode the denoiser's modules are in.

    Args:
        system: A system with a trained denoiser.
        num_samples: How many, >= 1.
        num_steps: Solver steps; the system's default if None.
        cond: Condition by name (see `condition_of`), or a Condition with num_samples rows. None asks for every class in
            turn, {} for unconditional samples.
        guidance_scale: 1 is plain conditional, 0 unguided where the solver guides; the system's default if None.
        seed: Any integer.
        solver: A solver or its name; the system's default if None.
        batch_size: Rows at a time, >= 1.
        first: Number of the first sample, so that workers can share a job.
        device: Where the network runs; the system must be there.
        source: Start of a two-sided process, num_samples rows.

    Returns: Samples in data space, shape (num_samples, *S).

    Raises:
        ValueError: If a number is out of range or a condition does not fit the system.
    """
    parts = [
        chunk
        for chunk, _ in batches(
            system,
            num_samples=num_samples,
            num_steps=num_steps,
            cond=cond,
            guidance_scale=guidance_scale,
            seed=seed,
            solver=solver,
            batch_size=batch_size,
            first=first,
            device=device,
            source=source,
        )
    ]
    return torch.cat(parts)


@torch.no_grad()
def batches(
    system: System[Any, Any],
    *,
    num_samples: int = 16,
    num_steps: int | None = None,
    cond: Mapping[str, Any] | Condition | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    solver: Solver[Any, Any] | str | None = None,
    batch_size: int = 64,
    first: int = 0,
    device: torch.device | str = "cpu",
    source: Tensor | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """Yield samples batch by batch with the number of network calls of each; arguments as for `sample`."""
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if first < 0:
        raise ValueError(f"first must not be negative, got {first}")
    scale = system.guidance_scale if guidance_scale is None else float(guidance_scale)
    if not system.schema and guidance_scale is not None and scale != 1.0:
        raise ValueError(f"this system takes no condition, so guidance scale {scale:g} cannot be honoured; use 1")
    if not torch.isfinite(torch.tensor(scale)):
        raise ValueError(f"guidance_scale must be finite, got {scale}")
    if isinstance(cond, Condition) and len(cond) != num_samples:
        raise ValueError(f"cond has {len(cond)} rows for {num_samples} samples")
    chosen = check_solver(system, solver)
    if guides(chosen):
        chosen = replace(cast(Any, chosen), scale=scale)
    grid = system.grid(system.num_steps if num_steps is None else num_steps)
    system = evaluating(system)
    for start in range(0, num_samples, batch_size):
        rows = range(first + start, first + min(start + batch_size, num_samples))
        here = slice(start, start + len(rows))
        given = (
            cond.rows(torch.arange(num_samples)[here])
            if isinstance(cond, Condition)
            else condition_of(system, cond, rows)
        )
        if given is not None:
            given = given.to(device)
        counted = Counted(system.denoiser)
        unconditional = given is None or not any(bool(flag.any()) for flag in given.present.values())
        denoiser = counted if unconditional or guides(chosen) else CFG(cast(Any, counted), scale)
        x = run(
            system.process,
            denoiser,
            chosen,
            (len(rows), *(system.shape if source is None else source.shape[1:])),
            grid,
            cond=given,
            rng=RowRng(seed, rows, device=device),
            source=None if source is None else source[here].to(device),
        )
        yield system.codec.decode(x, given).cpu(), counted.calls


def evaluating(what: Anything) -> Anything:
    """Return a system, or any part of one, with its modules in evaluation mode; the one given is left as it is.

    Modules in training are copied without their weights, which both share: switching there and back would be seen
    by other threads that sample or train the same system. What has none in training is returned itself.
    """
    if isinstance(what, nn.Module):
        if not any(module.training for module in what.modules()):
            return what
        weights = [*what.parameters(), *what.buffers()]
        return copy.deepcopy(what, {id(weight): weight for weight in weights}).eval()
    if is_dataclass(what) and not isinstance(what, type):  # guidance, codecs and processes around modules
        parts = {entry.name: getattr(what, entry.name) for entry in fields(what) if entry.init}
        calm = {name: evaluating(part) for name, part in parts.items()}
        changed = {name: part for name, part in calm.items() if part is not parts[name]}
        return replace(what, **changed) if changed else what
    return what
