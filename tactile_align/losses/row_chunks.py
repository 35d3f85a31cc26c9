"""The summed loss of many rows, a span of rows at a time: memory grows with the batch, not with its square."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Block = Callable[..., tuple[Tensor, Tensor]]
"""block(start, stop, *sliced rows, *shared) -> (losses (n,), counts (n,)) of rows start..stop-1."""

ELEMENTS = 2**23
"""Similarities of one span: 32 MiB in float32."""


def spans(rows: int, columns: int, chunk: int | None) -> list[tuple[int, int]]:
    """Return (start, stop) of spans of rows; without a given `chunk`, few enough rows to keep a span small."""
    size = chunk or max(64, ELEMENTS // max(columns, 1))
    return [(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def row_losses(
    block: Block, parts: list[tuple[int, int]], rows: Sequence[Tensor | None], shared: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Return the losses and counts (B,) of all rows; with several spans each is computed again in the backward pass.

    Args:
        block: Computes one span.
        parts: The spans, see `spans`.
        rows: Tensors (B, ...) of which a span gets its rows.
        shared: Tensors every span gets whole.
    """
    found = []
    for start, stop in parts:
        sliced = [None if t is None else t[start:stop] for t in rows]
        if len(parts) == 1:
            found.append(block(start, stop, *sliced, *shared))
        else:
            found.append(checkpoint(block, start, stop, *sliced, *shared, use_reentrant=False))
    return torch.cat([loss for loss, _ in found]), torch.cat([count for _, count in found])


def summed_loss(
    block: Block, parts: list[tuple[int, int]], rows: Sequence[Tensor | None], shared: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the counts (B,); arguments as `row_losses`.

    The gradient of a sum is known up to a factor as soon as a span is computed, so it is taken at once, span by
    span, and nothing has to be computed twice. It cannot be differentiated again.
    """
    if len(parts) == 1:
        losses, counts = row_losses(block, parts, rows, shared)
        return losses.sum(), counts
    total, counts = _Summed.apply(block, parts, len(rows), *rows, *shared)
    return total, counts


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, parts: list[tuple[int, int]], sliced: int, *given: Tensor | None) -> Any:
        wants = [i for i, t in enumerate(given) if t is not None and ctx.needs_input_grad[3 + i]]
        grads = {i: torch.zeros_like(t) for i, t in enumerate(given) if t is not None and i in wants}
        held = [None if t is None else t.detach() for t in given]
        leaves = [t if t is None else t.requires_grad_(i in wants) for i, t in enumerate(held)]
        total, counts = torch.zeros((), dtype=torch.float64), []
        for start, stop in parts:
            inputs: list[Tensor | None] = []
            for i, t in enumerate(leaves):
                if t is None or i >= sliced:
                    inputs.append(t)
                else:
                    inputs.append(t.detach()[start:stop].requires_grad_(i in wants))
            with torch.set_grad_enabled(bool(wants)):
                losses, count = block(start, stop, *inputs)
                summed = losses.sum()
            if wants:
                found = torch.autograd.grad(summed, [inputs[i] for i in wants], allow_unused=True)  # type: ignore[arg-type]
                for i, grad in zip(wants, found, strict=True):
                    if grad is not None:
                        (grads[i][start:stop] if i < sliced else grads[i]).add_(grad)
            total = total + summed.detach().double().cpu()
            counts.append(count.detach())
        ctx.grads = grads
        ctx.given = len(given)
        all_counts = torch.cat(counts)
        ctx.mark_non_differentiable(all_counts)
        return total.to(all_counts.dtype).to(all_counts.device), all_counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        factor = grad_outputs[0]
        scaled = [ctx.grads[i] * factor if i in ctx.grads else None for i in range(ctx.given)]
        return None, None, None, *scaled
