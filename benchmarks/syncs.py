"""G4: nothing in the loop waits for the device, and a step is one graph."""

from __future__ import annotations

import torch
from benchmarks.loops import _cases as cases
from benchmarks.paired import Effort, Ops, Row, Stored

from condiff.core.drivers import trajectory
from condiff.core.rng import RowRng
from condiff.core.shapes import instant
from condiff.core.solver import State
from condiff.process.gaussian import Preconditioned

STEPS = 20


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G4."""
    x = torch.randn(2, 4, 16, 16)
    rows = []
    for name, (process, target, solver, grid) in cases().items():
        denoiser = Preconditioned(Stored(torch.randn_like(x)), process, target)  # type: ignore[arg-type]
        states = trajectory(
            process,
            denoiser,
            solver,
            x,
            grid(process.schedule, STEPS),
            rng=RowRng(0, range(2)),  # type: ignore[operator]
        )
        next(states)  # set-up ends here: the grid was read, on the host
        with Ops() as seen:
            for _ in states:
                pass
        rows.append(Row("G4", f"{name}: host syncs in {STEPS} steps", seen.syncs, 0, bound=0))
    for name, (process, target, solver, _) in cases().items():
        if name == "DDPM" or (effort.smoke and name != "DDIM"):
            continue  # the noise comes from a host generator by design, which no graph can hold
        rows.append(
            Row("G4", f"{name}: graph breaks of a compiled step", _breaks(process, target, solver, x), 0, bound=0)
        )
    return rows


def _breaks(process, target, solver, x) -> int:  # type: ignore[no-untyped-def]
    denoiser = Preconditioned(Stored(torch.randn_like(x)), process, target)
    rng = RowRng(0, range(x.shape[0]))
    times = [instant(0.9 - 0.1 * i) for i in range(4)]

    def step(state: State, t: torch.Tensor, s: torch.Tensor) -> State:
        return solver.step(process, lambda x, t: denoiser(x, t, None), state, t, s, rng)

    torch._dynamo.reset()
    with torch.no_grad():
        try:
            state = solver.init(x, times[0])
            compiled = torch.compile(step, fullgraph=True, backend="eager")
            for t, s in zip(times, times[1:], strict=False):
                state = compiled(state, t, s)
        except torch._dynamo.exc.Unsupported:
            return 1
    return 0
