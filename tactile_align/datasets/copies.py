"""Search for copies among episodes: recordings that share joints and actions, also re-encoded, renamed or cut out."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

WINDOW = 8  # rows that are compared together; equal rows in this number, while the arm moves, are no accident
LEAST_SHARE = 0.5  # smallest share of an episode's windows in another episode that makes it a copy


@dataclass(frozen=True)
class Copy:
    """Two episodes of one recording, or an episode whose recording is spread over several others.

    Attributes:
        first: Index of the earlier episode; of several others, that which shares most.
        second: Index of the later episode, or of the one that is spread over several others.
        share: Share of the moving windows of the shorter episode that the other contains, 0.5 to 1; of an episode that
            is spread over several others, the share of its windows that they contain together.
        others: Number of other episodes that contain the share.
    """

    first: int
    second: int
    share: float
    others: int = 1


def copies(states: Iterable[np.ndarray], groups: Sequence[Hashable] | None = None) -> list[Copy]:
    """Return the episodes that share at least half of their moving rows with another, or with all others together.

    Of several copies with the same `second`, the one with the largest share is returned. Rows are compared as float32,
    in windows of WINDOW consecutive rows, so frames may have been encoded again and rows may have been cut off. Windows
    in which the arm rests count only in an episode that never moves.

    Args:
        states: (T, D) joints and actions side by side of each episode with T rows. One state at a time is in memory; 8
            bytes are kept of each row.
        groups: Group of each episode; only episodes of different groups are compared. None: all are compared.
    """
    windows = [_windows(np.ascontiguousarray(state, np.float32)) for state in states]
    if not windows:
        return []
    counts = [len(hashes) for hashes in windows]
    hashes, owners = np.concatenate(windows), np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(hashes, kind="stable")
    runs = np.concatenate([[0], np.flatnonzero(np.diff(hashes[order])) + 1, [len(hashes)]])
    shared, covered = Counter[tuple[int, int]](), Counter[int]()
    for run in np.flatnonzero(np.diff(runs) > 1):
        holders = owners[order[runs[run] : runs[run + 1]]].tolist()
        pairs = [(a, b) for a, b in combinations(holders, 2) if groups is None or groups[a] != groups[b]]
        shared.update(pairs)
        covered.update({number for pair in pairs for number in pair})
    best: dict[int, Copy] = {}
    paired: set[int] = set()
    for (a, b), number in sorted(shared.items()):
        share = number / min(counts[a], counts[b])
        if share >= LEAST_SHARE:
            paired |= {a, b}
            best[b] = max(best.get(b, Copy(a, b, share)), Copy(a, b, share), key=lambda copy: copy.share)
    for one, number in covered.items():
        if number / counts[one] >= LEAST_SHARE and one not in paired:
            others = {a + b - one: n for (a, b), n in sorted(shared.items()) if one in (a, b)}
            best[one] = Copy(max(others, key=lambda k: others[k]), one, number / counts[one], len(others))
    return sorted(best.values(), key=lambda copy: (copy.first, copy.second))


def _windows(rows: np.ndarray) -> np.ndarray:
    """Return the distinct hashes of an episode's windows, int64; equal hashes of two windows are too rare."""
    moves = np.concatenate([[False], (np.diff(rows, axis=0) != 0).any(axis=1)])
    starts = range(len(rows) - WINDOW + 1)
    moving = {hash(rows[t : t + WINDOW].tobytes()) for t in starts if moves[t : t + WINDOW].sum() >= WINDOW // 2}
    return np.array(sorted(moving or {hash(rows.tobytes())}), np.int64)
