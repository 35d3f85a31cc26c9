"""Candidates from all processes: one gather whose gradient is exact."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of the ranks, (world * B, ...); equal shapes on all of them.

    The gradient that each rank's loss sends to its copy of a row is summed and returned to the row's owner.
    """
    if world()[1] == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def gather_facts(x: Tensor) -> Tensor:
    """As `gather_rows`, for tensors without gradient of any dtype."""
    if world()[1] == 1:
        return x
    return _all_rows(x.detach())


def summed_over_ranks(x: Tensor) -> Tensor:
    """Return the sum over ranks, without gradient."""
    total = x.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def sum_of_ranks(own: Tensor, total: Tensor, ranks: int) -> Tensor:
    """Return the value of `total`, a sum over ranks, with the gradient of this rank's part `own` of it.

    Each rank sends gradient for its own rows; averaged over the ranks, only `ranks` times that is the sum's.
    """
    own = own * ranks
    return own + (total - own).detach() if ranks > 1 else own


def require_equal_rows(count: int, device: torch.device) -> None:
    """Refuse ranks whose batches differ in length, on every rank, before a collective call would hang.

    Raises:
        ValueError: They differ.
    """
    rank, ranks = world()
    if ranks == 1:
        return
    counts = torch.zeros(ranks, dtype=torch.int64, device=device)
    counts[rank] = count
    dist.all_reduce(counts)
    if len(set(counts.tolist())) != 1:
        raise ValueError(
            f"all ranks must bring equally many rows; they bring {counts.tolist()}. Keep rows without a box or "
            f"contact in the batch and mark them with `valid`"
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _all_rows(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def _all_rows(x: Tensor) -> Tensor:
    # Not every backend carries bool.
    plain = x.to(torch.uint8) if x.dtype == torch.bool else x
    found = [torch.empty_like(plain, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(found, plain.contiguous())
    return torch.cat(found).to(x.dtype)
