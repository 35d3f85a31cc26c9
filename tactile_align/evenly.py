"""Evenly spread indices."""

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """Return the indices (min(count, most),) int64 of at most `most` of `count` things, from first to last.

    They rise without repeats, equally spaced up to rounding to the nearest; a single index is the first.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
