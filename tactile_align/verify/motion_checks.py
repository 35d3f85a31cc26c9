"""Checks of `verify` that need neither truth nor labels: whether another hypothesis about the rig fits better.

The motion seen in images is compared with the motion that each hypothesis predicts: that of the static scene in a
camera on an arm, and that of a sensor in its box while the gripper moves.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Gripper, Rig
from tactile_align.checks import Check, graded
from tactile_align.datasets.episodes import Episode
from tactile_align.evenly import evenly
from tactile_align.geometry.boxes import enlarge
from tactile_align.geometry.frames import apply, invert
from tactile_align.projection.episode_boxes import episode_boxes, hand_contact, hand_of
from tactile_align.verify.limits import GAINS, LIMITS
from tactile_align.verify.rig_hypotheses import AS_WRITTEN, STROKES, Slip, hypotheses_of, strokes_of

PAIRS = 8
"""Largest number of pairs of frames that are taken from one episode for one view."""
WITHIN_S, FPS = 3.0, 10.0
"""WITHIN_S: longest time between the frames of a pair, s. FPS: rate assumed if a recording states no rate, 1/s."""


@dataclass(frozen=True)
class Motion:
    """Scores that state how well each hypothesis about a rig (see `rig_hypotheses`) predicts the motion in one view.

    Attributes:
        camera: Name of the camera.
        sensor: Name of the sensor whose box was compared with the motion of the fingers; None if the static scene was
            compared with the motion of the arm.
        scores: N scores by the hypothesis's name; empty if nothing moved. For a sensor, one score for each motion of
            the gripper, -2 to 2: how much better the image in the box agrees with the moved box than with the box left
            in place. It is the median over the pairs of frames of that motion; a pair in which a frame has no box
            counts as 0. For the static scene, one score for each pair of frames, 0 to 1: the share of tracked points
            that lie where the camera's motion predicts them.
        advice: What to change in the rig file if the hypothesis is right, by the hypothesis's name.
    """

    camera: str
    sensor: str | None
    scores: dict[str, np.ndarray]
    advice: dict[str, str]

    @classmethod
    def of(cls, camera: str, sensor: str | None, slips: Iterable[Slip], score: Callable[[Rig], np.ndarray]) -> "Motion":
        """Return the scores of all hypotheses `slips`; the function `score` returns the N scores of a changed rig."""
        scored = {slip.name: score(slip.changed) for slip in slips}
        return cls(camera, sensor, scored, {slip.name: slip.advice for slip in slips})


@dataclass(frozen=True)
class Scores:
    """Scores of one view (a camera and a sensor, or a camera alone) over all episodes.

    Attributes:
        by_hypothesis: (N,) scores of each hypothesis about the rig, by its name; a higher score means that the
            hypothesis predicts the motion in the images better. AS_WRITTEN is the rig without any change.
    """

    by_hypothesis: dict[str, np.ndarray]

    @classmethod
    def of(cls, motions: Sequence[Motion], camera: str, sensor: str | None, without: Collection[str] = ()) -> "Scores":
        """Return the scores of one view for each hypothesis that all its episodes have, except those in `without`.

        An [[override]] can give episodes different hypotheses.
        """
        of_view = [motion.scores for motion in motions if (motion.camera, motion.sensor) == (camera, sensor)]
        parts = [scores for scores in of_view if scores] or [{AS_WRITTEN: np.zeros(0)}]
        names = [name for name in parts[0] if name not in without and all(name in scores for scores in parts)]
        return cls({name: np.concatenate([scores[name] for scores in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.by_hypothesis[AS_WRITTEN])

    def median(self, name: str = AS_WRITTEN) -> float:
        """Return the median of the scores of the hypothesis `name`."""
        return float(np.median(self.by_hypothesis[name]))

    def gain(self, name: str) -> float:
        """Return the median gain in score of the hypothesis `name` over the rig as written."""
        return float(np.median(self.by_hypothesis[name] - self.by_hypothesis[AS_WRITTEN]))

    def share(self, name: str) -> float:
        """Return the share of motions, 0 to 1, in which the hypothesis `name` scores higher than the rig as written."""
        return float((self.by_hypothesis[name] > self.by_hypothesis[AS_WRITTEN]).mean())

    def better(self, kind: str, name: str) -> bool:
        """Return whether the hypothesis `name` is clearly better than the rig as written in a check of a kind."""
        enough = self.gain(name) >= GAINS[kind] and self.share(name) >= SHARE
        return enough and self.median(name) >= LIMITS[kind].good

    def about_stroke(self, name: str | None) -> "Scores":
        """Return the scores without the hypotheses in STROKES, or with that of `name` as the only hypothesis."""
        keep = {AS_WRITTEN, name} if name else self.by_hypothesis.keys() - STROKES.keys()
        return Scores({key: scores for key, scores in self.by_hypothesis.items() if key in keep})

    def ranked(self) -> list[str]:
        """Return the names of all hypotheses except AS_WRITTEN, sorted by `gain`, the highest first."""
        return sorted((name for name in self.by_hypothesis if name != AS_WRITTEN), key=lambda name: -self.gain(name))


def near_in_time(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Return rows i < j of all P pairs of frames at most WITHIN_S seconds apart, as two arrays, each of shape (P,)."""
    reach = max(1, round(WITHIN_S * (episode.fps or FPS)))
    i = np.arange(len(episode)).repeat(reach)
    j = i + np.tile(np.arange(1, reach + 1), len(episode))
    return i[j < len(episode)], j[j < len(episode)]


def stroke_of(gripper: Gripper) -> float:
    """Return the distance that one finger of a gripper moves from closed to open, m."""
    return abs(float(np.diff(gripper.law.opening(np.array([0.0, 1.0])))[0]))


REST_STROKE = 0.02
"""Change of opening, as a share of the stroke, below which the gripper counts as resting: moving fingers would be
mistaken for the scene."""
FLOW = (0.02, 0.14)
"""Smallest and largest motion, between two frames, of a point NEAR_M away, as shares of the image's width."""
NEAR_M = 0.25
INVERSE_DEPTHS = np.linspace(0.02, 16.0, 60)
"""Inverse depths 1/z, 1/m, at which a static point may lie: from 50 m to 6 cm."""
TRACKS, MIN_TRACKS = 250, 15
"""Largest and smallest number of points that are tracked from frame to frame."""


def world_motion(episode: Episode, rig: Rig, camera: str) -> Motion | None:
    """Return how well each hypothesis about the rig predicts the motion of the static scene in a moving camera.

    Args:
        episode: The episode.
        rig: The rig for this episode, overrides applied.
        camera: Name of a camera that both the episode and the rig have.

    Returns:
        The scores, empty if too few points can be tracked; None if the camera is fixed in the world.
    """
    entry = rig.cameras[camera]
    if entry.parent == "world":
        return None
    T = rig.T_from_to("world", entry.parent, episode.qpos) @ entry.T_parent_this
    tracked = []
    for i, j in _pairs_of_views(episode, rig, camera, T):
        a, b = (episode.image(camera, t) for t in (i, j))
        p, q = _tracks(a, b)
        if len(p) >= MIN_TRACKS:
            tracked.append((i, j, p, q))

    def share(changed: Rig) -> np.ndarray:
        mount = changed.cameras[camera]
        T = changed.T_from_to("world", mount.parent, episode.qpos) @ mount.T_parent_this
        return np.array([_explained(mount.stored, invert(T[j]) @ T[i], p, q) for i, j, p, q in tracked])

    return Motion.of(camera, None, hypotheses_of(rig, camera) if tracked else (), share)


def _pairs_of_views(episode: Episode, rig: Rig, camera: str, T_world_camera: np.ndarray) -> np.ndarray:
    """Return rows (P, 2) of pairs of frames between which the camera moves enough while its gripper rests."""
    entry = rig.cameras[camera]
    focal = abs(float(entry.stored.K[0, 0])) / entry.stored.width
    i, j = near_in_time(episode)
    gripper = rig.arms[entry.parent.partition("/")[0]].gripper
    if gripper is not None:
        opening = gripper.opening(episode.qpos)[:, 0]
        rests = np.abs(opening[i] - opening[j]) < REST_STROKE * stroke_of(gripper)
        i, j = i[rests], j[rests]
    step = invert(T_world_camera[i]) @ T_world_camera[j]
    turn = np.arccos(np.clip((np.trace(step[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    flow = focal * (turn + np.linalg.norm(step[:, :3, 3], axis=1) / NEAR_M)
    fit = np.flatnonzero((flow > FLOW[0]) & (flow < FLOW[1]))
    fit = fit[evenly(len(fit), PAIRS)]
    return np.stack([i[fit], j[fit]], axis=1)


def _tracks(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 2) of the same points in two frames, without points that move with the camera (the hand)."""
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = cv2.goodFeaturesToTrack(a, TRACKS, 0.005, 10)
    if start is None or not len(start):
        return np.zeros((0, 2)), np.zeros((0, 2))
    end, ok, _ = cv2.calcOpticalFlowPyrLK(a, b, start, np.empty_like(start), winSize=(21, 21), maxLevel=4)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(b, a, end, np.empty_like(start), winSize=(21, 21), maxLevel=4)
    p, q, r = (np.asarray(uv, dtype=np.float64).reshape(-1, 2) for uv in (start, end, back))
    held = (ok.ravel() > 0) & (ok_back.ravel() > 0) & (np.linalg.norm(p - r, axis=1) < 0.5)
    keep = held & (np.linalg.norm(p - q, axis=1) > 0.005 * a.shape[1])
    return p[keep], q[keep]


def _explained(camera: Camera, T_second_first: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """Return the share of points whose pixels `q` (N, 2) lie where the motion of the camera takes pixels `p` (N, 2)."""
    depth = 1 / INVERSE_DEPTHS[:, None, None]
    uv, _ = camera.project(apply(T_second_first, camera.unproject(p, np.ones(len(p))) * depth))
    start, along = uv[:-1], uv[1:] - uv[:-1]
    share = ((q - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    off = np.linalg.norm(start + np.clip(share, 0, 1)[..., None] * along - q, axis=-1)
    nearest = np.where(np.isfinite(off), off, np.inf).min(axis=0)
    allowed = 0.0025 * camera.width + 0.05 * np.linalg.norm(p - q, axis=1)
    return float((nearest < allowed).mean())


REST_RAD = 0.02
"""Change of each joint below which the arm counts as resting, rad."""
MOVED_STROKE = 0.15
"""Change of opening, as a share of the stroke, above which the gripper counts as moving."""
SAME_STROKE, SAME_S = 0.15, 1.0
"""Two pairs of frames show the same motion if their openings differ by less than SAME_STROKE, a share of the stroke,
and their times by less than SAME_S, s."""
PATCH = 40
"""Side of the image patches that are compared, px."""
MARGIN = 1.5
"""Factor by which the box is enlarged: motion is visible at the edges of the sensor."""


def finger_motion(
    episode: Episode, rig: Rig, camera: str, sensor: str, contact: dict[str, np.ndarray]
) -> Motion | None:
    """Return how well each hypothesis about the rig predicts the motion of a sensor's image while the gripper moves.

    Args:
        episode: The episode.
        rig: The rig for this episode, overrides applied.
        camera: Name of a camera that both the episode and the rig have.
        sensor: Name of a sensor that both the episode and the rig have.
        contact: (T,) bool by sensor, for all sensors of the hand: whether the sensor touches something.

    Returns:
        The scores, empty if the gripper never moves while the arm rests; None if the sensor is not on a gripper.
    """
    arm = hand_of(rig, sensor)
    if not arm:
        return None
    pairs = _pairs_of_openings(episode, rig, arm, hand_contact(rig, arm, contact))
    if not len(pairs):
        return Motion(camera, sensor, {}, {})
    motion = _motions(pairs)
    grey = {t: cv2.cvtColor(episode.image(camera, t), cv2.COLOR_RGB2GRAY) for t in np.unique(pairs)}

    def agreement(changed: Rig) -> np.ndarray:
        predicted = episode_boxes(changed, camera, sensor, episode.qpos, contact, episode.fps).at(pairs).boxes
        boxes = np.where(predicted.visible[..., None], enlarge(predicted.raw, MARGIN), np.nan)
        agree = np.array([_follows(grey[i], grey[j], *box) for (i, j), box in zip(pairs, boxes, strict=True)])
        return np.array([np.median(agree[motion == k]) for k in range(motion.max() + 1)])

    return Motion.of(camera, sensor, (*hypotheses_of(rig, camera, sensor), *strokes_of(rig, arm)), agreement)


def _pairs_of_openings(episode: Episode, rig: Rig, arm: str, touching: np.ndarray) -> np.ndarray:
    """Return rows (P, 2) of pairs of frames between which the gripper moves most while the arm rests.

    Pairs with contact come last, because a touched object hides the fingers and moves with them. No two pairs show
    the same motion at the same time.
    """
    gripper = rig.gripper(arm)
    i, j = near_in_time(episode)
    q, opening = rig.joints(arm, episode.qpos), gripper.opening(episode.qpos)[:, 0]
    moved, stroke = np.abs(opening[i] - opening[j]), stroke_of(gripper)
    fit = np.flatnonzero((np.abs(q[i] - q[j]).max(axis=1) < REST_RAD) & (moved > MOVED_STROKE * stroke))
    fit = fit[np.lexsort((-moved[fit], touching[i[fit]] | touching[j[fit]]))]
    near = max(1, round(SAME_S * (episode.fps or FPS)))
    chosen: list[int] = []
    while len(fit) and len(chosen) < PAIRS:
        k = fit[0]
        chosen.append(int(k))
        apart = np.maximum(np.abs(opening[i[fit]] - opening[i[k]]), np.abs(opening[j[fit]] - opening[j[k]]))
        later = np.minimum(np.abs(i[fit] - i[k]), np.abs(j[fit] - j[k]))
        fit = fit[(apart >= SAME_STROKE * stroke) | (later >= near)]
    return np.stack([i[chosen], j[chosen]], axis=1).astype(np.int64)


def _motions(pairs: np.ndarray) -> np.ndarray:
    """Return the number (P,), from 0, of the gripper motion that each pair shows; overlapping pairs share a motion."""
    order = np.argsort(pairs[:, 0], kind="stable")
    reached = np.maximum.accumulate(pairs[order, 1])
    number = np.zeros(len(pairs), np.int64)
    number[order[1:]] = np.cumsum(pairs[order[1:], 0] >= reached[:-1])
    return number


def _follows(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return how much better box `a` of the first frame agrees with box `b` of the second than with an unmoved box."""
    if not np.isfinite([a, b]).all():
        return 0.0
    moved = _agreement(_edges(first, a), _edges(second, b))
    stayed = [_agreement(_edges(first, box), _edges(second, box)) for box in (a, b)]
    return moved - sum(stayed) / 2


def _edges(grey: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the edge strength in a box of a frame, (PATCH, PATCH); outside the frame, its border repeats."""
    height, width = grey.shape
    u0, v0, u1, v1 = np.floor(box + 0.5).astype(int)
    u = np.clip(np.arange(u0, max(u1, u0 + 1)), 0, width - 1)
    v = np.clip(np.arange(v0, max(v1, v0 + 1)), 0, height - 1)
    patch = cv2.resize(grey[v[:, None], u], (PATCH, PATCH), interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(patch, (0, 0), 1.0)
    return np.hypot(cv2.Sobel(soft, -1, 1, 0), cv2.Sobel(soft, -1, 0, 1))


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two patches; 0 if one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else 0.0


def smaller_in_contact(episode: Episode, rig: Rig, contact: dict[str, np.ndarray]) -> dict[str, tuple[float, int]]:
    """Return how often the gripper's opening is smaller in contact than without contact, for each sensor on a gripper.

    Each frame in contact is paired with each frame without contact. Openings are as recorded; a commanded opening is
    not held during contact. A pair with equal openings counts half.

    Returns:
        Two numbers by sensor: the share of pairs, 0 to 1, in which the frame in contact has the smaller opening, and
        the number of frames in contact or without contact, whichever is smaller. Sensors that always or never touch are
        left out.
    """
    shares = {}
    for sensor, flags in contact.items():
        arm = hand_of(rig, sensor)
        if not arm or flags.all() or not flags.any():
            continue
        opening = rig.gripper(arm).opening(episode.qpos)[:, 0]
        touching, free = opening[flags][:, None], opening[~flags]
        share = float((touching < free).mean() + 0.5 * (touching == free).mean())
        shares[sensor] = share, int(min(flags.sum(), (~flags).sum()))
    return shares


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
        smaller: By sensor, the two numbers that `smaller_in_contact` returns: how often the opening is
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
    """Return a rig's checks of openings (per sensor), of the scene's motion (per camera) and of boxes (per view).

    A pattern of the views that points to one part of the rig is a check of its own, before the others.
    """
    motions = [motion for episode in watched for motion in episode.motions]
    views = {(motion.camera, motion.sensor) for motion in motions}
    advice = {(motion.camera, motion.sensor, name): text for motion in motions for name, text in motion.advice.items()}
    smaller = {name: [one.smaller[name] for one in watched if name in one.smaller] for name in rig.sensors}
    checks = [_smaller(name, shares) for name, shares in smaller.items() if shares]
    scores: dict[tuple[str, str | None], Scores] = {}
    for camera in rig.cameras:
        doubted: set[str] = set()
        if (camera, None) in views:
            world = scores[camera, None] = Scores.of(motions, camera, None)
            # Two fingers look alike in a turned image. A hypothesis about the camera must therefore also fit the
            # static scene at least as well as the rig as written does.
            fitting = [name for name in world.ranked() if len(world) >= MIN_MOTIONS and world.gain(name) >= 0]
            doubted = {slip.name for slip in hypotheses_of(rig, camera)} - {AS_WRITTEN, *fitting}
        for sensor in (name for name in rig.sensors if (camera, name) in views):
            scores[camera, sensor] = Scores.of(motions, camera, sensor, doubted)
    stroke = {arm: _stroke(rig, arm, scores) for arm in rig.arms}
    judged: dict[tuple[str, str | None], tuple[Check, bool]] = {}
    for key, found in scores.items():
        edits = {name: text for (*of, name), text in advice.items() if of == [*key]}
        if key[1] is None:
            judged[key] = _judged("world-motion", key[:1], found, "pairs of frames", edits)
        else:
            found = found.about_stroke(stroke[hand_of(rig, key[1])])
            judged[key] = _judged("box-motion", (key[0], key[1]), found, "motions of the gripper", edits)
    patterns = [pattern for arm in rig.arms if (pattern := _pattern(rig, arm, judged)) is not None]
    for pattern in patterns:
        for key in pattern.explains:
            check, named = judged[key]
            judged[key] = replace(check, advice=pattern.check.advice), named
    return [*(pattern.check for pattern in patterns), *checks, *(check for check, _ in judged.values())]


def _stroke(rig: Rig, arm: str, scores: dict[tuple[str, str | None], Scores]) -> str | None:
    """Return which name in STROKES fits an arm's gripper better than its law as written; None if no name does.

    One view cannot tell a wrong stroke from a camera at a wrong distance. Therefore the boxes in two cameras must gain,
    or the boxes in one camera whose static scene fits. The stroke must also fit better than each other hypothesis about
    the hand.
    """
    of_hand = {key: one for key, one in scores.items() if key[1] is not None and hand_of(rig, key[1]) == arm}
    decided = {key: one for key, one in of_hand.items() if len(one) >= MIN_MOTIONS}
    of_camera = {key[0]: {slip.name for slip in hypotheses_of(rig, key[0])} - {AS_WRITTEN} for key in decided}
    fits: dict[str, float] = {}
    for name in STROKES:
        if any(name not in one.by_hypothesis or one.gain(name) < 0 for one in decided.values()):
            continue
        cameras = {camera for (camera, _), one in decided.items() if one.better("box-motion", name)}
        still = [scores[camera, None] for camera in cameras if (camera, None) in scores]
        fits_still = any(len(one) >= MIN_MOTIONS and one.median() >= LIMITS["world-motion"].good for one in still)
        others = [
            max(one.median(other) for other in one.by_hypothesis.keys() - STROKES.keys() - of_camera[camera])
            for (camera, _), one in decided.items()
        ]
        total = sum(one.median(name) for one in decided.values())
        if len(cameras) + fits_still >= 2 and total > sum(others):
            fits[name] = total
    return max(fits, key=lambda name: fits[name]) if fits else None


@dataclass(frozen=True)
class _Pattern:
    """Pattern of the views of one hand.

    Attributes:
        check: The check that states the pattern.
        explains: Camera and sensor (None: the static scene) of the checks that the pattern explains.
    """

    check: Check
    explains: tuple[tuple[str, str | None], ...]


def _pattern(rig: Rig, arm: str, judged: dict[tuple[str, str | None], tuple[Check, bool]]) -> _Pattern | None:
    """Return the pattern of the views of an arm's hand, if it points to one part of the rig.

    Args:
        rig: The rig.
        arm: Name of the arm.
        judged: By camera and sensor (None: the static scene), the check and whether it names a hypothesis.
    """
    moving = {
        name
        for name, camera in rig.cameras.items()
        if camera.parent.startswith(f"{arm}/") and camera.parent != f"{arm}/base"
    }
    views = [key for key in judged if key[1] is not None and hand_of(rig, key[1]) == arm]
    keys = [key for key in judged if key in views or (key[1] is None and key[0] in moving)]
    off = {key for key in keys if _clearly_off(judged[key][0])}
    fit = {key for key in keys if judged[key][0].status == "pass"}
    near, far = ({key for key in views if (key[0] in moving) == on_arm} for on_arm in (True, False))
    stills = {*keys} - near - far
    # In an image turned by a wrong arm, a wrong hypothesis about an outer camera may seem to fit.
    blamed = {key for key in off if judged[key][1]}
    advice = ""
    if near & fit and not near & off and not far & fit and off and not blamed & stills:
        if off & stills:
            advice = (
                f"The arm does not move the hand as the frames show. Check columns, unit and joint order of "
                f"arms.{arm}, and `tip` of its URDF: poses on the hand are in the frame of the tip. Links at one point "
                f"may be turned: panda_link8 and panda_hand by 45 deg, flange and tool0 of a UR by 120 deg."
            )
            if not off & far:
                advice += f" Or check the orientation of {_cameras(off)}."
        elif not blamed:
            base = f"the pose of the arm's base, arms.{arm}"
            tip = "" if stills & fit else ", its joints, or `tip` of its URDF"
            advice = f"Hand and gripper fit. Check the pose and K of {_cameras(off)}, or {base}{tip}."
    elif off and not blamed:
        boxes_off, boxes_fit = off - stills, fit - stills
        cameras, sensors = ({key[axis] for key in boxes_off} for axis in (0, 1))
        if near & off and not near & fit and far & fit and not far & off:
            advice = f"Arm, gripper and sensor fit. Check image_map, K and pose of {_cameras(off)}."
        elif len(cameras) > 1 and not boxes_fit and off & stills:
            advice = f"Check columns, unit and joint order of arms.{arm} first: even the static scene does not fit."
        elif len(cameras) > 1 and not boxes_fit:
            advice = f"Check open, closed, column and law of arms.{arm}.gripper, and the poses of the sensors on it."
        elif len(cameras) > 1 and len(sensors) == 1 and {camera for camera, _ in boxes_fit} >= cameras:
            advice = f"Cameras and gripper fit. Check parent and pose of sensors.{sensors.pop()}."
    if not advice:
        return None
    measured = f"does not fit: {_views(off)}; fits: {_views(fit) or 'none'}"
    check = Check(f"pattern/{arm}", f"Which views of {arm} fit", "warn", measured, limit="all", advice=advice)
    return _Pattern(check, tuple(key for key in keys if key in off))


CLEAR = 0.6
"""Share of a limit below which a score counts as off in a pattern. A right rig in front of a strongly patterned
background reached 0.15 (limit 0.15), planted faults at most 0.08."""


def _clearly_off(check: Check) -> bool:
    return check.status == "warn" and check.value is not None and check.value < CLEAR * LIMITS[check.kind].good


def _cameras(keys: Collection[tuple[str, str | None]]) -> str:
    return " and ".join(dict.fromkeys(f"cameras.{camera}" for camera, _ in sorted(keys, key=str)))


def _views(keys: Collection[tuple[str, str | None]]) -> str:
    """Return views as text: the sensors in each camera, and the static scene."""
    by_camera: dict[str, list[str]] = {}
    for camera, sensor in sorted(keys, key=str):
        by_camera.setdefault(camera, []).append(sensor or "static scene")
    return "; ".join(f"{', '.join(names)} in {camera}" for camera, names in by_camera.items())


def _judged(kind: str, on: tuple[str, ...], scores: Scores, of: str, edits: dict[str, str]) -> tuple[Check, bool]:
    """Return a check that warns, and states what to change, if a hypothesis is clearly better, and whether one is."""
    limit, gain = LIMITS[kind], GAINS[kind]
    fact = partial(Check, "/".join((kind, *on)), limit.title.format(*on), "info")
    if len(scores) < MIN_MOTIONS:
        return fact(f"undecided: {len(scores)} {of}, at least {MIN_MOTIONS} are needed"), False
    ranked, median = scores.ranked(), scores.median()
    better = [name for name in ranked if scores.better(kind, name)]
    measured = f"score {median:.2f} as written"
    if better:
        measured += f", {scores.median(better[0]):.2f} with '{better[0]}'"
    elif ranked:
        measured += f", {scores.gain(ranked[0]):+z.2f} with '{ranked[0]}' (better in {scores.share(ranked[0]):.0%})"
    measured += f"; {len(scores)} {of}"
    if better:
        advice = f"{edits[better[0]]} Look at `tactile-align overlay` before and after this change."
        check = graded(LIMITS, kind, median, *on, measured=measured)
        needed = f"no hypothesis gains {gain:g} in {SHARE:.0%} of {of}"
        return replace(check, status="warn", limit=needed, advice=advice), True
    if median < limit.good and len(scores) < MANY:
        return fact(f"undecided: {measured}", median), False
    advice = (
        "The image does not move as the rig predicts, and no hypothesis that was tried explains it. K, the camera's "
        "pose, the gripper's law or the sensor's pose is wrong, or the sensor is hidden. See `tactile-align overlay`."
    )
    none = "" if median >= limit.good else "; no hypothesis fits"
    return graded(LIMITS, kind, median, *on, measured=measured + none, advice=advice), False


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
