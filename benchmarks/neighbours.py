"""Other libraries' sampling loops around the same stored network. One that is not installed is skipped by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.paired import Stored
from torch import Tensor, nn

Loop = Callable[[], object]


class _Ignore(nn.Module):
    """Calls a stored network whatever arguments a library passes."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.out


def prepare() -> None:
    """Hide a torchvision that was built for another torch: it fails as it loads, and so do networks that ask for it."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]


def diffusers_loop(name: str, x: Tensor, out: Tensor, steps: int, **options: Any) -> Loop:
    """Build a diffusers scheduler's loop; `set_timesteps` is part of every run, as it must be there."""
    module = importlib.import_module("diffusers")
    scheduler = getattr(module, name)(**options)
    net = Stored(out)

    @torch.no_grad()
    def run() -> Tensor:
        scheduler.set_timesteps(steps)
        state = x
        for t in scheduler.timesteps:
            fed = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
            state = scheduler.step(net(fed, t), t, state, return_dict=False)[0]
        return state

    return run


UNUSED = ("torchsde", "torchdiffeq", "torchvision", "torchvision.transforms", "torchvision.transforms.functional")
"""What k-diffusion's module imports for functions that no loop here calls."""


def kdiffusion() -> types.ModuleType:
    """Return k-diffusion's sampling module, loaded alone: its package wants image and training libraries.

    It comes by `pip install --no-deps k-diffusion`; with its dependencies it would bring a web client, two image
    libraries and a metric suite that none of its samplers needs.
    """
    if "k_diffusion.sampling" in sys.modules:
        return sys.modules["k_diffusion.sampling"]
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        raise ImportError("k_diffusion is not installed; pip install --no-deps k-diffusion")
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(Path(spec.origin).parent)]
    placed = {name: types.ModuleType(name) for name in UNUSED}
    placed["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    placed["torchvision"].transforms = placed["torchvision.transforms"]  # type: ignore[attr-defined]
    placed["torchvision.transforms"].functional = placed["torchvision.transforms.functional"]  # type: ignore[attr-defined]
    before = {name: sys.modules[name] for name in UNUSED if name in sys.modules}
    sys.modules.update(placed, k_diffusion=package)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in UNUSED:
            del sys.modules[name]
        sys.modules.update(before)


def kdiffusion_loop(name: str, x: Tensor, out: Tensor, steps: int) -> Loop:
    """Build a k-diffusion loop on Karras's grid."""
    module = kdiffusion()
    net = _Ignore(out)
    sampler = getattr(module, name)

    @torch.no_grad()
    def run() -> Tensor:
        sigmas = module.get_sigmas_karras(steps, 0.002, 80.0)
        return sampler(net, x, sigmas, disable=True)

    return run


def azula_loop(name: str, x: Tensor, out: Tensor, steps: int) -> Loop:
    """Build an azula loop on its variance preserving schedule."""
    sample, denoise, noise = (importlib.import_module(f"azula.{part}") for part in ("sample", "denoise", "noise"))

    class Denoiser(denoise.Denoiser):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.schedule = _Ignore(out), noise.VPSchedule()

        def forward(self, x: Tensor, t: Tensor, **kwargs: object) -> Any:
            return denoise.DiracPosterior(mean=self.net(x, t))

    sampler = getattr(sample, name)(Denoiser(), steps=steps, silent=True)
    return lambda: sampler(x)


def flow_matching_loop(method: str, x: Tensor, out: Tensor, steps: int) -> Loop:
    """Build a flow_matching ODE loop."""
    solver = importlib.import_module("flow_matching.solver")
    wrapper = importlib.import_module("flow_matching.utils").ModelWrapper

    class Velocity(wrapper):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            return self.model(x, t)

    ode = solver.ODESolver(velocity_model=Velocity(_Ignore(out)))
    return lambda: ode.sample(x_init=x, method=method, step_size=1.0 / steps)


def collect(builders: dict[str, Callable[[], Loop]]) -> tuple[dict[str, Loop], dict[str, str]]:
    """Build and try each neighbour's loop; return the loops that run, and why the others do not."""
    loops: dict[str, Loop] = {}
    skipped: dict[str, str] = {}
    for name, build in builders.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loop = build()
                loop()
            loops[name] = loop
        except ImportError as error:
            skipped[name] = f"skipped: {error}"
    return loops, skipped
