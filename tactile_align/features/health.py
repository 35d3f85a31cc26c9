"""Health of a set of features: how many directions they span, how far apart they lie, whether they have collapsed."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_RANK = 2.0
"""Features of a smaller effective rank lie on one line through the origin."""
COLLAPSED_SPREAD = 0.03
"""Unit features of a smaller spread lie in one point: their directions differ by less than about 2 degrees."""


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank of features, e^entropy of the normalised singular values of the unit features.

    The features are not centred: a point has rank 1, as has a line through the origin. In many dimensions the noise
    around a point raises the rank above 2, so that only `spread` still shows the collapse; `collapsed` takes both.

    Args:
        features: (N, D) features of any length; a row of zeros counts as no direction.

    Returns:
        () float64, from 1 to min(N, D); nan where a feature is not finite.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007; on features of networks RankMe, arXiv 2210.02885.
    """
    unit = _unit(features)
    if not bool(torch.isfinite(unit).all()):
        return unit.new_tensor(torch.nan)
    values = torch.linalg.svdvals(unit)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def spread(features: Tensor) -> Tensor:
    """Spread of features, the mean distance of the unit features from their mean.

    Args:
        features: (N, D) features of any length.

    Returns:
        () float64: 0 when all directions are alike, 1 when they cancel; nan where a feature is not finite.
    """
    unit = _unit(features)
    return (unit - unit.mean(dim=0)).norm(dim=-1).mean()


def collapsed(rank: float, spread: float) -> bool:
    """Whether features of this effective rank and spread have collapsed to a line or a point; nan counts as collapse.

    Args:
        rank: As `effective_rank` returns it.
        spread: As `spread` returns it.
    """
    return not (rank >= COLLAPSED_RANK and spread >= COLLAPSED_SPREAD)


def eigenvalue_ratio(features: Tensor) -> Tensor:
    """Ratio of the median to the largest eigenvalue of the covariance of the unit features.

    Args:
        features: (N, D) features of any length, N >= 2; of the eigenvalues the min(N - 1, D) that can differ from 0
            count.

    Returns:
        () float64, from 0, a few directions only, to 1, round.

    Raises:
        ValueError: Fewer than two features, or one that is not finite.
    """
    unit = _required(features)
    values = torch.linalg.svdvals(unit - unit.mean(dim=0)).square()[: min(len(unit) - 1, unit.shape[1])]
    return values.median() / values[0].clamp(min=1e-30)


def partition_isotropy(features: Tensor) -> Tensor:
    """Isotropy of features by the partition function Z(c) = sum_i e^(c . u_i) of the unit features u_i.

    Args:
        features: (N, D) features of any length, N >= 2.

    Returns:
        () float64: min over max of Z over the principal axes c, both ways; 1 round, e^-2 a point.

    Raises:
        ValueError: Fewer than two features, or one that is not finite.

    Source: Mu and Viswanath, All-but-the-top, arXiv 1702.01417, section 2.2.
    """
    unit = _required(features)
    _, _, axes = torch.linalg.svd(unit, full_matrices=False)
    sums = (unit @ torch.cat([axes, -axes]).T).exp().sum(dim=0)
    return sums.min() / sums.max()


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=-1)


def _required(features: Tensor) -> Tensor:
    unit = _unit(features)
    if unit.ndim != 2 or len(unit) < 2 or not bool(torch.isfinite(unit).all()):
        raise ValueError(
            f"needed finite features of shape (N >= 2, D); got shape {tuple(features.shape)}, "
            f"{int((~torch.isfinite(unit)).sum())} values not finite. Check the encoder"
        )
    return unit
