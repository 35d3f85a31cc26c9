"""Loss of many rows, a span of rows at a time: memory grows with the batch, not with its square."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ELEMENTS = 2**23
"""Similarities of one span: 32 MiB in float32."""


class Features(NamedTuple):
    """What gradients flow to in one direction of a contrast; features have unit length.

    Attributes:
        query: (B, D), the rows.
        hard: (B, N, D), explicit negatives of each row; N may be 0.
        keys: (C, D), the candidates of all rows.
        kappa: Temperature, a scalar.
    """

    query: Tensor
    hard: Tensor
    keys: Tensor
    kappa: Tensor

    def span(self, start: int, stop: int) -> "Features":
        """Return the same with rows start..stop-1 only; all candidates stay."""
        return self._replace(query=self.query[start:stop], hard=self.hard[start:stop])


SpanLoss = Callable[[int, int, Features], tuple[Tensor, Tensor]]
"""Return the losses (n,) and the counts (n,) of rows start..stop-1 from the features of that span."""


def spans(rows: int, columns: int, chunk: int | None) -> list[tuple[int, int]]:
    """Return (start, stop) of spans of rows; without a given `chunk`, few enough rows to keep a span small."""
    size = chunk or max(64, ELEMENTS // max(columns, 1))
    return [(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def in_spans(span_loss: SpanLoss, features: Features, chunk: int | None, summed: bool) -> tuple[Tensor, Tensor]:
    """Return the losses of all rows and their counts (B,), as one call of `span_loss` for all rows would.

    Args:
        span_loss: Loss of one span.
        features: Features of all rows.
        chunk: Rows of a span; None chooses, and takes small batches at once.
        summed: Return the sum over rows, a scalar, in place of (B,) losses. Over several spans it is computed once,
            but cannot be differentiated twice; (B,) losses are computed again in the backward pass.
    """
    parts = spans(len(features.query), len(features.keys), chunk)
    if len(parts) > 1 and summed:
        return _summed(span_loss, features, parts)
    if len(parts) == 1:
        losses, counts = span_loss(*parts[0], features)
    else:
        rows = [checkpoint(span_loss, *part, features.span(*part), use_reentrant=False) for part in parts]
        losses, counts = (torch.cat(column) for column in zip(*rows, strict=True))
    return losses.sum() if summed else losses, counts


def _summed(span_loss: SpanLoss, features: Features, parts: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Sum over spans. Its gradient is known up to a factor once a span is computed, so it is taken there and then."""
    wanted = [i for i, x in enumerate(features) if x.requires_grad and torch.is_grad_enabled()]
    leaves = Features(*(x.detach().requires_grad_(i in wanted) for i, x in enumerate(features)))
    grads = features._replace(**{features._fields[i]: torch.zeros_like(features[i]) for i in wanted})
    total, counts = 0.0, []
    for part in parts:
        span = leaves.span(*part)
        losses, count = span_loss(*part, span)
        loss = losses.sum()
        if wanted:
            gradients = torch.autograd.grad(loss, [span[i] for i in wanted], allow_unused=True)
            whole = grads.span(*part)
            for i, gradient in zip(wanted, gradients, strict=True):
                if gradient is not None:
                    whole[i].add_(gradient)
        total += float(loss.detach())
        counts.append(count.detach())
    inputs = [features[i] for i in wanted]
    value: Tensor = _Known.apply(features.query.new_tensor(total), [grads[i] for i in wanted], *inputs)
    return value, torch.cat(counts)


class _Known(torch.autograd.Function):
    """A value with gradients that are known before the backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():  # gradients taken before know nothing of a second derivative
            raise RuntimeError(
                "a loss summed over several spans of rows has first derivatives only; got create_graph=True. Set chunk "
                "to the number of rows, or leave create_graph out"
            )
        return None, None, *(grad * grad_outputs[0] for grad in ctx.grads)
