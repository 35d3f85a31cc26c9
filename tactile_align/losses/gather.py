"""Collective operations of torch.distributed with exact gradients: gathers and sums over all ranks.

A rank is one process of the run.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Return (rank, number of ranks); (0, 1) if torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of `x` from all ranks, ordered by rank.

    `x` (B, ...) has B rows on each rank, and the result is (number of ranks * B, ...). `x` must have the same shape on
    all ranks.
    Each rank holds a copy of every row. In the backward pass the gradients of all copies of a row are summed, and the
    sum goes to the rank that owns the row.
    """
    if world()[1] == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def gather_facts(x: Tensor) -> Tensor:
    """Return the rows of `x` from all ranks as `gather_rows`, but without gradient and for any dtype."""
    if world()[1] == 1:
        return x
    return _all_rows(x.detach())


def summed_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over all ranks, without gradient."""
    total = x.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def sum_of_ranks(own: Tensor, total: Tensor, ranks: int) -> Tensor:
    """Return a tensor with the value of `total`, a sum over ranks, and the gradient of `ranks` * `own`.

    `own` is this rank's part of the sum. DistributedDataParallel averages gradients over the ranks; the factor `ranks`
    makes the average equal to the gradient of the sum.
    """
    own = own * ranks
    return own + (total - own).detach() if ranks > 1 else own


def require_equal_rows(count: int, device: torch.device) -> None:
    """Check that all ranks have the same number of rows, because a collective call would otherwise hang.

    Raises:
        ValueError: The numbers of rows differ. All ranks raise the error.
    """
    rank, ranks = world()
    if ranks == 1:
        return
    counts = torch.zeros(ranks, dtype=torch.int64, device=device)
    counts[rank] = count
    dist.all_reduce(counts)
    if len(set(counts.tolist())) != 1:
        raise ValueError(
            f"batch sizes differ between ranks: {counts.tolist()} rows. All ranks need equally large batches. Keep "
            f"rows without a box or contact in the batch, and set `valid` to False for these rows"
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
    # Some backends cannot send bool.
    plain = x.to(torch.uint8) if x.dtype == torch.bool else x
    found = [torch.empty_like(plain, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(found, plain.contiguous())
    return torch.cat(found).to(x.dtype)
