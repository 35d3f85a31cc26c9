"""Computation of a loss span by span, so that memory grows with the batch size and not with its square.

A span is a range of consecutive rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ELEMENTS = 2**23
"""Largest number of similarities in one span; 32 MiB in float32."""


class Features(NamedTuple):
    """Differentiable inputs of the loss in one direction (touch to region, or region to touch). Features are unit
    vectors.

    Attributes:
        query: (B, D) features of the B rows, each of length D.
        hard: (B, N, D) N explicit negatives of each row; N may be 0.
        keys: (C, D) features of the C candidates. Every row is compared with all candidates.
        kappa: Temperature, a scalar tensor.
    """

    query: Tensor
    hard: Tensor
    keys: Tensor
    kappa: Tensor

    def span(self, start: int, stop: int) -> "Features":
        """Return these features with only the rows `start:stop`. All candidates are kept."""
        return self._replace(query=self.query[start:stop], hard=self.hard[start:stop])


SpanLoss = Callable[[int, int, Features], tuple[Tensor, Tensor]]
"""Function that returns the losses (n,) and counts (n, 2) of the n rows `start:stop`, such as `hsa.Direction.losses`.

Its arguments are start, stop and the features of these rows.
"""


def spans(rows: int, columns: int, chunk: int | None) -> list[tuple[int, int]]:
    """Return the spans (start, stop) that divide `rows` rows, each of which has `columns` similarities.

    Each span has `chunk` rows. None: a span has at most ELEMENTS similarities, but at least 64 rows.
    """
    size = chunk or max(64, ELEMENTS // max(columns, 1))
    return [(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def in_spans(span_loss: SpanLoss, features: Features, chunk: int | None, summed: bool) -> tuple[Tensor, Tensor]:
    """Return the losses (B,) and counts (B, 2) of all B rows. They equal those of one call of `span_loss` for all rows.

    The counts of a row are described in `hsa.Direction.losses`.

    Args:
        span_loss: Loss of one span.
        features: Features of all rows.
        chunk: Number of rows of a span. None: chosen automatically; a small batch is one span.
        summed: Whether to return the sum of the losses, a scalar, instead of (B,) losses. With several spans, the sum
            is computed once but has no second derivative; (B,) losses are computed again in the backward pass.
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
    """Return the summed loss and the counts (B, 2). The gradient of each span is computed together with its loss."""
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
    """Identity on a value whose gradients were computed before the backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():  # the precomputed gradients cannot be differentiated again
            raise RuntimeError(
                "backward was called with create_graph=True, but a loss that is computed in several chunks of rows "
                "has no second derivative. Set chunk to the batch size, or omit create_graph"
            )
        return None, None, *(grad * grad_outputs[0] for grad in ctx.grads)
