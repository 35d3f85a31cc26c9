"""Processes of a run (several with torchrun): the rank of this process, and sums over all processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tactile_align.losses.gather import world
from tactile_align.policies.build import device_of


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: Index of this process; only process 0 writes files.
        world: Number of processes.
        device: Device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is True in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0) if self.world > 1 else flag

    def wait(self) -> None:
        """Wait until every process has called `wait`."""
        if self.world > 1:
            dist.barrier()

    def share(self, model: nn.Module, unused: bool) -> nn.Module:
        """Return a model whose gradients are averaged over the processes.

        Args:
            model: The model, which must be equal in all processes.
            unused: Whether some parameters get no gradient at some steps.
        """
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the processes that torchrun started and yield their group; without torchrun, the group has one process.

    Args:
        device: Device of this process. auto: the GPU of this process if the machine has one, else the CPU.

    Raises:
        InputError: The machine does not have the device.
    """
    chosen = device_of(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    starts = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if starts:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Group(*world(), chosen)
    finally:
        if starts:
            dist.destroy_process_group()
