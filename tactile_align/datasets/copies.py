"""Search for copies among episodes: recordings that share joints and actions, also re-encoded, renamed or cut out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 8  # rows that are compared together; equal rows in this number, while the arm moves, are no accident
LEAST_SHARE = 0.5  # smallest share of an episode's windows in another episode that makes it a copy


@dataclass(frozen=True)
class Copy:
    """Two episodes of one recording.

    Attributes:
        first: Index of the earlier episode.
        second: Index of the later episode.
        share: Share of the moving windows of the shorter episode that the other contains, 0.5 to 1.
    """

    first: int
    second: int
    share: float


def copies(states: Sequence[np.ndarray]) -> list[Copy]:
    """Return the pairs of episodes that share at least half of the moving rows of the shorter one.

    Rows are compared as float32, in windows of WINDOW consecutive rows, so frames may have been encoded again and rows
    may have been cut off. Windows in which the arm rests count only in an episode that never moves.

    Args:
        states: (T, D) joints and actions side by side of each episode with T rows.
    """
    first: dict[bytes, int] = {}
    counts: list[int] = []
    shared: Counter[tuple[int, int]] = Counter()
    for number, state in enumerate(states):
        windows = _windows(np.ascontiguousarray(state, np.float32))
        counts.append(len(windows))
        owners = (first.setdefault(window, number) for window in windows)
        shared.update((owner, number) for owner in owners if owner != number)
    shares = {(a, b): number / min(counts[a], counts[b]) for (a, b), number in shared.items()}
    return [Copy(a, b, min(share, 1.0)) for (a, b), share in sorted(shares.items()) if share >= LEAST_SHARE]


def _windows(rows: np.ndarray) -> set[bytes]:
    moves = np.concatenate([[False], (np.diff(rows, axis=0) != 0).any(axis=1)])
    starts = range(len(rows) - WINDOW + 1)
    moving = {rows[t : t + WINDOW].tobytes() for t in starts if moves[t : t + WINDOW].sum() >= WINDOW // 2}
    return moving or {rows.tobytes()}
