"""Evenly spaced indices."""

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """Return evenly spaced indices into a sequence of `count` items; `most` is the largest number of indices.

    Returns:
        (min(count, most),) int64 increasing indices from 0 to count - 1, without repeats, equally spaced up to
        rounding to the nearest integer; a single index is 0.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
