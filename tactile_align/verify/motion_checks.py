"""The lines of verify's table that need neither truth nor labels: does another reading of the rig fit better?

The thresholds lie between what right and wrong rigs gave on simulated episodes; docs/howto/verify.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode
from tactile_align.verdict import Check
from tactile_align.verify.image_motion import Motion, Scores, finger_motion, smaller_in_contact, world_motion
from tactile_align.verify.rig_hypotheses import AS_WRITTEN, readings_of

MIN_MOTIONS = 3
"""Fewer motions of the gripper, or pairs of frames, tell nothing."""
MANY = 10
"""So many motions that do not fit are no accident: in a right rig the median fits from three on."""
SHARE = 0.7
"""Another reading is better when it is in this share of them."""
FINGERS, WORLD = (0.1, 0.15), (0.15, 0.4)
"""By how much its score must then be higher, and how high; medians. Of a sensor's box, of the still world."""
SMALLER = 0.3
"""In a right rig nearly all openings in contact are smaller than those without; below this share they are not."""
MIN_FRAMES = 5
"""Fewer frames with contact, or without, tell nothing about their openings."""


@dataclass(frozen=True)
class Watched:
    """What one episode shows without truth or labels.

    Attributes:
        motions: One for each view that can tell.
        smaller: By sensor, in what share of (touching, not touching) pairs of frames the opening is the smaller one,
            and how many frames the smaller of both groups has.
    """

    motions: tuple[Motion, ...]
    smaller: dict[str, tuple[float, int]]


def watch(episode: Episode, rig: Rig, contact: dict[str, np.ndarray]) -> Watched:
    """Look at what moves in an episode.

    Args:
        episode: The episode.
        rig: The rig that holds for it.
        contact: By sensor, (T,) bool, touching; names the sensors to look for.
    """
    cameras = [name for name in rig.cameras if name in episode.cameras]
    found = [finger_motion(episode, rig, camera, sensor, contact) for camera in cameras for sensor in contact]
    found += [world_motion(episode, rig, camera) for camera in cameras]
    return Watched(tuple(one for one in found if one is not None), smaller_in_contact(episode, rig, contact))


def motion_checks(rig: Rig, watched: Sequence[Watched]) -> list[Check]:
    """Return a line for each gripper's sensor, for each camera on an arm and for each sensor in each camera."""
    motions = [motion for one in watched for motion in one.motions]
    views = {(one.camera, one.sensor) for one in motions}
    advice = {(one.camera, name): text for one in motions for name, text in one.advice.items()}
    smaller = {name: [one.smaller[name] for one in watched if name in one.smaller] for name in rig.sensors}
    checks = [_smaller(name, found) for name, found in smaller.items() if found]
    for camera in rig.cameras:
        world = Scores.of(motions, camera, None)
        todo = {name: text for (of, name), text in advice.items() if of == camera}
        doubted: set[str] = set()
        if (camera, None) in views:
            checks.append(_judged(f"world moves as {camera} does", world, "pairs of frames", WORLD, todo))
            # Two fingers look alike in a turned image: what concerns the camera needs the still world's consent.
            doubted = {one.name for one in readings_of(rig, camera)} - {AS_WRITTEN, *_consented(world)}
        for sensor in (name for name in rig.sensors if (camera, name) in views):
            scores = Scores.of(motions, camera, sensor).without(doubted)
            name = f"{sensor} moves as its box, {camera}"
            checks.append(_judged(name, scores, "motions of the gripper", FINGERS, todo))
    return checks


def _consented(world: Scores) -> list[str]:
    """Return the readings that the still world fits at least as well as the rig as written."""
    return [name for name in world.ranked() if world.gain(name) >= 0] if len(world) >= MIN_MOTIONS else []


def _judged(name: str, scores: Scores, of: str, limits: tuple[float, float], advice: dict[str, str]) -> Check:
    """Warn where another reading is clearly better, and say what to change."""
    if len(scores) < MIN_MOTIONS:
        return Check(name, f"could not tell: {len(scores)} {of}, needed {MIN_MOTIONS}")
    gain, speaks = limits
    ranked, median = scores.ranked(), scores.median()
    better = [one for one in ranked if scores.gain(one) >= gain and scores.share(one) >= SHARE]
    better = [one for one in better if scores.median(one) >= speaks]
    said = f"{median:.2f} as written"
    if better:
        said += f", {scores.median(better[0]):.2f} {better[0]}"
    elif ranked:
        said += f"; next best, {ranked[0]}, {scores.gain(ranked[0]):+.2f} in {scores.share(ranked[0]):.0%}"
    said += f"; {len(scores)} {of}"
    needed = f"no reading better by {gain:g} in {SHARE:.0%}"
    if better:
        todo = f"{advice[better[0]]} Look at `tactile-align overlay` before and after."
        return Check(name, said, needed, "warn", todo, median)
    if median < speaks and len(scores) >= MANY:
        todo = (
            "What moves there does not move as the rig says, and no slip tried explains it: K, the camera's pose, the "
            "gripper's law or the sensor's place is off, or something hides the sensor. Look with "
            "`tactile-align overlay`."
        )
        return Check(name, f"{said}, none fits", f">= {speaks:g}", "warn", todo, median)
    if median < speaks:
        return Check(name, f"could not tell: {said}", value=median)
    return Check(name, said, needed, "pass", value=median)


def _smaller(sensor: str, found: list[tuple[float, int]]) -> Check:
    """Warn where a sensor touches while the gripper stands wide open: `open` and `closed` are probably swapped."""
    name = f"{sensor} touches when nearly closed"
    weights = np.array([count for _, count in found], dtype=np.float64)
    if weights.sum() < MIN_FRAMES:
        return Check(name, f"could not tell: {weights.sum():.0f} frames with and without contact, needed {MIN_FRAMES}")
    share = float(np.average([share for share, _ in found], weights=weights))
    return Check(
        name,
        f"opening smaller in contact than without: {share:.0%} of comparisons",
        f">= {SMALLER:.0%}",
        "pass" if share >= SMALLER else "warn",
        ""
        if share >= SMALLER
        else "The gripper seems to touch with its fingers apart: are open and closed of the gripper swapped, is its "
        "column right, and does it grasp from outside?",
        share,
    )
