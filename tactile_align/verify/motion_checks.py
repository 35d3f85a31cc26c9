"""Checks of verify that need neither truth nor labels: whether another hypothesis about the rig fits better."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.checks import Check, graded
from tactile_align.datasets.episodes import Episode
from tactile_align.verify.image_motion import Motion, Scores, finger_motion, smaller_in_contact, world_motion
from tactile_align.verify.limits import GAINS, LIMITS
from tactile_align.verify.rig_hypotheses import AS_WRITTEN, hypotheses_of

MIN_MOTIONS = 3
"""Fewer motions of the gripper, or pairs of frames, tell nothing."""
MANY = 10
"""So many motions that do not fit are no accident: in a right rig the median fits from three on."""
SHARE = 0.7
"""Another hypothesis is better when it is in this share of them."""
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
    motions = [finger_motion(episode, rig, camera, sensor, contact) for camera in cameras for sensor in contact]
    motions += [world_motion(episode, rig, camera) for camera in cameras]
    return Watched(tuple(filter(None, motions)), smaller_in_contact(episode, rig, contact))


def motion_checks(rig: Rig, watched: Sequence[Watched]) -> list[Check]:
    """Return a check of each gripper's sensor, of each camera on an arm and of each sensor in each camera."""
    motions = [motion for episode in watched for motion in episode.motions]
    views = {(motion.camera, motion.sensor) for motion in motions}
    advice = {(motion.camera, name): text for motion in motions for name, text in motion.advice.items()}
    smaller = {name: [one.smaller[name] for one in watched if name in one.smaller] for name in rig.sensors}
    checks = [_smaller(name, shares) for name, shares in smaller.items() if shares]
    for camera in rig.cameras:
        world = Scores.of(motions, camera, None)
        edits = {name: text for (of, name), text in advice.items() if of == camera}
        doubted: set[str] = set()
        if (camera, None) in views:
            checks.append(_judged("world-motion", (camera,), world, "pairs of frames", edits))
            # Two fingers look alike in a turned image: a hypothesis about the camera also has to fit the still world
            # at least as well as the rig as written.
            fitting = [name for name in world.ranked() if len(world) >= MIN_MOTIONS and world.gain(name) >= 0]
            doubted = {slip.name for slip in hypotheses_of(rig, camera)} - {AS_WRITTEN, *fitting}
        for sensor in (name for name in rig.sensors if (camera, name) in views):
            scores = Scores.of(motions, camera, sensor, doubted)
            checks.append(_judged("box-motion", (camera, sensor), scores, "motions of the gripper", edits))
    return checks


def _judged(kind: str, on: tuple[str, ...], scores: Scores, of: str, edits: dict[str, str]) -> Check:
    """Warn where another hypothesis is clearly better, with what to change."""
    limit, gain = LIMITS[kind], GAINS[kind]
    fact = partial(Check, "/".join((kind, *on)), limit.title.format(*on), "info")
    if len(scores) < MIN_MOTIONS:
        return fact(f"could not tell: {len(scores)} {of}, needed {MIN_MOTIONS}")
    ranked, median = scores.ranked(), scores.median()
    better = [name for name in ranked if scores.gain(name) >= gain and scores.share(name) >= SHARE]
    better = [name for name in better if scores.median(name) >= limit.good]
    measured = f"{median:.2f} as written"
    if better:
        measured += f", {scores.median(better[0]):.2f} {better[0]}"
    elif ranked:
        measured += f"; next best, {ranked[0]}, {scores.gain(ranked[0]):+.2f} in {scores.share(ranked[0]):.0%}"
    measured += f"; {len(scores)} {of}"
    if better:
        advice = f"{edits[better[0]]} Look at `tactile-align overlay` before and after."
        check = graded(LIMITS, kind, median, *on, measured=measured)
        return replace(check, status="warn", limit=f"no hypothesis better by {gain:g} in {SHARE:.0%}", advice=advice)
    if median < limit.good and len(scores) < MANY:
        return fact(f"could not tell: {measured}", median)
    advice = (
        "What moves there does not move as the rig states, and no slip tried explains it: K, the camera's pose, the "
        "gripper's law or the sensor's place is off, or something hides the sensor. Look with `tactile-align overlay`."
    )
    none = "" if median >= limit.good else ", none fits"
    return graded(LIMITS, kind, median, *on, measured=measured + none, advice=advice)


def _smaller(sensor: str, shares: list[tuple[float, int]]) -> Check:
    """Warn where a sensor touches while the gripper stands wide open: `open` and `closed` are probably swapped."""
    kind, (values, frames) = "opening-in-contact", np.array(shares).T
    if frames.sum() < MIN_FRAMES:
        measured = f"could not tell: {frames.sum():.0f} frames with and without contact, needed {MIN_FRAMES}"
        return Check(f"{kind}/{sensor}", LIMITS[kind].title.format(sensor), "info", measured)
    share = float(np.average(values, weights=frames))
    measured = f"opening smaller in contact than without: {share:.0%} of comparisons"
    advice = (
        "The gripper seems to touch with its fingers apart: are open and closed of the gripper swapped, is its column "
        "right, and does it grasp from outside?"
    )
    return graded(LIMITS, kind, share, sensor, measured=measured, advice=advice)
