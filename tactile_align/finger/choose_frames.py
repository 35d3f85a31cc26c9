"""Choice of frames to look at, spread over the gripper's openings and over the episodes."""

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
"""Costs that spread the choice, as shares of the range of openings. CROWDED: cost of a frame next to a chosen frame.
WORN: cost for each frame already chosen from the same episode."""


@dataclass(frozen=True)
class Chosen:
    """Chosen frame: its episode, its row, and a finger's distance from the tool axis, m (None without a rig)."""

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
    """Return frames of a camera, sorted by episode and row.

    With a rig and an arm, the frames lie evenly over the quantiles of that arm's gripper opening. They come from as
    many episodes, and lie as far apart in time, as the openings allow. Without a rig or an arm, they lie evenly in
    time. They also lie evenly in time if the rig cannot read an episode's gripper; a warning is logged.

    Args:
        path: A folder of episodes, or one file.
        camera: Name of a camera that every episode holds.
        count: How many frames; all frames if the episodes hold fewer. At most 2 * `count` episodes are opened.
        rig: The rig.
        arm: Name of the arm over whose gripper openings the frames are spread.
        layout: The episodes' layout; recognised when None.

    Raises:
        FileNotFoundError, EpisodeError: No episodes were found, or they are damaged.
        InputError: `count` is less than 1, an episode lacks the camera, or the episodes hold no frames.
    """
    if count < 1:
        raise InputError(f"count must be at least 1 frame; got {count}. Choose a larger count")
    refs = list_episodes(path, layout)
    refs = tuple(refs[i] for i in evenly(len(refs), 2 * count))
    openings, known = [], rig is not None and arm is not None
    for ref in refs:
        with open_episode(ref) as episode:
            if camera not in episode.cameras:
                raise InputError(f"{ref} has no camera '{camera}'. Choose from: {', '.join(episode.cameras) or 'none'}")
            stands = np.full(len(episode), np.nan)
            if rig and arm and known:
                try:
                    stands = np.asarray(rig.gripper(arm).opening(episode.qpos)[:, 0])
                except InputError as error:
                    # Hand-drawn boxes help to find this fault, so the fault must not prevent drawing them.
                    known = False
                    logger.warning(f"{ref}: /{episode.layout.state.qpos[0]}: {error} Frames are chosen evenly in time.")
            openings.append(stands)
    episode_of = np.repeat(np.arange(len(refs)), [len(stands) for stands in openings])
    frame_of = np.concatenate([np.arange(len(stands)) for stands in openings])
    pooled = np.concatenate(openings)
    if len(pooled) == 0:
        raise InputError(f"{path}: the episodes hold no frames. Record episodes with frames")
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
