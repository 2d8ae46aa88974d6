"""Write your own solver and judge it on a target whose exact answer is known.

The target is a mixture of three Gaussians in the plane. `MixtureData` is its exact denoiser, so every error below is
the solver's own: there is no network to blame. Run it with: python examples/own_solver.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from condiff.core import Flowing, Moments, Rng, RowRng, State, instant, trajectory
from condiff.oracles import MixtureData
from condiff.process import Flow, Gaussian, Times, Uniform
from condiff.solvers import Euler, Heun


@dataclass(frozen=True)
class Ralston:
    """Second order, two calls a step: x_s = x + h (u_1 / 4 + 3 u_2 / 4), u_2 at two thirds of the way."""

    def init(self, x: Tensor, t: Tensor) -> State:
        """Start at x; there is no history."""
        return State(x)

    def step(
        self,
        process: Flowing,
        denoise: Callable[[Tensor, Tensor], Moments],
        state: State,
        t: Tensor,
        s: Tensor,
        rng: Rng,
    ) -> State:
        """Move from time t to time s, in either direction."""
        x, h = state.x, float(s - t)
        first = process.velocity(x, t, denoise(x, t))
        middle = instant(float(t) + 2.0 / 3.0 * h)
        second = process.velocity(x, middle, denoise(x + 2.0 / 3.0 * h * first, middle))
        return State(x + h * (0.25 * first + 0.75 * second))


def main() -> dict[str, dict[int, float]]:
    """Compare three solvers at several numbers of steps; returns their errors."""
    process = Gaussian(Flow())
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    target = MixtureData.isotropic(process, weights, means, 0.3)
    rng = RowRng(0, range(256), dtype=torch.float64)
    noise = process.start((256, 2), rng=rng)

    def end(solver: Euler | Heun | Ralston, num_steps: int) -> Tensor:
        grid = Times(Uniform(), process.schedule)(num_steps)
        *_, last = trajectory(process, target, solver, noise, grid, rng=rng)
        return last.x

    exact = end(Heun(), 512)
    print("root mean square distance to the exact end points")
    errors: dict[str, dict[int, float]] = {}
    for solver in (Euler(), Heun(), Ralston()):
        name = type(solver).__name__
        errors[name] = {n: float((end(solver, n) - exact).square().sum(1).mean().sqrt()) for n in (8, 16, 32, 64)}
        print(f"  {name:8}" + "".join(f"  {n} steps {error:.1e}" for n, error in errors[name].items()))
    share = torch.cdist(exact, means).argmin(1).bincount() / len(exact)
    print(f"share of samples by component: {share.tolist()}, asked for {weights.tolist()}")
    return errors


if __name__ == "__main__":
    main()
