"""Measures of the health of a set of features: effective rank, spread, isotropy, and whether the features collapsed."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_RANK = 2.0
"""Limit of the effective rank. Features with a smaller rank lie on one line through the origin: they collapsed."""
COLLAPSED_SPREAD = 0.03
"""Limit of the spread. Features with a smaller spread collapsed to a point, within about 2 degrees."""


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank of features: e to the power of the entropy of the normalised singular values of the unit features.

    The features are not centred. Features that lie in one point, or on one line through the origin, have rank 1. In
    many dimensions, noise around a point raises the rank above 2, and only `spread` detects the collapse. `collapsed`
    checks both.

    Args:
        features: (N, D) N features of length D. Their norms do not matter; a row of zeros is ignored.

    Returns:
        Scalar float64 tensor, from 1 to min(N, D); nan if a feature is non-finite.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007. Applied to network features in RankMe, arXiv 2210.02885.
    """
    unit = _unit(features)
    if not bool(torch.isfinite(unit).all()):
        return unit.new_tensor(torch.nan)
    values = torch.linalg.svdvals(unit)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def spread(features: Tensor) -> Tensor:
    """Spread of features: the mean distance of the unit features from their mean.

    Args:
        features: (N, D) N features of length D. Their norms do not matter.

    Returns:
        Scalar float64 tensor: 0 if all features have the same direction, 1 if their mean is zero; nan if a feature is
        non-finite.
    """
    unit = _unit(features)
    return (unit - unit.mean(dim=0)).norm(dim=-1).mean()


def collapsed(rank: float, spread: float) -> bool:
    """Whether features with this effective rank and spread collapsed to a line or a point. nan counts as collapsed.

    Args:
        rank: Effective rank, from `effective_rank`.
        spread: Spread, from `spread`.
    """
    return not (rank >= COLLAPSED_RANK and spread >= COLLAPSED_SPREAD)


def eigenvalue_ratio(features: Tensor) -> Tensor:
    """Ratio of the median to the largest eigenvalue of the covariance of the unit features.

    Args:
        features: (N, D) N >= 2 features of length D. Their norms do not matter. The median is taken over the
            min(N - 1, D) largest eigenvalues, because the others are always 0.

    Returns:
        Scalar float64 tensor, from 0 (the features vary in a few directions only) to 1 (equally in all directions).

    Raises:
        ValueError: There are fewer than two features, or a feature is non-finite.
    """
    unit = _required(features)
    values = torch.linalg.svdvals(unit - unit.mean(dim=0)).square()[: min(len(unit) - 1, unit.shape[1])]
    return values.median() / values[0].clamp(min=1e-30)


def partition_isotropy(features: Tensor) -> Tensor:
    """Isotropy of features, from the partition function Z(c) = sum_i e^(c . u_i) of the unit features u_i.

    Args:
        features: (N, D) N >= 2 features of length D. Their norms do not matter.

    Returns:
        Scalar float64 tensor: the smallest Z(c) divided by the largest Z(c), where the unit vector c runs over the
        principal axes in both directions. 1: the features are isotropic. e^-2: all features lie in one point.

    Raises:
        ValueError: There are fewer than two features, or a feature is non-finite.

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
    if unit.ndim != 2 or len(unit) < 2:
        raise ValueError(
            f"features must have shape (N, D) with N >= 2; got {tuple(features.shape)}. Pass more features"
        )
    if wrong := int((~torch.isfinite(unit)).any(dim=1).sum()):
        raise ValueError(
            f"{wrong} of {len(unit)} features are non-finite; all must be finite. Check the encoder's weights and input"
        )
    return unit
