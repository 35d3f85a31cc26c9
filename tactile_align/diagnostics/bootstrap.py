"""Intervals that resample whole episodes: moments of one episode are alike and count as little more than one."""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def episode_interval(
    sums: np.ndarray,
    episode: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a statistic of sums.

    Args:
        sums: (S, N) quantities of each moment that the statistic needs summed.
        episode: (N,) which episode a moment is of.
        statistic: From sums (S, R) of R resamples to (R,).
        resamples: R.
        seed: Equal seed, equal interval.
    """
    names, index = np.unique(episode, return_inverse=True)
    per_episode = np.stack([np.bincount(index.ravel(), weights=row) for row in sums])
    chosen = np.random.default_rng([seed, 1]).integers(len(names), size=(resamples, len(names)))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(per_episode[:, chosen].sum(axis=2))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(
    values: np.ndarray, episode: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean of (N,) shares between 0 and 1.

    A single episode says nothing about others: its interval is all of 0 to 1, not the point that resampling it gives.
    """
    if len(np.unique(episode)) == 1:
        return 0.0, 1.0
    sums = np.stack([values, np.ones(len(values))])
    return episode_interval(sums, episode, lambda s: s[0] / s[1], resamples=resamples, seed=seed)
