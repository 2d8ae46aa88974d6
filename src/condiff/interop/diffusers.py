"""EVODiff as a scheduler for diffusers pipelines.

`pipe.scheduler = EVODiffScheduler.from_config(pipe.scheduler.config)`, and the pipeline is called as before.
The scheduler holds the run's state, as all of theirs do; the step is the solver's own, on the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condiff.core.drivers import instants
from condiff.core.estimate import Moments
from condiff.core.process import Target
from condiff.core.rng import RowRng
from condiff.core.solver import State
from condiff.process import Data, Flow, Gaussian, Karras, Noise, ProcessTime, Table, V, Velocity
from condiff.solvers import Direct, Ending, EVODiff, Predicted, Released

try:
    from diffusers import ConfigMixin, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
except ImportError as error:
    raise ImportError("condiff.interop.diffusers needs diffusers: pip install 'condiff[diffusers]'") from error

TARGETS: Mapping[str, Target] = {
    "epsilon": Noise(), "v_prediction": V(), "sample": Data(), "flow_prediction": Velocity(),
}  # fmt: skip
"""Their prediction types. On the straight path their flow prediction is noise - data, the velocity of time here too."""

ENDINGS: Mapping[str, Ending] = {"direct": Direct(), "predicted": Predicted(), "released": Released()}
SPACINGS = ("linspace", "leading", "trailing")


class EVODiffScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """EVODiff with the interface of a diffusers scheduler; deterministic, one network call a step.

    Models trained on a discrete table have its times, t = (timestep + 1) / num_train_timesteps; flow models have
    t = sigma = timestep / num_train_timesteps. The last step ends at the data. Clipping and thresholding are not done.

    Args:
        num_train_timesteps: Entries of the table.
        beta_start, beta_end, beta_schedule: The table: "linear", "scaled_linear" or "squaredcos_cap_v2".
        trained_betas: The table itself, instead.
        prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction"; the last is for flow models.
        timestep_spacing: "linspace", "leading" or "trailing", when neither of the next two is chosen.
        steps_offset: Added to "leading" timesteps.
        use_karras_sigmas: Noise levels of Karras et al. 2022, between the table's ends.
        use_lu_lambdas: Noise levels uniform in log-SNR, the grid that EVODiff was made for, between the table's ends.
        flow_shift: Shift k of a flow model's levels, k s / (1 + (k - 1) s).
        use_dynamic_shifting: Shift by the `mu` that a pipeline gives to `set_timesteps` instead.
        ending: The step to the data: "direct" (DDIM), "released" or "predicted".

    Raises:
        ValueError: If a name is none of those.
    """

    _compatibles = [*(scheduler.name for scheduler in KarrasDiffusionSchedulers), "FlowMatchEulerDiscreteScheduler"]  # noqa: RUF012 - theirs
    order = 1

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "trailing",
        steps_offset: int = 0,
        use_karras_sigmas: bool = False,
        use_lu_lambdas: bool = True,
        flow_shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        ending: str = "direct",
    ) -> None:
        for what, value, known in (
            ("prediction_type", prediction_type, TARGETS),
            ("ending", ending, ENDINGS),
            ("timestep_spacing", timestep_spacing, SPACINGS),
        ):
            if value not in known:
                raise ValueError(f"EVODiffScheduler: {what} must be one of {', '.join(known)}, got {value!r}")
        self.target = TARGETS[prediction_type]
        self.flows = prediction_type == "flow_prediction"
        betas = _betas(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)
        self.alphas_cumprod = torch.cumprod(1.0 - betas, 0)
        self.process = Gaussian(Flow() if self.flows else Table.of(self.alphas_cumprod))
        self.init_noise_sigma = 1.0
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None
        self._times: list[Tensor] = []
        self._memory: Mapping[str, Tensor] | None = None
        self._index: int | None = None
        self._begin: int | None = None

    @classmethod
    def from_config(cls, config: Any = None, **kwargs: Any) -> Any:  # noqa: ANN401 - as theirs
        """Build from another scheduler's configuration; that of a flow-matching scheduler is told by its keys."""
        known = dict(config or {})
        if "use_dynamic_shifting" in known and "beta_schedule" not in known and "prediction_type" not in known:
            kwargs = {"prediction_type": "flow_prediction", "flow_shift": known.get("shift", 1.0), **kwargs}
        return super().from_config(config, **kwargs)

    @property
    def step_index(self) -> int | None:
        """Number of the next step; None before the first."""
        return self._index

    @property
    def begin_index(self) -> int | None:
        """Number of the first step, as a pipeline set it."""
        return self._begin

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at a later step, as image-to-image pipelines do."""
        self._begin = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Lay out a run and forget the last one.

        Args:
            num_inference_steps: Steps, one network call each; taken from `sigmas` if those are given.
            device: Where `timesteps` are put.
            sigmas: Decreasing noise levels sigma / alpha (for flow models sigma itself), without the final zero.
            mu: Dynamic shift of a flow model.

        Raises:
            ValueError: If there are neither steps nor sigmas, or more steps than the table has entries.
        """
        num, most = len(sigmas) if sigmas is not None else num_inference_steps, self.config.num_train_timesteps
        if num is None or not 1 <= num <= most:
            raise ValueError(f"set_timesteps needs 1 to {most} steps, or sigmas; got {num_inference_steps}")
        times = self._flow_times(num, sigmas, mu) if self.flows else self._table_times(num, sigmas)
        count = self.config.num_train_timesteps
        steps = [t * count - (0.0 if self.flows else 1.0) for t in times]
        whole = all(abs(step - round(step)) < 1e-6 for step in steps) and not self.flows
        made = torch.tensor([round(step) for step in steps]) if whole else torch.tensor(steps, dtype=torch.float32)
        self.timesteps = made.to(device)
        self.num_inference_steps = num
        self._times = instants(torch.tensor([*times, 0.0], dtype=torch.float64))
        self._memory, self._index, self._begin = None, None, None
        self.sigmas = torch.tensor([*(self._kappa(t) for t in times), 0.0], dtype=torch.float32)

    def _kappa(self, t: float) -> float:
        alpha, sigma = self.process.schedule(t)
        return sigma if self.flows else sigma / alpha if alpha > 0.0 else math.inf

    def _flow_times(self, num: int, sigmas: Sequence[float] | None, mu: float | None) -> list[float]:
        count = self.config.num_train_timesteps
        given = sigmas if sigmas is not None else torch.linspace(1.0, 1.0 / count, num, dtype=torch.float64).tolist()
        if self.config.use_dynamic_shifting and mu is None:
            raise ValueError("this flow model shifts its levels by the size of the picture; give set_timesteps a mu")
        k = math.exp(mu) if self.config.use_dynamic_shifting and mu is not None else self.config.flow_shift
        return [k * float(s) / (1.0 + (k - 1.0) * float(s)) for s in given]

    def _table_times(self, num: int, sigmas: Sequence[float] | None) -> list[float]:
        schedule, config = self.process.schedule, self.config
        count = config.num_train_timesteps
        if sigmas is not None:
            kappas = [float(s) for s in sigmas]
        elif config.use_karras_sigmas or config.use_lu_lambdas:
            # A table with zero terminal SNR has its last finite level one entry earlier.
            high = next(k for k in (self._kappa(1.0), self._kappa(1.0 - 1.0 / count)) if k < math.inf)
            low = self._kappa(1.0 / count)
            if config.use_karras_sigmas:
                rho = Karras.rho
                ramp = torch.linspace(high ** (1.0 / rho), low ** (1.0 / rho), num, dtype=torch.float64) ** rho
            else:
                ramp = torch.linspace(math.log(high), math.log(low), num, dtype=torch.float64).exp()
            kappas = ramp.tolist()
        else:
            return [(index + 1) / count for index in self._indices(num)]
        return [float(schedule.time(-2.0 * math.log(kappa))) for kappa in kappas]

    def _indices(self, num: int) -> list[int]:
        count = self.config.num_train_timesteps
        match self.config.timestep_spacing:
            case "trailing":
                return [round(count * (1.0 - k / num)) - 1 for k in range(num)]
            case "leading":
                return [k * (count // num) + self.config.steps_offset for k in range(num)][::-1]
        return [round(k * (count - 1) / max(num - 1, 1)) for k in range(num)][::-1]

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - as theirs
        """Return the sample: the network reads the state itself."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: int | float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:  # noqa: ANN401 - a SchedulerOutput, or a tuple
        """Take the step after one network call.

        Args:
            model_output: What the network returned for `sample`, (B, C, ...); a learned variance behind it is left out.
            timestep: Where it was asked.
            sample: State, (B, C, ...).
            generator: Not read: nothing is drawn.
            return_dict: A SchedulerOutput, else a tuple.

        Returns: The state at the next timestep, in the type of the network's output.

        Raises:
            ValueError: If `set_timesteps` was not called, or the run is over.
        """
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        if self._index is None:
            self._index = self._begin if self._begin is not None else self._find(float(timestep))
        if self._index >= self.num_inference_steps:
            raise ValueError(f"all {self.num_inference_steps} steps are taken; call set_timesteps for another run")
        out = model_output[:, : sample.shape[1]]
        x = sample if sample.dtype in (torch.float32, torch.float64) else sample.float()
        t, s = self._times[self._index : self._index + 2]
        solver = EVODiff(ENDINGS[self.config.ending], clock=ProcessTime(), num_steps=self.num_inference_steps)
        memory = self._memory if self._memory is not None else solver.init(x, t).memory

        def denoise(x: Tensor, t: Tensor) -> Moments:
            return self.process.infer(x, t, out.to(x.dtype), self.target)

        state = solver.step(self.process, denoise, State(x, memory), t, s, RowRng(0, range(len(x))))
        self._memory = state.memory
        self._index += 1
        new = state.x.to(model_output.dtype)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    def _find(self, timestep: float) -> int:
        return int((self.timesteps.double() - timestep).abs().argmin())

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Corrupt data (B, C, ...) to timesteps (B,): alpha * data + sigma * noise."""
        shift = 0.0 if self.flows else 1.0
        t = (timesteps.to(original_samples.device, torch.float64) + shift) / self.config.num_train_timesteps
        return self.process.draw(original_samples, t, rng=RowRng(0, range(len(noise))), noise=noise).x

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Corrupt data, in the order of arguments that flow-matching pipelines use."""
        return self.add_noise(sample, noise, timestep.expand(len(sample)))

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def _betas(num: int, start: float, end: float, schedule: str, trained: Sequence[float] | None) -> Tensor:
    """Return the noise rates of a table, (num,), float64. Source: Ho et al. 2020; Rombach et al. 2022; Nichol 2021."""
    if trained is not None:
        return torch.as_tensor(trained, dtype=torch.float64)
    if schedule == "linear":
        return torch.linspace(start, end, num, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, num, dtype=torch.float64) ** 2
    if schedule == "squaredcos_cap_v2":
        bar = torch.cos((torch.linspace(0.0, 1.0, num + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1.0 - bar[1:] / bar[:-1]).clamp_max(0.999)
    raise ValueError(
        f"EVODiffScheduler: beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {schedule!r}; "
        "give any other table as trained_betas"
    )
