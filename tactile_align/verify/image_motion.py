"""Image motion against the motion of the rig: of the still world in a camera on an arm, of a sensor in its box."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Gripper, Rig
from tactile_align.datasets.episodes import Episode
from tactile_align.evenly import evenly
from tactile_align.geometry.boxes import enlarge
from tactile_align.geometry.frames import apply, invert
from tactile_align.projection.episode_boxes import episode_boxes, hand_contact, hand_of
from tactile_align.verify.rig_hypotheses import AS_WRITTEN, Slip, hypotheses_of

PAIRS = 8
"""Pairs of frames an episode gives to one view, at most."""
WITHIN_S, FPS = 3.0, 10.0
"""How far apart the frames of a pair may be, s; the rate where a recording states none."""


@dataclass(frozen=True)
class Motion:
    """How well each hypothesis about the rig explains what moved in one view of one episode.

    Attributes:
        camera: The view.
        sensor: The sensor whose box was compared with the fingers' motion; None: the still world with the arm's.
        scores: By the hypothesis's name, (N,). Of a sensor, for each motion of the gripper, the median over its pairs
            of frames: how much better the picture in the box agrees with the moved box than with the box left in place,
            -2 to 2, 0 where a frame has no box. Of the still world, for each pair of frames: the share of tracked
            points that lie where the camera's motion puts them, 0 to 1. Empty where nothing of that kind moved.
        advice: By the hypothesis's name, what to change in the rig file.
    """

    camera: str
    sensor: str | None
    scores: dict[str, np.ndarray]
    advice: dict[str, str]

    @classmethod
    def of(cls, camera: str, sensor: str | None, slips: Iterable[Slip], score: Callable[[Rig], np.ndarray]) -> "Motion":
        """Score every hypothesis: `score` gives (N,) for its rig."""
        scored = {slip.name: score(slip.changed) for slip in slips}
        return cls(camera, sensor, scored, {slip.name: slip.advice for slip in slips})


@dataclass(frozen=True)
class Scores:
    """The scores of one view over all episodes.

    Attributes:
        by_hypothesis: By the hypothesis's name, (N,) as in Motion; AS_WRITTEN is always there.
    """

    by_hypothesis: dict[str, np.ndarray]

    @classmethod
    def of(cls, motions: Sequence[Motion], camera: str, sensor: str | None, without: Collection[str] = ()) -> "Scores":
        """Gather a view's scores but for some hypotheses, and those that only some episodes have, by [[override]]."""
        of_view = [motion.scores for motion in motions if (motion.camera, motion.sensor) == (camera, sensor)]
        parts = [scores for scores in of_view if scores] or [{AS_WRITTEN: np.zeros(0)}]
        names = [name for name in parts[0] if name not in without and all(name in scores for scores in parts)]
        return cls({name: np.concatenate([scores[name] for scores in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.by_hypothesis[AS_WRITTEN])

    def median(self, name: str = AS_WRITTEN) -> float:
        """Return the median score of a hypothesis."""
        return float(np.median(self.by_hypothesis[name]))

    def gain(self, name: str) -> float:
        """Return the median of how much higher a hypothesis scores than the rig as written."""
        return float(np.median(self.by_hypothesis[name] - self.by_hypothesis[AS_WRITTEN]))

    def share(self, name: str) -> float:
        """Return how often a hypothesis scores higher than the rig as written, 0 to 1."""
        return float((self.by_hypothesis[name] > self.by_hypothesis[AS_WRITTEN]).mean())

    def ranked(self) -> list[str]:
        """Return the other hypotheses, that with the highest gain first."""
        return sorted((name for name in self.by_hypothesis if name != AS_WRITTEN), key=lambda name: -self.gain(name))


def near_in_time(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (i, j) of all pairs of frames that are near in time, i < j."""
    reach = max(1, round(WITHIN_S * (episode.fps or FPS)))
    i = np.arange(len(episode)).repeat(reach)
    j = i + np.tile(np.arange(1, reach + 1), len(episode))
    return i[j < len(episode)], j[j < len(episode)]


def stroke_of(gripper: Gripper) -> float:
    """Return how far one finger moves from closed to open, m."""
    return abs(float(np.diff(gripper.law.opening(np.array([0.0, 1.0])))[0]))


REST_STROKE = 0.02
"""A resting gripper moves less than this share of its stroke; a moving one would be taken for the world."""
FLOW = (0.02, 0.14)
"""How far what stands NEAR_M away may move between two frames, as shares of the image's width."""
NEAR_M = 0.25
INVERSE_DEPTHS = np.linspace(0.02, 16.0, 60)
"""Depths at which a still point is looked for: 50 m to 6 cm, evenly in 1/z."""
TRACKS, MIN_TRACKS = 250, 15
"""Points followed from frame to frame, at most and at least."""


def world_motion(episode: Episode, rig: Rig, camera: str) -> Motion | None:
    """Score each hypothesis about the rig by what a camera on an arm sees while it moves.

    Args:
        episode: The episode.
        rig: The rig that holds for it.
        camera: A camera of both.

    Returns:
        None where the camera stands in the world; no scores where too little can be followed from frame to frame.
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
    """Return (P, 2) rows of frames between which the camera moves far enough to tell while its gripper rests."""
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
    """Return pixels (N, 2) of points in two frames; what moves along with the camera, such as the hand, is left out."""
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
    """Return the share of points (N, 2) that lie in the second frame where the camera's motion puts them."""
    depth = 1 / INVERSE_DEPTHS[:, None, None]
    uv, _ = camera.project(apply(T_second_first, camera.unproject(p, np.ones(len(p))) * depth))
    start, along = uv[:-1], uv[1:] - uv[:-1]
    share = ((q - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    off = np.linalg.norm(start + np.clip(share, 0, 1)[..., None] * along - q, axis=-1)
    nearest = np.where(np.isfinite(off), off, np.inf).min(axis=0)
    allowed = 0.0025 * camera.width + 0.05 * np.linalg.norm(p - q, axis=1)
    return float((nearest < allowed).mean())


REST_RAD = 0.02
"""A resting arm turns less than this, rad."""
MOVED_STROKE = 0.15
"""A moving gripper moves by more than this share of its stroke."""
SAME_STROKE, SAME_S = 0.15, 1.0
"""Two pairs show the same when their openings differ by less than this share of the stroke, within this time, s."""
PATCH = 40
"""Side of the patches compared, px."""
MARGIN = 1.5
"""How much larger than the box: what moves shows at the edges of the sensor."""


def finger_motion(
    episode: Episode, rig: Rig, camera: str, sensor: str, contact: dict[str, np.ndarray]
) -> Motion | None:
    """Score each hypothesis about the rig by what a sensor's box shows while the gripper moves.

    Args:
        episode: The episode.
        rig: The rig that holds for it.
        camera: A camera of both.
        sensor: A sensor of both.
        contact: By sensor, (T,) bool, touching; this sensor's and those of all on its hand.

    Returns:
        None where no gripper carries the sensor; no scores where it never moves while the arm rests.
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

    return Motion.of(camera, sensor, hypotheses_of(rig, camera, sensor), agreement)


def _pairs_of_openings(episode: Episode, rig: Rig, arm: str, touching: np.ndarray) -> np.ndarray:
    """Return (P, 2) rows of frames between which the gripper moves most while the arm rests.

    Frames that touch something come last, as what is touched hides the fingers and moves with them. No two pairs show
    the same motion of one moment.
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
    """Return (P,) which motion of the gripper a pair shows, from 0: pairs that overlap in time show the same one."""
    order = np.argsort(pairs[:, 0], kind="stable")
    reached = np.maximum.accumulate(pairs[order, 1])
    number = np.zeros(len(pairs), np.int64)
    number[order[1:]] = np.cumsum(pairs[order[1:], 0] >= reached[:-1])
    return number


def _follows(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return how much better box `a` of the first frame agrees with box `b` of the second than either with itself."""
    if not np.isfinite([a, b]).all():
        return 0.0
    moved = _agreement(_edges(first, a), _edges(second, b))
    stayed = [_agreement(_edges(first, box), _edges(second, box)) for box in (a, b)]
    return moved - sum(stayed) / 2


def _edges(grey: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the strength of edges in a box of a frame, (PATCH, PATCH); what lies outside repeats the border."""
    height, width = grey.shape
    u0, v0, u1, v1 = np.floor(box + 0.5).astype(int)
    u = np.clip(np.arange(u0, max(u1, u0 + 1)), 0, width - 1)
    v = np.clip(np.arange(v0, max(v1, v0 + 1)), 0, height - 1)
    patch = cv2.resize(grey[v[:, None], u], (PATCH, PATCH), interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(patch, (0, 0), 1.0)
    return np.hypot(cv2.Sobel(soft, -1, 1, 0), cv2.Sobel(soft, -1, 0, 1))


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two patches, 0 where one is flat."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else 0.0


def smaller_in_contact(episode: Episode, rig: Rig, contact: dict[str, np.ndarray]) -> dict[str, tuple[float, int]]:
    """Return by sensor in what share of (touching, not touching) pairs of frames the opening is the smaller one.

    The opening is the one recorded, not held at contact; equal openings count half.

    Returns:
        By sensor on a gripper: the share, 0 to 1, and how many frames the smaller of both groups has. Sensors that
        touch always or never are left out.
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
