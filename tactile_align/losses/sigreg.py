"""SIGReg: the distance of a batch of features from a standard normal distribution, over random directions."""

import math

import torch
from torch import Generator, Tensor

KNOTS, LAST = 17, 3.0
"""Number of points t at which characteristic functions are compared, and the largest t; the first is 0."""
GAUSSIAN = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
"""Expected value of `sigreg` for independent standard normal features, whatever their number: 1.06.

It is the integral over all t of (1 - e^(-t^2)) e^(-t^2 / 2). The knots of `sigreg` end at t = 3, which gives 1.05.
"""
POINT = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
"""Value of `sigreg` for features that all lie at 0, divided by their number: 0.41.

It is the integral over all t of (1 - e^(-t^2 / 2))^2 e^(-t^2 / 2). The knots of `sigreg` give 0.40.
"""


def sigreg(features: Tensor, directions: Tensor) -> Tensor:
    """Return the statistic SIGReg of features, the mean over directions of the Epps-Pulley statistic.

    For each direction a, the characteristic function of the N projections a . z is compared with that of the standard
    normal distribution: N times the integral over t of |mean e^(i t a . z) - e^(-t^2 / 2)|^2 e^(-t^2 / 2). The integral
    is that of the trapezoidal rule with `KNOTS` points from 0 to `LAST`, doubled for negative t.

    Args:
        features: (..., N, D) N features of length D in each of the leading batches.
        directions: (D, K) K unit vectors, from `random_directions`.

    Returns:
        Scalar: the mean over the leading batches. See `GAUSSIAN` and `POINT` for its scale.

    Source: Balestriero and LeCun, LeJEPA, arXiv 2511.08544; Epps and Pulley, Biometrika 70, 1983.
    """
    t = torch.linspace(0.0, LAST, KNOTS, dtype=features.dtype, device=features.device)
    normal = torch.exp(-t.square() / 2)
    step = torch.full_like(t, 2 * LAST / (KNOTS - 1))
    step[[0, -1]] /= 2
    phase = (features @ directions.to(features.dtype))[..., None] * t
    gap = (phase.cos().mean(dim=-3) - normal).square() + phase.sin().mean(dim=-3).square()
    return features.shape[-2] * (gap @ (step * normal)).mean()


def random_directions(length: int, count: int, generator: Generator | None = None) -> Tensor:
    """Return `count` random unit vectors of a length, as the columns of a tensor (length, count) on the CPU."""
    drawn = torch.randn(length, count, generator=generator)
    return drawn / drawn.norm(dim=0)
