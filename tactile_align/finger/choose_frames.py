"""Choice of frames to look at: over the openings of the gripper and over the episodes."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly

logger = logging.getLogger(__name__)

CROWDED, WORN = 0.10, 0.02
"""Cost of a frame beside a chosen one, and of each frame already taken from its episode: shares of the openings."""


@dataclass(frozen=True)
class Chosen:
    """One frame: its episode, its row, and one finger's opening there, m; None where no rig gives it."""

    ref: EpisodeRef
    frame: int
    opening: float | None = None


def choose_frames(
    path: str | Path,
    camera: str,
    count: int,
    *,
    rig: Rig | None = None,
    arm: str | None = None,
    layout: str | Path | None = None,
) -> tuple[Chosen, ...]:
    """Choose frames of a camera, in the order of episodes and rows.

    With a rig and an arm they lie evenly over the quantiles of that arm's gripper opening, taken from as many
    episodes, and as far apart, as these allow; else evenly in time. That, too, where the rig cannot read an episode's
    gripper, which is logged.

    Args:
        path: A folder of episodes, or one file.
        camera: A camera that the episodes hold.
        count: How many; all there are where that is less. Of many episodes twice this number is looked at.
        rig: The rig.
        arm: The arm whose gripper counts.
        layout: The episodes' layout; recognised when None.

    Raises:
        FileNotFoundError, EpisodeError: No episodes, or damaged ones.
        InputError: No frame wanted, an episode without the camera.
    """
    if count < 1:
        raise InputError(f"needed at least one frame; got a count of {count}")
    refs = list_episodes(path, layout)
    refs = tuple(refs[i] for i in evenly(len(refs), 2 * count))
    openings, known = [], rig is not None and arm is not None
    for ref in refs:
        with open_episode(ref) as episode:
            if camera not in episode.cameras:
                raise InputError(f"{ref} has no camera '{camera}'; it has {', '.join(episode.cameras) or 'none'}")
            stands = np.full(len(episode), np.nan)
            if rig and arm and known:
                try:
                    stands = np.asarray(rig.gripper(arm).opening(episode.qpos)[:, 0])
                except InputError as error:
                    # Boxes are what finds such a fault, so it must not keep anybody from drawing them.
                    known = False
                    logger.warning(f"{ref}: /{episode.layout.state.qpos[0]}: {error} Frames lie evenly in time.")
            openings.append(stands)
    episode_of = np.repeat(np.arange(len(refs)), [len(stands) for stands in openings])
    frame_of = np.concatenate([np.arange(len(stands)) for stands in openings])
    pooled = np.concatenate(openings)
    if len(pooled) == 0:
        raise InputError(f"{path}: the episodes hold no frames; record some")
    if known:
        taken = _over_openings(pooled, episode_of, frame_of, min(count, len(pooled)))
    else:
        taken = np.unique(((np.arange(count) + 0.5) / count * len(pooled)).astype(int))
    return tuple(
        Chosen(refs[episode_of[i]], int(frame_of[i]), float(pooled[i]) if known else None) for i in np.sort(taken)
    )


def _over_openings(opening: np.ndarray, episode: np.ndarray, frame: np.ndarray, count: int) -> np.ndarray:
    """Return indices (count,) of frames at evenly spaced quantiles of the opening, both ends included."""
    span = max(float(np.ptp(opening)), 1e-9)
    reach = np.bincount(episode)[episode] / 4
    cost, taken = np.zeros(len(opening)), np.zeros(count, int)
    for i, target in enumerate(np.quantile(opening, np.linspace(0, 1, count))):
        best = int(np.argmin(np.abs(opening - target) / span + cost))
        same = episode == episode[best]
        near = np.clip(1 - np.abs(frame - frame[best]) / reach, 0, None)
        cost += same * (WORN + CROWDED * near**2)
        cost[best] = np.inf
        taken[i] = best
    return taken
