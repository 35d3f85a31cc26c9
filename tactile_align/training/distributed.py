"""The processes of a run, one or several (torchrun): the rank of this one, and sums over all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tactile_align.errors import InputError
from tactile_align.losses.gather import world


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: Number of this process; 0 leads: it alone writes files.
        world: Number of processes.
        device: Device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0) if self.world > 1 else flag

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier()

    def share(self, model: nn.Module, unused: bool) -> nn.Module:
        """Return a model whose gradients are averaged over the processes.

        Args:
            model: The same on every process.
            unused: Whether some parameters get no gradient at some steps.
        """
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the other processes that torchrun started, for the length of the block; alone without torchrun.

    Args:
        device: "auto" takes this process's GPU where there is one.

    Raises:
        InputError: This machine has no such device.
    """
    chosen = _device(device)
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


def _device(stated: str) -> torch.device:
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        chosen = torch.device({"auto": own if torch.cuda.is_available() else "cpu", "cuda": own}.get(stated, stated))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise InputError(
            f"device = '{stated}' cannot be used here ({str(error).splitlines()[0]}). Needed: auto, cpu, cuda, or "
            f"cuda:N with N below {torch.cuda.device_count()}"
        ) from error
    return chosen
