"""What recordings state beyond their layout, such as a simulator's truth, for held-out moments."""

from collections.abc import Callable

import numpy as np

from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.datasets.moments import Moments
from tactile_align.datasets.truth import read_truth
from tactile_align.errors import InputError


def stated_object(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """Return the name (N,) of the object in hand in some moments.

    Raises:
        ValueError: A recording does not state it, or cannot be read.
    """

    def read(episode: Episode) -> np.ndarray | None:
        name = episode.attributes.get("object")
        return None if name is None else np.full(len(episode), str(name))

    return _stated(moments, rows, read, "the attribute 'object'")


def stated_indentation(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """Return how deep (N,), m, the touched thing is pressed into the gel; errors as `stated_object`."""
    return _stated(moments, rows, lambda episode: read_truth(episode, "indentation"), "the array truth/indentation")


def _stated(moments: Moments, rows: np.ndarray, read: Callable[[Episode], np.ndarray | None], what: str) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    of, time = moments.episode[rows].tolist(), moments.time[rows].tolist()
    for number in sorted(set(of)):
        ref = moments.jobs[number].ref
        with open_episode(ref) as episode:
            values = read(episode)
        if values is None:
            raise InputError(
                f"needs {what} in every held-out episode, as simulated ones have it; {ref} has none. Write it into "
                f"the files to have it probed"
            )
        found[number] = values
    return np.array([found[e][t] for e, t in zip(of, time, strict=True)])
