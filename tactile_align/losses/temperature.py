"""Temperature kappa of the contrastive loss: fixed, learnt in log space between bounds, or scheduled."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.errors import InputError


class Temperature(nn.Module):
    """Temperature kappa as a module. A learnt kappa is exp(x).

    The trained parameter x stays between the logarithms of the bounds.

    At a bound, only a gradient that moves x back inside the bounds is passed on. A hard clip would block both
    directions, and a sigmoid nearly so; kappa would then stay at the first bound that it reaches.

    Args:
        initial: Initial value. It must lie inside the bounds if kappa is learnt.
        learnt: Whether kappa is learnt.
        bounds: Smallest and largest value of a learnt kappa.
        final: Final value of a schedule. None: no schedule.
        steps: Number of training steps from `initial` to `final`, linearly in log kappa. Each call of `forward` in
            training mode is one step.

    Raises:
        InputError: The bounds, the initial value or the schedule are invalid.
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
            raise InputError(
                f"temperature bounds must be two increasing positive numbers; got {bounds}. Use bounds such as (0.01, "
                f"0.5)"
            )
        if not (initial > 0 and (not learnt or low < initial < high)):
            needed = f"above {low} and below {high}, the bounds of a learnt temperature" if learnt else "positive"
            raise InputError(f"temperature must be {needed}; got {initial}. Use a temperature such as 0.07")
        if final is not None and (learnt or not final > 0 or steps < 1):
            needed = f"final > 0; got final = {final}" if not final > 0 else f"at least one step; got steps = {steps}"
            needed = "learnt = False; got learnt = True" if learnt else needed
            raise InputError(f"a schedule of the temperature needs {needed}. Change this value, or omit `final`")
        self.learnt, self.bounds, self.final, self.steps = learnt, bounds, final, steps
        self._low, self._high = math.log(low), math.log(high)
        if learnt:
            self.x = nn.Parameter(torch.tensor(math.log(initial)))
        else:
            self.register_buffer("fixed", torch.tensor(float(initial)))
        if final is not None:
            self.register_buffer("step", torch.tensor(0))

    def forward(self) -> Tensor:
        """Return kappa, a scalar tensor. In training mode, a schedule advances by one step."""
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
        # Gradient descent moves against the gradient: a positive gradient decreases x.
        outward = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return torch.where(outward, torch.zeros_like(grad), grad), None, None
