"""95 % intervals of shares, errors and paired differences, with episodes as the independent units.

The moments of an episode resemble each other, so every interval treats the episodes as the independent units.
`tests/benchmarks/coverage.py` measures how often these intervals contain the true value.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Interval = tuple[float, float] | None
"""Lower and upper limit, which may be infinite; None: there are too few episodes for an interval."""
TOO_FEW = "too few episodes for an interval"
LEVEL = 0.95
"""Probability with which an interval contains the true value."""
LEAST_CORRELATION = 0.05
"""Smallest assumed correlation of two contacts of an episode; few episodes cannot show that it is smaller."""


@dataclass(frozen=True)
class Rule:
    """Quantities, method and smallest number of episodes of one kind of interval.

    Attributes:
        quantity: Quantities for which this kind of interval is used.
        fewest: Smallest number of episodes from which an interval is computed.
        method: Method, with its source.
    """

    quantity: str
    fewest: int
    method: str


Kind = Literal["share", "share difference", "error", "error difference", "R2"]
RULES: dict[Kind, Rule] = {
    "share": Rule(
        "recall, hits of the pointing game, balanced accuracy of a probe, success of roll-outs",
        4,
        "Wilson interval. The number of contacts is divided by the design effect: the variance between episodes over "
        "that of independent contacts, at least that of a correlation of 0.05 in an episode. Quantiles of t; fewer "
        "degrees of freedom where few episodes cause most of the variance. If all seeds of roll-outs have the same "
        "share, each seed counts as one roll-out",
    ),
    "share difference": Rule(
        "difference of two recalls on the same contacts",
        4,
        "t interval with the variance between episodes, at least that of the contacts on which the two differ, with "
        "one more such contact in each direction (Bonett and Price, 2012) and a correlation of 0.05 in an episode",
    ),
    "error": Rule(
        "action error",
        8,
        "the smallest interval that contains the t interval over episodes and the interval of Cox for a lognormal mean "
        "(Zhou and Gao, 1997) with quantiles of t",
    ),
    "error difference": Rule(
        "difference of two action errors on the same moments",
        4,
        "the smallest interval that contains the t interval over episodes and the product of two intervals: that of "
        "the relative difference (a - b) / (a + b), and that of the mean of a + b as an error",
    ),
    "R2": Rule("R2 of a probe", 4, "interval of the relative difference of the two sums of squares, converted to R2"),
}


class Limits(NamedTuple):
    """Lower and upper limits of 95 % confidence intervals, each of shape (...), from values (..., n) of n episodes."""

    low: np.ndarray
    high: np.ndarray


def mean_interval(
    values: np.ndarray,
    episode: np.ndarray,
    *,
    bounds: tuple[float, float] = (0, 1),
    comparisons: int = 1,
    unseen_correlation: float = LEAST_CORRELATION,
) -> Interval:
    """Return the 95 % interval of the mean of `values`; None if there are too few episodes.

    Args:
        values: (N,) values of N contacts or moments.
        episode: (N,) episode of each value.
        bounds: Smallest and largest possible value; (0, inf) for an error.
        comparisons: Number of intervals that must all contain their true values with 95 % probability (Bonferroni).
        unseen_correlation: See `share_limits`.
    """
    (low, high), level = bounds, _level(comparisons)
    if _too_few("error" if np.isinf(high) else "share", episode):
        return None
    count, total = _per_episode(episode, np.ones(len(values)), values)
    if np.isinf(high):
        return _interval(error_limits(total, count, level))
    limits = share_limits((total - low * count) / (high - low), count, level, unseen_correlation)
    return _interval(Limits(*(low + (high - low) * end for end in limits)))


def paired_interval(
    a: np.ndarray, b: np.ndarray, episode: np.ndarray, *, bounds: tuple[float, float] = (0, 1), comparisons: int = 1
) -> Interval:
    """Return the 95 % interval of the mean paired difference, a - b; None if there are too few episodes.

    Args:
        a: (N,) values of N contacts or moments.
        b: (N,) other values of the same contacts or moments.
        episode: (N,) episode of each value.
        bounds: Smallest and largest possible value of `a` and `b`; (0, inf) for errors.
        comparisons: Number of intervals that must all contain their true values with 95 % probability (Bonferroni).
    """
    width, level = bounds[1] - bounds[0], _level(comparisons)
    if _too_few("error difference" if np.isinf(width) else "share difference", episode):
        return None
    if np.isinf(width):
        count, first, second = _per_episode(episode, np.ones(len(a)), a, b)
        return _interval(error_difference_limits(first, second, count, level))
    d = (a - b) / width
    count, total, squares = _per_episode(episode, np.ones(len(a)), d, d**2)
    return _interval(Limits(*(width * end for end in share_difference_limits(total, squares, count, level))))


def balanced_interval(correct: np.ndarray, label: np.ndarray, episode: np.ndarray) -> Interval:
    """Return the 95 % interval of the balanced accuracy; None if there are too few episodes.

    The balanced accuracy is the share of correct predictions in each class, averaged over the classes.

    Args:
        correct: (N,) bool, whether the class of each of N moments was predicted correctly.
        label: (N,) class of each moment, as numbers from 0 on without gaps.
        episode: (N,) episode of each moment.
    """
    if _too_few("share", episode):
        return None
    one_of = np.eye(int(label.max()) + 1)[label].T
    sums = np.stack(_per_episode(episode, *(one_of * correct), *one_of))
    hits, count = np.split(sums, 2)
    share, influence = _ratio(hits, count)
    contacts = np.array(len(hits) ** 2 / (1 / count.sum(axis=1)).sum())
    return _interval(_wilson(share.mean(), influence.mean(axis=0), count.sum(axis=0), contacts, LEVEL))


def r2_interval(residual: np.ndarray, deviation: np.ndarray, episode: np.ndarray) -> Interval:
    """Return the 95 % interval of R2 = 1 - (sum of residual) / (sum of deviation); None if there are too few episodes.

    Args:
        residual: (N,) squared errors of the prediction at N moments.
        deviation: (N,) squared errors, at the same moments, of a prediction that uses no features, such as the mean.
        episode: (N,) episode of each moment.
    """
    if _too_few("R2", episode):
        return None
    first, second = _per_episode(episode, residual, deviation)
    relative = relative_limits(first, second)
    with np.errstate(divide="ignore"):
        limits = Limits(*(-2 * end / (1 - end) for end in (relative.high, relative.low)))
    return _interval(limits)


def interval_text(interval: Interval, form: str = ".3f") -> str:
    """Return an interval as text: "[0.100, 0.200]", or the remark that there are too few episodes."""
    return f"({TOO_FEW})" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def share_limits(
    hits: np.ndarray, count: np.ndarray, level: float = LEVEL, unseen_correlation: float = LEAST_CORRELATION
) -> Limits:
    """Return the limits, each of shape (...), of the interval of the share of contacts that are hits.

    Args:
        hits: (..., n) number of hits in each of n episodes.
        count: (..., n) number of contacts in each episode.
        level: Probability with which an interval contains the true value.
        unseen_correlation: Assumed correlation of two contacts of an episode where all episodes have the same share, so
            that the data do not show the correlation.
    """
    share, influence = _ratio(hits, count)
    return _wilson(share, influence, count, count.sum(axis=-1), level, unseen_correlation)


def share_difference_limits(total: np.ndarray, squares: np.ndarray, count: np.ndarray, level: float = LEVEL) -> Limits:
    """Return the limits, each of shape (...), of the interval of the difference between the shares of two results.

    A share is the fraction of contacts that are hits. Both results are for the same contacts. The difference at a
    contact is the first result's hit (1 or 0) minus the second result's hit.

    Args:
        total: (..., n) differences at the contacts, summed in each of n episodes.
        squares: (..., n) squared differences at the contacts, summed in each episode.
        count: (..., n) number of contacts in each episode.
        level: Probability with which an interval contains the true value.
    """
    _, influence = _ratio(total, count)
    contacts = count.sum(axis=-1) + 2  # one more contact in each direction
    centre = total.sum(axis=-1) / contacts
    least = ((squares.sum(axis=-1) + 2) / contacts - centre**2) / contacts * _design(count)
    half = _t(_freedom(influence), level) * np.sqrt(np.maximum(_variance(influence), least))
    return Limits(np.maximum(centre - half, -1.0), np.minimum(centre + half, 1.0))


def error_limits(total: np.ndarray, count: np.ndarray, level: float = LEVEL) -> Limits:
    """Return the limits, each of shape (...), of the interval of a mean error.

    Args:
        total: (..., n) errors at the moments, summed in each of n episodes.
        count: (..., n) number of moments in each episode.
        level: Probability with which an interval contains the true value.
    """
    n = count.shape[-1]
    low, high = _t_limits(total, count, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(total / count)
        spread = logarithm.var(axis=-1, ddof=1)
        half = _t(n - 1, level) * np.sqrt(spread / n + spread**2 / (2 * (n + 1)))
        centre = logarithm.mean(axis=-1) + spread / 2
        # An episode without any error has no logarithm; fmin and fmax then keep the t interval.
        return Limits(np.maximum(np.fmin(low, np.exp(centre - half)), 0.0), np.fmax(high, np.exp(centre + half)))


def error_difference_limits(a: np.ndarray, b: np.ndarray, count: np.ndarray, level: float = LEVEL) -> Limits:
    """Return the limits, each of shape (...), of the interval of one result's mean error minus another's.

    Args:
        a: (..., n) errors of the first result, summed in each of n episodes.
        b: (..., n) errors of the second result at the same moments, summed in each episode.
        count: (..., n) number of moments in each episode.
        level: Probability with which an interval contains the true value.
    """
    low, high = _t_limits(a - b, count, level)
    relative, both = relative_limits(a, b, level), error_limits(a + b, count, level)
    lowest = relative.low * np.where(relative.low < 0, both.high, both.low)
    highest = relative.high * np.where(relative.high > 0, both.high, both.low)
    return Limits(np.minimum(low, lowest), np.maximum(high, highest))


def relative_limits(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> Limits:
    """Return the limits, each of shape (...), of the interval of (A - B) / (A + B).

    A and B are the total errors of two results.

    Args:
        a: (..., n) errors of the first result, summed in each of n episodes; their sum over the episodes is A.
        b: (..., n) errors of the second result, summed in each episode; their sum over the episodes is B.
        level: Probability with which an interval contains the true value.
    """
    both = a + b
    with np.errstate(divide="ignore", invalid="ignore"):
        relative, influence = _ratio(a - b, both)
        # Large episodes dominate the sums; this is the number of equal episodes that would vary as much.
        episodes = both.sum(axis=-1) ** 2 / (both**2).sum(axis=-1)
        # A large episode draws the ratio to itself; the division undoes this (the jackknife of a ratio).
        influence = influence / (1 - both / both.sum(axis=-1, keepdims=True))
        half = _t(np.maximum(episodes - 2, 1.0), level) * np.sqrt(_variance(influence))
    return Limits(np.maximum(relative - half, -1.0), np.minimum(relative + half, 1.0))


def _per_episode(episode: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Return for each array (N,) in `values` its sums in the n episodes, (n,)."""
    _, index = np.unique(episode, return_inverse=True)
    return [np.bincount(index.ravel(), weights=row) for row in values]


def _too_few(kind: Kind, episode: np.ndarray) -> bool:
    return len(np.unique(episode)) < RULES[kind].fewest


def _interval(limits: Limits) -> Interval:
    low, high = float(limits.low), float(limits.high)
    return None if np.isnan([low, high]).any() else (low, high)


def _level(comparisons: int) -> float:
    return 1 - (1 - LEVEL) / comparisons


def _t(freedom: np.ndarray | float, level: float) -> np.ndarray:
    return np.asarray(stdtrit(freedom, (1 + level) / 2))


def _ratio(total: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (sum of `total`) / (sum of `count`) over n episodes, (...), and each episode's influence, (..., n)."""
    size = count.sum(axis=-1)
    ratio = total.sum(axis=-1) / size
    return ratio, (total - ratio[..., None] * count) / size[..., None]


def _variance(influence: np.ndarray) -> np.ndarray:
    n = influence.shape[-1]
    return np.asarray(n / (n - 1) * (influence**2).sum(axis=-1))


def _freedom(influence: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom (...): n - 1, or fewer if few of the n episodes have most of the influence."""
    n, squares = influence.shape[-1], (influence**2).sum(axis=-1)
    fourth = (influence**4).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Normal influences have a kurtosis of 3, so that n normal influences count as n.
        return np.where(fourth > 0, np.clip(3 * squares**2 / fourth - 1, 1, n - 1), n - 1)


def _design(count: np.ndarray, correlation: float = LEAST_CORRELATION) -> np.ndarray:
    """Return the factor (...) on the variance (design effect) if the contacts of an episode have a correlation.

    `count` is the number of contacts in each of n episodes, (..., n).
    """
    return np.asarray(1 + ((count**2).sum(axis=-1) / count.sum(axis=-1) - 1) * correlation)


def _wilson(
    share: np.ndarray,
    influence: np.ndarray,
    count: np.ndarray,
    contacts: np.ndarray,
    level: float,
    unseen_correlation: float = LEAST_CORRELATION,
) -> Limits:
    """Return the limits, each of shape (...), of the Wilson interval of a share.

    Args:
        share: (...) share.
        influence: (..., n) influence of each of n episodes on the share.
        count: (..., n) number of contacts in each episode.
        contacts: (...) number of independent contacts that would give the share the same variance as all contacts, if
            the contacts of an episode were not correlated.
        level: Probability with which an interval contains the true value.
        unseen_correlation: See `share_limits`.
    """
    variance, t = _variance(influence), _t(_freedom(influence), level)
    with np.errstate(divide="ignore", invalid="ignore"):
        unseen = contacts / _design(count, unseen_correlation)
        between = np.where(variance > 0, share * (1 - share) / variance, unseen)
    size = np.minimum(between, contacts / _design(count))
    half = t / (size + t**2) * np.sqrt(size * share * (1 - share) + t**2 / 4)
    centre = (size * share + t**2 / 2) / (size + t**2)
    return Limits(np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def _t_limits(total: np.ndarray, count: np.ndarray, level: float) -> Limits:
    mean, influence = _ratio(total, count)
    half = _t(count.shape[-1] - 1, level) * np.sqrt(_variance(influence))
    return Limits(mean - half, mean + half)
