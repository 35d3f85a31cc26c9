"""The temperature kappa: fixed, learnt in log space between bounds, or on a schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.errors import InputError


class Temperature(nn.Module):
    """kappa. Learnt, it is exp(x) with x held between the logs of the bounds.

    At a bound only the gradient that leads back inside passes: a hard clip would stop both directions and a
    sigmoid nearly so, and kappa would stick to the first bound it met.

    Args:
        initial: Starting value, inside the bounds when learnt.
        learnt: Whether x is a parameter.
        bounds: Smallest and largest kappa.
        final: Where a schedule ends; None for no schedule.
        steps: Training steps from `initial` to `final`, evenly in log kappa; each forward in training mode is one.

    Raises:
        ValueError: An initial value, bounds or a schedule that make no sense.
    """

    fixed: Tensor
    step: Tensor

    def __init__(
        self,
        initial: float = 0.07,
        learnt: bool = False,
        bounds: tuple[float, float] = (0.01, 0.5),
        final: float | None = None,
        steps: int = 0,
    ) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low < high:
            raise InputError(f"temperature bounds must satisfy 0 < low < high; got {bounds}")
        if not (initial > 0 and (not learnt or low < initial < high)):
            raise InputError(f"temperature must be positive and, when learnt, inside {bounds}; got {initial}")
        if final is not None and (learnt or not final > 0 or steps < 1):
            raise InputError(
                f"a temperature schedule needs a fixed temperature, a positive end and at least one step; got "
                f"learnt {learnt}, final {final}, steps {steps}. Switch learning off or leave `final` out"
            )
        self.learnt, self.bounds, self.final, self.steps = learnt, bounds, final, steps
        self._low, self._high = math.log(low), math.log(high)
        if learnt:
            self.x = nn.Parameter(torch.tensor(math.log(initial)))
        else:
            self.register_buffer("fixed", torch.tensor(float(initial)))
        if final is not None:
            self.register_buffer("step", torch.tensor(0))

    def forward(self) -> Tensor:
        """Return kappa, a scalar tensor; in training mode a schedule moves on by one step."""
        if self.learnt:
            bounded: Tensor = _Bounded.apply(self.x, self._low, self._high)
            return bounded.exp()
        if self.final is None:
            return self.fixed
        share = (self.step / self.steps).clamp(max=1)
        if self.training:
            self.step += 1
        return torch.exp(torch.log(self.fixed) * (1 - share) + math.log(self.final) * share)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high), grad = ctx.saved_tensors, ctx.bounds, grads[0]
        # Descent moves against the gradient: a positive one pushes x down.
        outward = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return torch.where(outward, torch.zeros_like(grad), grad), None, None
