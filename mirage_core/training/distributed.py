"""One process or many: who this one is, and tensors that are sharded.

accelerate starts the processes and knows the devices. Weights are sharded by PyTorch's own
``fully_shard``: each process holds a part of every parameter, its gradient and its optimizer
state, and blocks are gathered while they compute. With one process nothing is sharded.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import MirageError, ValueRangeError


class Distributed:
    """The processes of a run, as one of them sees them.

    Args:
        cpu: Compute on the CPU even where there is another device.

    Raises:
        MirageError: Fewer processes found each other than were started.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        # accelerate makes a group of processes on the CPU only when it is told to.
        self._state = PartialState(cpu=cpu or not torch.accelerator.is_available())
        _expect_whole_group(self._state.num_processes)
        self.rank: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device: torch.device = self._state.device

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def share(self, micro_batches: int, together: int = 1) -> range:
        """Which of a step's micro-batches are this process's.

        Args:
            micro_batches: Of all processes.
            together: Neighbouring processes that have the same ones.

        Raises:
            ValueRangeError: They cannot be divided evenly.
        """
        groups = self.count // self.expect_groups(together)
        if micro_batches % groups:
            raise ValueRangeError(
                "The batch is not divisible by the number of processes",
                got=f"{micro_batches} micro-batches, {self.count} processes",
                expected="a multiple of the number of processes"
                + (f" over the {together} that share a clip" if together > 1 else ""),
            )
        part, group = micro_batches // groups, self.rank // together
        return range(group * part, (group + 1) * part)

    def expect_groups(self, together: int) -> int:
        """``together``, if the processes can be divided into groups of so many.

        Raises:
            ValueRangeError: They cannot.
        """
        if self.count % together:
            raise ValueRangeError(
                "The processes are not divisible into groups that share a clip",
                got=f"{self.count} processes, context_parallel {together}",
                expected=f"a multiple of {together} processes",
            )
        return together

    def shard(self, model: nn.Module) -> None:
        """Shard a model's parameters; each block is a unit of its own."""
        if self.count == 1:
            return
        for block in sharded_blocks(model):
            fully_shard(block)
        fully_shard(model)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a number over all processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def largest(self, value: int) -> int:
        """Largest of a whole number over all processes; all must call this."""
        if self.count == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        """Wait until every process is here."""
        self._state.wait_for_everyone()

    def close(self) -> None:
        """Destroy the process group."""
        self._state.destroy_process_group()


def _expect_whole_group(count: int) -> None:
    """Each would take itself for the only one otherwise, and write over the others' files."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started != str(count):
        raise MirageError(
            "The processes of this run do not form one group",
            got=f"{started} started (WORLD_SIZE), {count} in the group",
            fix="Start them with torchrun or accelerate launch, for the device that --device names",
        )


def sharded_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that are gathered one at a time."""
    kinds = set(getattr(model, "_no_split_modules", []))
    return [module for module in model.modules() if type(module).__name__ in kinds]


def compile_blocks(model: nn.Module) -> None:
    """Compile what each block computes; before `Distributed.shard`, whose hooks stay outside."""
    for block in sharded_blocks(model):
        compiled: Any = torch.compile(block.forward)
        block.forward = compiled


def gathered(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, whole; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(full: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor sharded as a parameter is; every process has the whole one."""
    full = full.to(parameter.device, parameter.dtype)
    if not isinstance(parameter, DTensor):
        return full
    placed: Any = distribute_tensor(
        full, parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed
