"""Workers of a job: one process, or several started by torchrun or accelerate (extra `[dist]`).

Several workers hold a copy of the weights each (DDP), or a part of them each (FSDP, asked for by `accelerate launch
--use_fsdp`). In the second case parameters, moments and the average are sharded tensors; `whole` puts one together.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import socket
import sys
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
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


ALONE = Alone()
"""This process on its CPU: the default of whatever can be shared."""


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
        # Before the group starts: torch.distributed.nn keeps the group of its import time as a default argument, and a
        # group that is held cannot end.
        import torch.distributed.fsdp

        if self._sharded:  # a denoiser reads what its network returns, and never changes it in place
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        # Hidden from accelerate, which would wrap the module a second time.
        asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
        try:
            self._accelerator: Any = Accelerator(cpu=not torch.cuda.is_available())
        finally:
            if asked is not None:
                os.environ["ACCELERATE_USE_FSDP"] = asked
        _TOGETHER.add(self)

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


def _is_called(block: nn.Module) -> bool:
    """Has it weights, and a forward that gathers them? Those of a mere holder are gathered by what holds that."""
    return type(block).forward is not nn.Module.forward and any(True for _ in block.parameters())


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
        for stack in reversed(list(part.modules())):  # inner blocks first: what holds a sharded block takes the rest
            for block in stack if isinstance(stack, nn.ModuleList) else ():
                if _is_called(block) and not isinstance(block, FSDPModule):
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


_TOGETHER: weakref.WeakSet[Together] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """End the process group while the interpreter is whole.

    The group's threads drop the tensors of their last work when they please; one that does so while the interpreter is
    taken down aborts the process, and the launcher then stops the others. The group ends its threads when nothing
    refers to it, so what wraps modules is let go first. After a failure it is left alone: it would wait for work that
    the other workers never do.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized() or getattr(sys, "last_value", None):
        return
    for crew in _TOGETHER:
        crew._accelerator.free_memory()
    gc.collect()
    distributed.destroy_process_group()


def abandon(code: int) -> None:
    """Leave a process group at once after a failure or an interruption; without a group, do nothing.

    Ending the group in order would wait for the other workers, who may wait for this one. They notice that this
    process is gone.

    Args:
        code: Exit code of this process.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def first_to_fail(error: BaseException) -> bool:
    """Should this worker say why it failed? The first one should: the others fail because it did, or as it did.

    Args:
        error: Why this worker failed.
    """
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        socket.create_connection((host, int(port)), 2.0).close()  # the store itself would try again and again
        store = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=2))
        return store.add(f"condiff/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    # The store is gone, and with it the worker that held it: no need to add that the line to it is broken.
    return not (isinstance(error, DistError) or is_lost_peer(error))


def is_lost_peer(error: BaseException) -> bool:
    """Is this what a worker sees when another one is gone?"""
    return isinstance(error, RuntimeError) and "gloo/" in str(error)


def share(crew: Workers, count: int) -> range:
    """Deal out `count` rows evenly and return this worker's, which are equally many on all workers.

    The last shares may reach beyond `count`; `join` cuts that off.
    """
    each = -(-count // crew.size)
    return range(crew.rank * each, (crew.rank + 1) * each)


def join(crew: Workers, rows: Tensor, count: int) -> Tensor:
    """Put the shares of all workers together, on every worker's host; they must call this at once."""
    return rows if crew.size == 1 else crew.gather(rows.to(crew.device)).cpu()[:count]


def workers(device: torch.device | str = "cpu") -> Workers:
    """Return this job's workers: several if a launcher started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Together()
    return Alone(torch.device(device))
