"""Times of rows and of frames: faults of recorded times, and the frame that is nearest to each row in time."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

Unit = Literal["s", "ms", "us", "ns"]
SECONDS: Mapping[Unit, float] = MappingProxyType({"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9})
"""Length of each unit, s."""
STEP_S = (0.004, 0.5)
"""Range of the time between two rows, s, by which the unit of recorded times is guessed."""
GAP = 2.5
"""Longest step, in median steps, that is no gap."""
COARSE = 0.25
"""Largest distance between neighbouring float32 numbers, as a share of the mean step, that still tells rows apart."""


def guessed_unit(values: np.ndarray) -> Unit | None:
    """Return the unit in which the median step of recorded times is that of a recorder; None if there is none."""
    steps = np.diff(values.astype(np.float64))
    step = float(np.median(steps)) if len(steps) else 0.0
    return next((unit for unit, length in SECONDS.items() if STEP_S[0] <= step * length <= STEP_S[1]), None)


def why_no_times(values: np.ndarray, unit: Unit | None = None) -> str:
    """Return why recorded numbers (n,) are no times of n rows; "" if they may be times.

    They are non-finite, all equal, row numbers, or so large that float32 does not tell neighbouring rows apart. Numbers
    with steps of 1 are row numbers unless they are in a stated `unit` that is shorter than a second.
    """
    exact = values.astype(np.float64)
    if bad := np.flatnonzero(~np.isfinite(exact)).tolist():
        return f"{len(bad)} of {len(exact)} numbers are not finite, the first in row {bad[0]}"
    if len(exact) < 3:
        return ""
    largest, mean_step = np.abs(exact).max(), np.ptp(exact) / (len(exact) - 1)
    if values.dtype.kind == "f" and np.array_equal(exact, exact.astype(np.float32)):
        apart = float(np.spacing(np.float32(largest)))
        if apart > 1e-3 and apart > COARSE * mean_step:
            distinct = len(np.unique(exact))
            return (
                f"numbers of float32 precision near {largest:.4g} lie {apart:g} apart, so {len(exact)} rows have "
                f"{distinct} different times"
            )
    if np.ptp(exact) == 0:
        return f"all {len(exact)} numbers are {exact[0]:g}"
    if unit in (None, "s") and (np.diff(exact) == 1).all():
        return f"{exact[0]:g}, {exact[1]:g}, {exact[2]:g}, ... are row numbers: every step is exactly 1"
    return ""


@dataclass(frozen=True)
class Steps:
    """Steps between the recorded times of n rows.

    Attributes:
        unit: Guessed unit of the times; None if unknown.
        median: Median of the steps that are longer than 0, in the unit of the times.
        longest: Longest step divided by the median; 1 without any step.
        longest_row: Row before the longest step.
        mean: Mean of the steps from 0 to GAP medians, in the unit of the times.
        jitter: 95th percentile of the distances of these steps, except 0, from the median, divided by the median.
        repeats: Rows whose time equals that of the row before.
        backwards: Rows whose time is earlier than that of the row before.
    """

    unit: Unit | None
    median: float
    longest: float
    longest_row: int
    mean: float
    jitter: float
    repeats: tuple[int, ...]
    backwards: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> "Steps":
        """Return the steps of recorded times (n,), n >= 2."""
        steps = np.diff(values.astype(np.float64))
        forward = steps[steps > 0]
        median = float(np.median(forward)) if len(forward) else 0.0
        ratios = steps / median if median else np.ones(len(steps))
        usual = ratios[(ratios >= 0) & (ratios <= GAP)]
        moving = usual[usual > 0]
        return cls(
            guessed_unit(values),
            median,
            float(ratios.max()),
            int(ratios.argmax()),
            median * float(usual.mean()) if len(usual) else median,
            float(np.quantile(np.abs(moving - 1), 0.95)) if len(moving) else 0.0,
            tuple((np.flatnonzero(steps == 0) + 1).tolist()),
            tuple((np.flatnonzero(steps < 0) + 1).tolist()),
        )

    @property
    def rate(self) -> float | None:
        """Rows per second by the mean step; None if the unit is unknown."""
        return None if self.unit is None or not self.mean else 1 / (self.mean * SECONDS[self.unit])


def nearest(times: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the entry of `times` nearest to each time in `at`; of two at the same distance, the earlier.

    Args:
        times: (n,) times that never decrease, n >= 1.
        at: (T,) times in the same unit, in any order.

    Returns:
        (T,) int64 indices into `times`, and (T,) float64 distances, in the unit of the times.
    """
    after = np.clip(np.searchsorted(times, at), 1, max(1, len(times) - 1))
    pairs = np.stack([after - 1, np.minimum(after, len(times) - 1)])
    distances = np.abs(times[pairs] - at)
    chosen = distances.argmin(axis=0), np.arange(len(at))
    return pairs[chosen], distances[chosen]
