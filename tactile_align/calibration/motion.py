"""What moves in the frames of an episode, and how well each reading of a rig explains it; no truth or labels needed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.rig import Gripper
from tactile_align.calibration.rig_readings import AS_WRITTEN
from tactile_align.datasets.episodes import Episode

PAIRS = 8
"""Pairs of frames an episode gives to one view, at most."""
WITHIN_S, FPS = 3.0, 10.0
"""How far apart the frames of a pair may be, s; the rate where a recording does not know its own."""


@dataclass(frozen=True)
class Motion:
    """How well each reading of the rig explains what moved in one view of one episode.

    Attributes:
        camera: The view.
        sensor: Whose box was held against the fingers' motion; None: the still world against the arm's.
        scores: By the reading's name, (N,). Of a sensor, for each motion of the gripper, the median over its pairs of
            frames: how much better the picture in the box agrees with the moved box than with the box left in place,
            -2 to 2, 0 where a frame has no box. Of the still world, for each pair of frames: the share of tracked
            points that lie where the camera's motion puts them, 0 to 1. Empty where nothing of that kind moved.
        advice: By the reading's name, what to change in the rig file.
    """

    camera: str
    sensor: str | None
    scores: dict[str, np.ndarray]
    advice: dict[str, str]


@dataclass(frozen=True)
class Scores:
    """The scores of one view over all episodes.

    Attributes:
        by_reading: By the reading's name, (N,) as in Motion; AS_WRITTEN is always there.
    """

    by_reading: dict[str, np.ndarray]

    @classmethod
    def of(cls, motions: Sequence[Motion], camera: str, sensor: str | None) -> "Scores":
        """Gather a view's scores; a reading that only some episodes have, by [[override]], is left out."""
        found = [one.scores for one in motions if one.scores and (one.camera, one.sensor) == (camera, sensor)]
        if not found:
            return cls({AS_WRITTEN: np.zeros(0)})
        names = [name for name in found[0] if all(name in one for one in found)]
        return cls({name: np.concatenate([one[name] for one in found]) for name in names})

    def __len__(self) -> int:
        return len(self.by_reading[AS_WRITTEN])

    def without(self, names: Collection[str]) -> "Scores":
        """Return the scores of the other readings."""
        return Scores({name: scores for name, scores in self.by_reading.items() if name not in names})

    def median(self, name: str = AS_WRITTEN) -> float:
        """Return the median score of a reading."""
        return float(np.median(self.by_reading[name]))

    def gain(self, name: str) -> float:
        """Return the median of how much higher a reading scores than the rig as written."""
        return float(np.median(self.by_reading[name] - self.by_reading[AS_WRITTEN]))

    def share(self, name: str) -> float:
        """Return how often a reading scores higher than the rig as written, 0 to 1."""
        return float((self.by_reading[name] > self.by_reading[AS_WRITTEN]).mean())

    def ranked(self) -> list[str]:
        """Return the other readings, that with the highest gain first."""
        return sorted((name for name in self.by_reading if name != AS_WRITTEN), key=lambda name: -self.gain(name))


def near_in_time(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (i, j) of all pairs of frames that are near in time, i < j."""
    reach = max(1, round(WITHIN_S * (episode.fps or FPS)))
    i = np.arange(len(episode)).repeat(reach)
    j = i + np.tile(np.arange(1, reach + 1), len(episode))
    return i[j < len(episode)], j[j < len(episode)]


def stroke_of(gripper: Gripper) -> float:
    """Return how far one finger moves from closed to open, m."""
    return abs(float(np.diff(gripper.law.opening(np.array([0.0, 1.0])))[0]))
