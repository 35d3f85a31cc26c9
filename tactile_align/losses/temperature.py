"""The temperature kappa: fixed, or learnt in log space between bounds."""

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """kappa = exp(low + (high - low) sigmoid(x)), where low and high are the logs of the bounds.

    Between its bounds kappa moves freely and never sticks to one: the gradient of a hard clip is zero there.

    Args:
        initial: Starting value, strictly inside the bounds when learnt.
        learnt: Whether x is a parameter.
        bounds: Smallest and largest kappa.

    Raises:
        ValueError: An initial value or bounds that make no sense.
    """

    fixed: Tensor

    def __init__(self, initial: float = 0.07, learnt: bool = False, bounds: tuple[float, float] = (0.01, 0.5)) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low < high:
            raise ValueError(f"temperature bounds must satisfy 0 < low < high; got {bounds}")
        if not (initial > 0 and (not learnt or low < initial < high)):
            raise ValueError(f"temperature must be positive and, when learnt, inside {bounds}; got {initial}")
        self.learnt, self.bounds = learnt, bounds
        self._low, self._span = math.log(low), math.log(high) - math.log(low)
        if learnt:
            share = (math.log(initial) - self._low) / self._span
            self.x = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        else:
            self.register_buffer("fixed", torch.tensor(float(initial)))

    def forward(self) -> Tensor:
        """Return kappa, a scalar tensor."""
        if not self.learnt:
            return self.fixed
        return torch.exp(self._low + self._span * torch.sigmoid(self.x))

    def at_bound(self) -> bool:
        """Tell whether kappa has come within 2 % (in log space) of one of its bounds."""
        return self.learnt and not 0.02 < float(torch.sigmoid(self.x)) < 0.98
