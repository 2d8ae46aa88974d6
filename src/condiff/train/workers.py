"""Workers of a job: one process, or several started by torchrun or accelerate (extra `[dist]`).

Several workers hold a copy of the weights each (DDP), or a part of them each (FSDP, asked for by `accelerate launch
--use_fsdp`). In the second case parameters, moments and the average are sharded tensors; `whole` puts one together.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """Put a sharded tensor together, which all workers must do at once; any other tensor is returned as it is."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def local(tensor: Tensor) -> Tensor:
    """Return this worker's part of a sharded tensor, sharing its memory; any other tensor is returned as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


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

    def agree(self, value: float) -> float:
        """Return worker 0's value, so that all workers decide alike."""
        ...

    def wait(self) -> None:
        """Wait until every worker is here."""
        ...

    def shards(self, average: nn.Module, module: nn.Module) -> Mapping[str, Tensor]:
        """Shard an average's state like a prepared module's; empty if that module is whole."""
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

    def agree(self, value: float) -> float:
        """Return the value."""
        return value

    def wait(self) -> None:
        """Return at once."""

    def shards(self, average: nn.Module, module: nn.Module) -> Mapping[str, Tensor]:
        """Return nothing: all weights are whole."""
        return {}


@final
class Together:
    """Several processes through accelerate: DDP by default, FSDP if `accelerate launch` was configured for it.

    accelerate reads the launcher's environment and starts the process group. It drops FSDP where there is no GPU, so
    the sharding itself is torch's `fully_shard`, which does the same on every device.
    """

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise RuntimeError("several workers need accelerate: pip install 'condiff[dist]'") from None
        self._sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")
        # Hidden from accelerate, which would wrap the module a second time.
        asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
        try:
            self._accelerator: Any = Accelerator(cpu=not torch.cuda.is_available())
        finally:
            if asked is not None:
                os.environ["ACCELERATE_USE_FSDP"] = asked
        # A worker whose interpreter ends with the group alive may abort, and the launcher then stops the others.
        atexit.register(_leave)

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
        if self._sharded:
            return _shard(module, optimizer), optimizer
        return self._accelerator.prepare_model(module), optimizer

    def mean(self, value: Tensor) -> Tensor:
        """Average over the workers."""
        reduced: Tensor = self._accelerator.reduce(value.detach(), reduction="mean")
        return reduced

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate in rank order."""
        gathered: Tensor = self._accelerator.gather(rows.contiguous())
        return gathered

    def agree(self, value: float) -> float:
        """Return worker 0's value."""
        from torch.distributed import broadcast

        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        broadcast(told, 0)
        return float(told)

    def wait(self) -> None:
        """Wait until every worker is here."""
        self._accelerator.wait_for_everyone()

    def shards(self, average: nn.Module, module: nn.Module) -> Mapping[str, Tensor]:
        """Shard the average's state like the module's, where the module's is sharded."""
        own = average.state_dict()
        return {name: _like(own[name], value) for name, value in module.state_dict().items() if _is_sharded(value)}


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")


def _like(tensor: Tensor, other: Any) -> Tensor:  # noqa: ANN401 - torch.distributed.tensor.DTensor, slow to import
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.detach().contiguous(), other.device_mesh, other.placements)


def _shard(module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """Shard the parts of a denoiser that have weights, and hand the sharded parameters to its optimiser.

    Not the denoiser itself: sharding finds its way back through tensors, and a denoiser returns an estimate.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if any(isinstance(part, FSDPModule) for part in module.modules()):
        return module
    if next(module.parameters(recurse=False), None) is not None:
        raise TypeError(
            f"FSDP cannot shard weights that {type(module).__name__} itself holds; put them into its network"
        )
    before: dict[str, Tensor] = dict(module.named_parameters())
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for part in module.children():
        for stack in part.modules():
            if isinstance(stack, nn.ModuleList):
                for block in stack:
                    if any(True for _ in block.parameters()) and not isinstance(block, FSDPModule | nn.ModuleList):
                        fully_shard(block)
        if any(True for _ in part.parameters()):
            fully_shard(part)
    after: dict[Tensor, Tensor] = {before[name]: parameter for name, parameter in module.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [after[parameter] for parameter in group["params"]]
    for parameter, entry in list(optimizer.state.items()):
        del optimizer.state[parameter]
        new = after[parameter]
        optimizer.state[new] = {name: _like(value, new) if value.ndim else value for name, value in entry.items()}
    return module


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def workers(device: torch.device | str = "cpu") -> Workers:
    """Return this job's workers: several if a launcher started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Together()
    return Alone(torch.device(device))
