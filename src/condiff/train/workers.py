"""Workers of a job: one process, or several started by torchrun or accelerate (extra `[dist]`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn


class Workers(Protocol):
    """How a job is shared: who I am, and what must be done together."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0; worker 0 writes files and talks."""
        ...

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        ...

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap a module so that its gradients are averaged over the workers."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the workers."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate equal-sized rows of all workers in rank order."""
        ...

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the whole state of a prepared module, whatever is sharded; all workers must call it."""
        ...


@final
@dataclass(frozen=True)
class Alone:
    """One process on one device."""

    device: torch.device = torch.device("cpu")

    @property
    def rank(self) -> int:
        """Return 0."""
        return 0

    @property
    def size(self) -> int:
        """Return 1."""
        return 1

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both unchanged."""
        return module, optimizer

    def mean(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the module's state."""
        return dict(module.state_dict())


@final
class Together:
    """Several processes through accelerate: DDP by default, FSDP if `accelerate launch` was configured for it."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise RuntimeError("several workers need accelerate: pip install 'condiff[dist]'") from None
        self._accelerator: Any = Accelerator(cpu=not torch.cuda.is_available())

    @property
    def rank(self) -> int:
        """Number of this worker."""
        return int(self._accelerator.process_index)

    @property
    def size(self) -> int:
        """Number of workers."""
        return int(self._accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        return torch.device(self._accelerator.device)

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap for gradient averaging; the optimiser is left plain, so that its state keeps its form."""
        return self._accelerator.prepare_model(module), optimizer

    def mean(self, value: Tensor) -> Tensor:
        """Average over the workers."""
        reduced: Tensor = self._accelerator.reduce(value.detach(), reduction="mean")
        return reduced

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate in rank order."""
        gathered: Tensor = self._accelerator.gather(rows.contiguous())
        return gathered

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the whole state of a prepared module."""
        return dict(self._accelerator.get_state_dict(module))


def workers(device: torch.device | str = "cpu") -> Workers:
    """Return this job's workers: several if a launcher started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Together()
    return Alone(torch.device(device))
