"""Checks of `verify` that need neither truth nor labels: whether another hypothesis about the rig fits better."""

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
"""Smallest number of motions of the gripper, or of pairs of frames, from which a conclusion is drawn."""
MANY = 10
"""Number of motions from which a low median score counts as a warning and not as chance."""
SHARE = 0.7
"""Share of the motions in which another hypothesis must score higher to count as better."""
MIN_FRAMES = 5
"""Smallest number of frames with contact, and of frames without, at which their openings are compared."""


@dataclass(frozen=True)
class Watched:
    """Results of one episode that need neither truth nor labels: motion scores, and openings with and without contact.

    Attributes:
        motions: Motion scores of each view in which the motion can be compared with the rig.
        smaller: By sensor, the two numbers that `image_motion.smaller_in_contact` returns: how often the opening is
            smaller in contact, 0 to 1, and a number of frames.
    """

    motions: tuple[Motion, ...]
    smaller: dict[str, tuple[float, int]]


def watch(episode: Episode, rig: Rig, contact: dict[str, np.ndarray]) -> Watched:
    """Return the motion scores of an episode for each hypothesis about the rig, and its openings in contact.

    Args:
        episode: The episode.
        rig: The rig for this episode, overrides applied.
        contact: (T,) bool by sensor: whether the sensor touches something. Other sensors are ignored.
    """
    cameras = [name for name in rig.cameras if name in episode.cameras]
    motions = [finger_motion(episode, rig, camera, sensor, contact) for camera in cameras for sensor in contact]
    motions += [world_motion(episode, rig, camera) for camera in cameras]
    return Watched(tuple(filter(None, motions)), smaller_in_contact(episode, rig, contact))


def motion_checks(rig: Rig, watched: Sequence[Watched]) -> list[Check]:
    """Return a rig's checks of openings (per sensor), of the scene's motion (per camera) and of boxes (per view)."""
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
            # Two fingers look alike in a turned image. A hypothesis about the camera must therefore also fit the
            # static scene at least as well as the rig as written does.
            fitting = [name for name in world.ranked() if len(world) >= MIN_MOTIONS and world.gain(name) >= 0]
            doubted = {slip.name for slip in hypotheses_of(rig, camera)} - {AS_WRITTEN, *fitting}
        for sensor in (name for name in rig.sensors if (camera, name) in views):
            scores = Scores.of(motions, camera, sensor, doubted)
            checks.append(_judged("box-motion", (camera, sensor), scores, "motions of the gripper", edits))
    return checks


def _judged(kind: str, on: tuple[str, ...], scores: Scores, of: str, edits: dict[str, str]) -> Check:
    """Return a check that warns, and states what to change, if another hypothesis is clearly better."""
    limit, gain = LIMITS[kind], GAINS[kind]
    fact = partial(Check, "/".join((kind, *on)), limit.title.format(*on), "info")
    if len(scores) < MIN_MOTIONS:
        return fact(f"undecided: {len(scores)} {of}, at least {MIN_MOTIONS} are needed")
    ranked, median = scores.ranked(), scores.median()
    better = [name for name in ranked if scores.gain(name) >= gain and scores.share(name) >= SHARE]
    better = [name for name in better if scores.median(name) >= limit.good]
    measured = f"score {median:.2f} as written"
    if better:
        measured += f", {scores.median(better[0]):.2f} with '{better[0]}'"
    elif ranked:
        measured += f", {scores.gain(ranked[0]):+.2f} with '{ranked[0]}' (better in {scores.share(ranked[0]):.0%})"
    measured += f"; {len(scores)} {of}"
    if better:
        advice = f"{edits[better[0]]} Look at `tactile-align overlay` before and after this change."
        check = graded(LIMITS, kind, median, *on, measured=measured)
        return replace(
            check, status="warn", limit=f"no hypothesis gains {gain:g} in {SHARE:.0%} of {of}", advice=advice
        )
    if median < limit.good and len(scores) < MANY:
        return fact(f"undecided: {measured}", median)
    advice = (
        "The image does not move as the rig predicts, and no hypothesis that was tried explains it. K, the camera's "
        "pose, the gripper's law or the sensor's pose is wrong, or the sensor is hidden. See `tactile-align overlay`."
    )
    none = "" if median >= limit.good else "; no hypothesis fits"
    return graded(LIMITS, kind, median, *on, measured=measured + none, advice=advice)


def _smaller(sensor: str, shares: list[tuple[float, int]]) -> Check:
    """Return a check that warns if a sensor touches while the gripper is wide open: open and closed may be swapped."""
    kind, (values, frames) = "opening-in-contact", np.array(shares).T
    if frames.sum() < MIN_FRAMES:
        measured = f"undecided: {frames.sum():.0f} frames with and without contact, at least {MIN_FRAMES} are needed"
        return Check(f"{kind}/{sensor}", LIMITS[kind].title.format(sensor), "info", measured)
    share = float(np.average(values, weights=frames))
    measured = f"the opening is smaller in contact than without in {share:.0%} of comparisons"
    advice = (
        "The gripper seems to touch while its fingers are far apart. Check whether its open and closed are swapped, or "
        "its column is wrong. Ignore this warning if the gripper holds objects from inside."
    )
    return graded(LIMITS, kind, share, sensor, measured=measured, advice=advice)
